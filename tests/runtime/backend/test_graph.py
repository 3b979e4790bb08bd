"""Sessions of onnxruntime: exact products of bytes, errors without lines on stderr."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_edge import OmniEdge, shipped_bundle
from omni_edge.backend import graph
from omni_edge.backend.graph import Graph
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.errors import BundleError
from omni_edge.vocoder.bigvgan import whole_utterance


def test_the_built_in_vocoder_is_loaded_with_exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    real = graph.ort.InferenceSession

    def session(path: str, options: Any, **rest: Any) -> Any:
        entries = "session.x64quantprecision", "mlas.disable_kleidiai"
        asked.append((options.get_session_config_entry(entries[0]), options.get_session_config_entry(entries[1])))
        return real(path, options, **rest)

    monkeypatch.setattr(graph.ort, "InferenceSession", session)
    for role in ("dit", "bigvgan"):
        Graph(shipped_bundle() / f"{role}.onnx", threads=1)
    assert asked == [("1", "1")] * 2


def test_a_bundle_whose_products_cannot_be_exact_is_loaded_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = graph.ort.InferenceSession

    def session(path: str, options: Any, **rest: Any) -> Any:
        asked.append(options.get_session_config_entry("session.x64quantprecision"))
        if asked[-1] == "1":
            raise RuntimeError("Attempt to replace the existing tensor")
        return real(path, options, **rest)

    monkeypatch.setattr(graph.ort, "InferenceSession", session)
    loaded = Graph(shipped_bundle() / "bigvgan.onnx", threads=1)
    assert asked == ["1", "0"]
    mel = np.zeros((4, loaded.inputs["mel"].shape[1] or 0), np.float32)
    assert np.isfinite(loaded.run(whole_utterance(loaded, mel))[0]).all()


def test_a_file_that_is_no_graph_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"broken\.onnx cannot be loaded"):
        Graph(path, threads=1)
    assert capfd.readouterr() == ("", "")


def test_a_run_that_fails_says_why_and_does_not_blame_memory(capfd: pytest.CaptureFixture[str]) -> None:
    embedding = OmniEdge.load(threads=1).model.thinker._embedding
    with pytest.raises(BundleError, match=r"Running token_embedding\.onnx failed.*omni-edge info"):
        embedding.run({"ids": np.zeros((1, 1), np.float32)})
    assert capfd.readouterr().err == ""


def test_a_manifest_with_more_layers_than_the_graph_is_a_damaged_bundle() -> None:
    decoder = OmniEdge.load(threads=1).model.thinker.decoder
    section = replace(decoder.section, num_layers=decoder.section.num_layers + 1)
    embeds, positions = np.zeros((1, 1, section.hidden_size), np.float32), np.zeros((3, 1), np.int64)
    with pytest.raises(BundleError, match=r"Running thinker\.onnx failed"):
        Decoder(decoder.graph, section).step({"embeds": embeds}, positions, KVCache.allocate(section, 4))
