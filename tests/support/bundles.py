"""Bundles for tests: the built-in model in two forms, the small checkpoints and their exports, and media files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omni_edge import OmniEdge, shipped_bundle
from omni_edge.bundle.manifest import MANIFEST_NAME, Manifest
from omni_edge.bundle.reader import Bundle
from support.checkpoints import SHAPES, Case, load_reference, write_checkpoint

SPEECH_GRAPHS = ("talker", "dit", "dit_time", "bigvgan")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with another end of text, which it never writes: replies are as long as their limits."""
    manifest = Bundle(shipped_bundle()).manifest
    endless = replace(manifest, text=replace(manifest.text, eos_tokens=(manifest.text.audio_token,)))
    return _copy(endless, tmp_path_factory.mktemp("builtin") / "endless")


@pytest.fixture(scope="session")
def engine(bundle: Path) -> OmniEdge:
    """`bundle`, loaded once."""
    return _load(bundle)


@pytest.fixture(scope="session")
def mute_bundle(engine: OmniEdge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundle` without speech, as `omni-export --text-only` leaves it."""
    manifest = engine.manifest
    assert manifest.voices is not None
    entries = [manifest.graphs[role] for role in SPEECH_GRAPHS]
    spoken = {manifest.voices.file, *(entry.file for entry in entries), *(entry.data for entry in entries)}
    mute = replace(
        manifest,
        files={name: entry for name, entry in manifest.files.items() if name not in spoken},
        graphs={role: entry for role, entry in manifest.graphs.items() if role not in SPEECH_GRAPHS},
        talker_decoder=None,
        talker=None,
        talker_sampling=None,
        token2wav=None,
        voices=None,
    )
    return _copy(mute, tmp_path_factory.mktemp("builtin") / "mute")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the published layout; needs torch."""
    return write_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint", "sectionless")


@pytest.fixture(scope="session")
def exported_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of `checkpoint`; needs torch."""
    return _export(checkpoint, tmp_path_factory.mktemp("bundle") / "tiny", "fp32")


@pytest.fixture(scope="session")
def exact_engine(exported_bundle: Path) -> OmniEdge:
    """A model in float32: the same positions give the same tokens, in whatever groups they were prefilled."""
    return _load(exported_bundle)


@pytest.fixture(scope="session")
def exported_mute_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 bundle of `checkpoint`, without speech; needs torch."""
    return _export(checkpoint, tmp_path_factory.mktemp("bundle") / "mute", "int8", "--text-only")


@pytest.fixture(scope="session", params=sorted(SHAPES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each of the differently shaped checkpoints in turn; needs torch."""
    path = write_checkpoint(tmp_path_factory.mktemp(f"checkpoint-{request.param}"), request.param)
    return Case(request.param, path)


@pytest.fixture(scope="session")
def reference(case: Case) -> Any:
    """The reference model of `case`, float32; needs torch."""
    return load_reference(case.path, case.name)


@pytest.fixture(scope="session")
def fp32_bundle(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of `case`; needs torch."""
    return _export(case.path, tmp_path_factory.mktemp("bundles") / f"{case.name}-fp32", "fp32")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with question.wav, photo.jpg, drawing.png and clip.mp4."""
    import cv2

    from support.commands import picture, tone, write_video, write_wav

    folder = tmp_path_factory.mktemp("files")
    write_wav(folder / "question.wav", tone(1.3))
    cv2.imwrite(str(folder / "photo.jpg"), picture(60, 80))
    cv2.imwrite(str(folder / "drawing.png"), picture(56, 56, 3))
    write_video(folder / "clip.mp4")
    return folder


def _load(bundle: Path) -> OmniEdge:
    """The whole model: an encoder that is loaded later would take the operators of the test that needs it first."""
    engine = OmniEdge.load(bundle, threads=1)
    engine.model.audio_encoder()
    engine.model.vision_encoder()
    return engine


def _copy(manifest: Manifest, out: Path) -> Path:
    """The files of the built-in model that `manifest` names, and `manifest`."""
    out.mkdir()
    for name in manifest.files:
        shutil.copy2(shipped_bundle() / name, out / name)
    (out / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return out


def _export(checkpoint: Path, out: Path, *words: str) -> Path:
    from support.commands import run_export

    result = run_export(checkpoint, "--out", out, "--precision", *words)
    assert result.exit_code == 0, result.output
    return out
