"""`bundle.json` is read strictly, and a bundle that was tampered with or damaged is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_edge import BundleError, OmniEdge
from omni_edge.bundle.manifest import MANIFEST_NAME, Manifest, parse
from omni_edge.bundle.reader import Bundle


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_what_is_written_is_what_is_read(bundle: Path) -> None:
    manifest = Bundle(bundle).manifest
    assert parse(Manifest, json.loads(manifest.to_json()), "bundle") == manifest
    assert (bundle / MANIFEST_NAME).read_text() == manifest.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="zip"), "not the manifest of an omni-edge bundle"),
        (lambda m: m.update(format_version=2), "format version 2; this version reads 1"),
        (lambda m: m.update(extra=1), r"unknown fields \['extra'\]"),
        (lambda m: m["audio"].pop("n_mels"), "bundle.audio lacks 'n_mels'"),
        (lambda m: m["audio"].update(n_mels="many"), "bundle.audio.n_mels must be int, not 'many'"),
        (lambda m: m["audio"].update(n_mels=True), "bundle.audio.n_mels must be int"),
        (lambda m: m["thinker"].update(mrope_section=[1, 2]), "mrope_section must have 3 items"),
        (lambda m: m.update(graphs=3), "bundle.graphs must be"),
        (lambda m: m["files"].update({"../outside": m["files"]["tokenizer.json"]}), "leads out of the bundle"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["tokenizer.json"]}), "leads out of the bundle"),
        (lambda m: m["graphs"]["thinker"].update(file="../thinker.onnx"), "leads out of the bundle"),
        (lambda m: m["graphs"]["thinker"].update(file="other.onnx"), "without listing it under 'files'"),
        (lambda m: m["graphs"].pop("thinker"), "no 'thinker' graph"),
        (lambda m: m.update(token2wav=None), "needs talker_decoder and token2wav"),
        (lambda m: m.update(voices=None), "speech needs talker_decoder and token2wav, talker, talker_sampling and"),
        (lambda m: m["thinker"].update(num_layers=0), r"bundle\.thinker\.num_layers has a value that cannot be"),
        (lambda m: m["thinker"].update(num_layers=10**9), r"bundle\.thinker\.num_layers has a value that cannot be"),
        (lambda m: m["thinker"].update(cache_dtype="int3"), r"bundle\.thinker\.cache_dtype"),
        (lambda m: m["thinker"].update(rope_theta=float("inf")), r"bundle\.thinker\.rope_theta"),
        (lambda m: m["text"].update(eos_tokens=[10**6]), r"bundle\.text\.eos_tokens"),
        (lambda m: m["text"].update(roles={}), r"bundle\.text\.roles"),
        (lambda m: m["vision"].update(std=[0.0, 1.0, 1.0]), r"bundle\.vision\.std"),
        (lambda m: m["sampling"].update(top_p=1.5), r"bundle\.sampling\.top_p"),
        (lambda m: m["voices"].update(default="Bob"), r"bundle\.voices\.default"),
        (lambda m: m["graphs"]["dit"].update(data=""), "without listing it under 'files'"),
        (lambda m: m["text"].update(tokenizer="tokens.json"), "without listing it under 'files'"),
        (lambda m: m["graphs"]["thinker"]["inputs"].update(past_key="past.{x}"), r"graphs\.thinker\.inputs\.past_key"),
    ],
)
def test_a_wrong_manifest_is_refused(copy: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=message):
        OmniEdge.load(copy)


@pytest.mark.parametrize("text", ["{", '{"generator": "\\udce4"}'])
def test_broken_json_is_refused(copy: Path, text: str) -> None:
    (copy / MANIFEST_NAME).write_text(text)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle(copy)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no bundle\.json\. Make one with 'omni-export"):
        OmniEdge.load(tmp_path)
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        OmniEdge.load(tmp_path / "missing")


def test_one_flipped_byte_in_a_small_file_is_found_at_load(copy: Path) -> None:
    flip(copy / "thinker.onnx")
    with pytest.raises(BundleError, match=r"thinker\.onnx is damaged: its SHA-256"):
        OmniEdge.load(copy)


def test_one_flipped_byte_in_the_weights_is_found_by_verify(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_edge.bundle.reader._HASH_AT_LOAD_BYTES", 1000)
    flip(copy / "thinker.onnx.data")
    Bundle(copy)
    with pytest.raises(BundleError, match=r"thinker\.onnx\.data is damaged"):
        Bundle(copy, verify=True)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_truncated_and_a_missing_file(copy: Path) -> None:
    path = copy / "thinker.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"the manifest says \d+"):
        Bundle(copy)
    path.unlink()
    with pytest.raises(BundleError, match=r"lacks thinker\.onnx\.data"):
        Bundle(copy)


def hub_layout(bundle: Path, root: Path, below: str = "") -> Path:
    """The bundle as the hub's cache keeps it: each file a link into the one folder `blobs`."""
    blobs, snapshot = root / "blobs", root / "snapshots" / "0123abc" / below
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(bundle.iterdir())):
        shutil.copy(path, blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(os.path.relpath(blobs / f"{number:064x}", snapshot))
    return snapshot


@pytest.mark.parametrize("below", ["", "int4"])
def test_a_bundle_in_the_hubs_cache_loads(bundle: Path, tmp_path: Path, below: str) -> None:
    snapshot = hub_layout(bundle, tmp_path / "models--someone--omni", below)
    session = OmniEdge.load(snapshot, threads=1, verify=True).session(seed=0)
    session.push("Hi")
    assert list(session.reply(max_new_tokens=2, max_codec_tokens=4))
    flip((snapshot / "thinker.onnx.data").resolve())
    with pytest.raises(BundleError, match=r"thinker\.onnx\.data is damaged"):
        Bundle(snapshot, verify=True)


def test_other_links_out_of_a_snapshot_stay_refused(bundle: Path, tmp_path: Path) -> None:
    snapshot = hub_layout(bundle, tmp_path / "models--someone--omni")
    for elsewhere in (tmp_path / "tokenizer.json", tmp_path / "models--other" / "blobs" / "tokenizer.json"):
        elsewhere.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle / "tokenizer.json", elsewhere)
        (snapshot / "tokenizer.json").unlink()
        (snapshot / "tokenizer.json").symlink_to(elsewhere)
        with pytest.raises(BundleError, match="outside of the bundle"):
            Bundle(snapshot)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer\.json (cannot be|links)|lacks tokenizer\.json"):
        Bundle(snapshot)


@pytest.mark.parametrize("name", [MANIFEST_NAME, "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_a_bundles_fault(
    bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def forbidden(self: Path, *words: Any, **named: Any) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *words, **named)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(BundleError, match=rf"{name} cannot be read \(Permission denied\)"):
        Bundle(bundle)


def test_a_folder_in_the_place_of_a_file(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").mkdir()
    with pytest.raises(BundleError, match=r"lacks tokenizer\.json"):
        Bundle(copy)


def test_a_manifest_nested_without_end_is_refused(copy: Path) -> None:
    (copy / MANIFEST_NAME).write_text('{"format":' + "[" * 100_000)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle(copy)


def test_a_link_out_of_the_bundle_is_refused(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "tokenizer.json"
    (copy / "tokenizer.json").rename(outside)
    (copy / "tokenizer.json").symlink_to(outside)
    with pytest.raises(BundleError, match="outside of the bundle"):
        Bundle(copy)
