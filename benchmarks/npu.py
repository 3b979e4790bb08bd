"""A bundle's static graphs and the NPU's compiler: time, memory and size; and the simulator's results beside the CPU's.

    pip install '.[qnn]'
    omni-export CHECKPOINT --out BUNDLE --target qnn-htp:v75
    python benchmarks/npu.py BUNDLE thinker.decode.1
    python benchmarks/npu.py BUNDLE thinker.head --compare

A row of JSON is added to `--out` for each graph. With `--compare` both run once on the same random values; the result
is a signal-to-noise ratio for each output. The simulator takes minutes for a part of the 3B, and says nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from command_line import published_command
from numpy.typing import NDArray

from omni_edge.backend import qnn
from omni_edge.backend.graph import Graph, prepare_graph, runtime_version
from omni_edge.backend.machine import machine, memory
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.static_graphs import attention_mask
from omni_export.evaluate.metrics import snr

Array = NDArray[np.float32]


def values(graph: Graph, seed: int) -> dict[str, Array]:
    """Random values for the inputs of a static graph; half of the past is masked."""
    rng = np.random.default_rng(seed)
    feeds = {name: rng.standard_normal(spec.shape, np.float32) for name, spec in graph.inputs.items()}  # type: ignore[arg-type]
    if "mask" in feeds:
        length, total = feeds["mask"].shape
        mask, angles = attention_mask(length, total - length, (total - length) // 2), feeds["cos"]
        feeds |= {"mask": mask, "cos": np.cos(angles), "sin": np.sin(angles)}
    return feeds


def measure(bundle: Bundle, name: str, *, compare: bool) -> dict[str, object]:
    """The row of one graph."""
    static = bundle.manifest.static
    if static is None or f"{name}.onnx" not in static.npu_files:
        raise SystemExit(f"{bundle.path} has no static graph {name}; omni-edge info lists them.")
    source = bundle.file(f"{name}.onnx")
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / source.name
        began = time.perf_counter()
        prepare_graph(source, compiled, static.target)
        row: dict[str, object] = {
            "graph": name,
            "target": static.target,
            "context": static.context,
            "compile_seconds": round(time.perf_counter() - began, 1),
            "compiled_bytes": sum(path.stat().st_size for path in Path(folder).iterdir()),
            "peak_memory_bytes": memory().peak,
        }
        if compare:
            own, npu = Graph(source), Graph(compiled, target=static.target)
            feeds = values(own, 0)
            results = zip(own.outputs, npu.run(feeds), own.run(feeds), strict=True)
            row["snr_db"] = {output: round(snr(expected, actual), 1) for output, actual, expected in results}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("graphs", nargs="+", help="names of files without .onnx; one in a process for its peak memory")
    parser.add_argument("--compare", action="store_true", help="run them in the simulator and on the CPU")
    parser.add_argument("--out", type=Path, help="append here; default: stdout")
    arguments = parser.parse_args()
    bundle = Bundle(arguments.bundle)
    for name in arguments.graphs:
        row = {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": published_command(sys.argv),
            "verified": "in the vendor's simulator on x86, not on a phone",
            "bundle": bundle.path.resolve().name,
            "versions": {"onnxruntime": runtime_version(), "onnxruntime-qnn": qnn.version()},
            "processor": machine().processor,
            **measure(bundle, name, compare=arguments.compare),
        }
        text = json.dumps(row)
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
