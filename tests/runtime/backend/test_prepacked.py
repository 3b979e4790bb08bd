"""Prepared graphs: the same answers, safely ignored when they do not fit, and low memory with one stage at a time."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import AudioClip, OmniEdge, ResourceError, Sampling, TurnDone
from omni_edge.backend import kernels
from omni_edge.backend.file_lock import locked
from omni_edge.backend.machine import cache_root
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.sampling import Sampler

RATE = 16_000


def hum(seconds: float) -> np.ndarray:
    return (0.2 * np.sin(np.arange(int(seconds * RATE)) / 9)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reply(engine: OmniEdge) -> TurnDone:
    session = engine.session(seed=1, sampling=Sampling(temperature=0), talker_sampling=Sampling(temperature=0))
    session.push(AudioClip(hum(2.3), RATE))
    session.push("What was that?")
    done = list(session.reply(max_new_tokens=6, max_codec_tokens=30))[-1]
    assert isinstance(done, TurnDone)
    return done


def test_prepared_graphs_are_used_and_answer_the_same(bundle: Path, cache: Path) -> None:
    before = OmniEdge.load(bundle, threads=1)
    expected = reply(before)
    roles: list[str] = []
    prepared = PreparedGraphs.for_bundle(Bundle(bundle))
    assert prepared.graph("thinker") is None
    written = prepared.build(roles.append)
    assert roles == list(before.manifest.graphs)
    assert written == sum(path.stat().st_size for path in prepared.folder.iterdir() if path.name != "ready.json")
    path = prepared.graph("thinker")
    assert path is not None
    assert path.is_relative_to(cache)
    loaded = OmniEdge.load(bundle, threads=1)
    assert loaded.model.thinker.decoder.graph.path == path
    done = reply(loaded)
    assert (done.token_ids, done.codec_tokens) == (expected.token_ids, expected.codec_tokens)


def test_weights_that_are_read_in_place_are_not_packed(
    checkpoint: Path, compiled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni_export.bundle import ExportOptions, export_bundle
    from omni_quant.precision import Kind, Precision

    out = tmp_path / "int4"
    export_bundle(str(checkpoint), out, ExportOptions(Precision(Kind.INT4, 32), calibration="none"))
    prepared = PreparedGraphs.for_bundle(Bundle(out))
    roles: list[str] = []
    prepared.build(roles.append)
    assert set(roles) >= {"dit", "bigvgan"}
    linear = {"thinker", "talker", "audio_encoder", "vision_encoder"}
    # Where the operators are compiled for a processor that lacks what the linear layers need, onnxruntime packs them.
    assert linear.intersection(roles) == (set() if kernels.read_in_place(out / "thinker.onnx") else linear)
    drawn: list[tuple[NDArray[np.float32], int]] = []
    draw = Sampler.draw

    def recorded(sampler: Sampler, logits: NDArray[np.float32]) -> int:
        drawn.append((logits.copy(), draw(sampler, logits)))
        return drawn[-1][1]

    monkeypatch.setattr(Sampler, "draw", recorded)
    reply(OmniEdge.load(out, threads=1))
    compiled_draws = drawn.copy()
    drawn.clear()
    shutil.rmtree(prepared.folder)
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    reply(OmniEdge.load(out, threads=1))
    # Both round activations to INT8 in another order: near ties of random weights fall either way, and end this.
    for (got, token), (expected, other) in zip(compiled_draws, drawn, strict=False):
        assert 10 * np.log10(np.sum(expected**2) / np.sum((got - expected) ** 2)) > 30
        if token != other:
            assert expected[other] - expected[token] < 0.1 * np.std(expected)
            break


def test_a_damaged_cache_is_ignored(bundle: Path, cache: Path) -> None:
    prepared = PreparedGraphs.for_bundle(Bundle(bundle))
    prepared.build()
    graph = prepared.folder / "thinker.onnx"
    size = graph.stat().st_size
    graph.write_bytes(bytes(size))
    engine = OmniEdge.load(bundle, threads=1)
    assert engine.model.thinker.decoder.graph.path == bundle / "thinker.onnx"
    os.truncate(graph, size - 1)
    assert prepared.graph("talker") is None


def test_another_machine_or_version_prepares_anew(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = PreparedGraphs.for_bundle(Bundle(bundle))
    here.build()
    monkeypatch.setattr("omni_edge.backend.prepacked.runtime_version", lambda: "0.0")
    other = PreparedGraphs.for_bundle(Bundle(bundle))
    assert other.graph("thinker") is None
    other.build()
    assert other.graph("thinker") is not None
    assert [path.name for path in cache.iterdir()] == [other.folder.name]


def test_two_processes_prepare_once(bundle: Path, cache: Path) -> None:
    """The second one waits for the first, and takes what that has made."""
    prepared = PreparedGraphs.for_bundle(Bundle(bundle))
    waiting, packed = threading.Event(), list[str]()
    cache.mkdir()
    with ThreadPoolExecutor(1) as pool:
        lock = cache / f"{prepared.folder.name.partition('-')[0]}.lock"
        with locked(lock, lambda _: pytest.fail("nobody holds it")):
            second = pool.submit(prepared.build, packed.append, lambda _: waiting.set())
            assert waiting.wait(60)
            prepared.folder.mkdir()
            (prepared.folder / "thinker.onnx").write_bytes(b"packed")
            (prepared.folder / "ready.json").write_text('{"thinker.onnx": 6}')
        assert second.result() == len("packed")
    assert packed == []
    assert [path.name for path in cache.iterdir()] == [prepared.folder.name]


def test_an_interrupted_preparation_leaves_nothing(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, out: Path, target: str | None) -> None:
        out.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("omni_edge.backend.prepacked.prepare_graph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PreparedGraphs.for_bundle(Bundle(bundle)).build()
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = os.statvfs(bundle)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": usage.f_bsize})())
    with pytest.raises(ResourceError, match="Make room, or set OMNI_EDGE_CACHE"):
        PreparedGraphs.for_bundle(Bundle(bundle)).build()
    assert list(cache.iterdir()) == []


def test_the_cache_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMNI_EDGE_CACHE", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "omni-edge"
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_low_memory_keeps_one_stage_and_answers_the_same(bundle: Path, engine: OmniEdge) -> None:
    small = OmniEdge.load(bundle, threads=1, low_memory=True)
    assert small.model.lazy_parts.loaded == []
    expected, actual = reply(engine), reply(small)
    assert (expected.token_ids, expected.codec_tokens) == (actual.token_ids, actual.codec_tokens)
    assert small.model.lazy_parts.loaded == ["vocoder"]
    session = small.session(speech=False)
    session.push(AudioClip(hum(1), RATE))
    assert small.model.lazy_parts.loaded == ["audio_encoder"]
