"""What is computed when, in the graphs that the export writes: values are used soon, so that few are in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from omni_edge.backend.graph import Graph
from omni_edge.backend.onnx_runtime import ort
from omni_export.graph.builder import GraphBuilder


def order(graph: Path, feeds: dict[str, Any], folder: Path) -> list[str]:
    """The names of the nodes in the order in which onnxruntime computes them."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["name"].removesuffix("_kernel_time") for event in events if event["name"].endswith("_kernel_time")]


def test_what_is_read_off_a_layer_is_read_before_the_next_one(tmp_path: Path) -> None:
    g = GraphBuilder("chain")
    x = g.input("x", [1, 2, "time"])
    for layer in range(5):
        x = g.op("Cos", [x], f"/{layer}")
        tail = g.op("Slice", [x, g.const([-1]), g.const([9]), g.const([2])], f"/{layer}/tail")
        g.output(g.op("Concat", [tail, tail], f"/{layer}/state", axis=2), f"state.{layer}", [1, 2, 2])
    g.output(x, "y", [1, 2, "time"])
    saved = g.save(tmp_path)
    assert saved.nodes == 3 * 5 + 1  # `y` has another name, because a state is read off it as well
    names = order(saved.graph, {"x": np.zeros((1, 2, 9), np.float32)}, tmp_path)
    assert [name for name in names if "Identity" not in name] == [
        f"/{layer}{node}" for layer in range(5) for node in ("/Cos", "/tail/Slice", "/state/Concat")
    ]
    outputs = Graph(saved.graph).run({"x": np.zeros((1, 2, 9), np.float32)}, ["y", "state.1"])
    np.testing.assert_allclose(outputs[0][0, 0, 0], np.cos(np.cos(np.cos(np.cos(1)))), rtol=1e-5)
    np.testing.assert_allclose(outputs[1], np.full((1, 2, 2), np.cos(1)), rtol=1e-6)
