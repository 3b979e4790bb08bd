"""The memory bandwidth that bounds decoding: what one token's weights cost at the least.

    python benchmarks/bandwidth.py                                       # 2 GB, for 1 and 2 threads
    python benchmarks/bandwidth.py --bundle /tmp/b3b                     # and what it allows that bundle's decoders

Two ways of reading memory from one end to the other: numpy's sum of an array, one slice per thread, and the operator
that decoding consists of, an INT4 matrix (blocks of 128) times a vector, which is far larger than any cache.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from omni_edge.decoder import KVCache
from omni_edge.footprint import graph_bytes
from omni_edge.manifest import Bundle

BLOCK = 128
COLUMNS = 2048
GIGABYTE = 1e9


def sum_array(nbytes: int, threads: int) -> tuple[Callable[[], object], int]:
    """Sums an array in as many slices as there are threads; returns the call and the bytes that it reads."""
    slices = np.array_split(np.ones(nbytes // 8, np.int64), threads)

    def read() -> None:
        running = [threading.Thread(target=part.sum) for part in slices]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return read, sum(part.nbytes for part in slices)


def multiply(nbytes: int, threads: int) -> tuple[Callable[[], object], int]:
    """An INT4 matrix times a vector, in onnxruntime."""
    rows = nbytes // (COLUMNS // 2 + COLUMNS // BLOCK * 4)
    weights = {
        "B": np.full((rows, COLUMNS // BLOCK, BLOCK // 2), 0x97, np.uint8),
        "scales": np.full((rows, COLUMNS // BLOCK), 0.01, np.float32),
    }
    node = helper.make_node(
        "MatMulNBits", ["A", "B", "scales"], ["Y"], domain="com.microsoft",
        K=COLUMNS, N=rows, bits=4, block_size=BLOCK, accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "matrix",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, [1, COLUMNS])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, rows])],
    )
    kinds = {"B": TensorProto.UINT8, "scales": TensorProto.FLOAT}
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    for name, array in weights.items():
        tensor = TensorProto(name=name, data_type=kinds[name], dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        graph.initializer.append(tensor)
    options.add_external_initializers(list(weights), [ort.OrtValue.ortvalue_from_numpy(a) for a in weights.values()])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )
    session = ort.InferenceSession(model.SerializeToString(), options)
    feeds = {"A": np.ones((1, COLUMNS), np.float32)}
    return lambda: session.run(None, feeds), sum(array.nbytes for array in weights.values())


def rates(call: Callable[[], object], nbytes: int, runs: int) -> list[float]:
    """GB/s of each run, after one that does not count."""
    call()
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        found.append(nbytes / (time.perf_counter() - began) / GIGABYTE)
    return found


def allowed(path: Path, contexts: list[int], bandwidth: float) -> list[str]:
    """What the bytes of a token and `bandwidth` (GB/s) allow each decoder of a bundle, as rows of a table."""
    manifest = Bundle(path).manifest
    decoders = {"thinker": manifest.thinker, "talker": manifest.talker_decoder}
    rows = []
    for role, section in decoders.items():
        for context in contexts if section else []:
            weights = graph_bytes(manifest, role) / GIGABYTE
            cache = (KVCache.allocate(section, 2).nbytes - KVCache.allocate(section, 1).nbytes) * context / GIGABYTE
            most = bandwidth / (weights + cache)
            rows.append(f"| {role} at {context} | {weights:.3f} | {cache:.3f} | {most:.1f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="of the array and of the matrix")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--bundle", type=Path, help="a bundle whose decoders are set against the bandwidth")
    parser.add_argument("--contexts", type=int, nargs="*", default=[128, 2048])
    arguments = parser.parse_args()
    print("| reading | threads | GB/s (median) | range |\n| --- | --- | --- | --- |")
    best = 0.0
    for name, make in (("sum of an array (numpy)", sum_array), ("INT4 matrix times vector", multiply)):
        for threads in arguments.threads:
            found = rates(*make(arguments.megabytes * 1_000_000, threads), arguments.runs)
            best = max(best, median(found))
            print(f"| {name} | {threads} | {median(found):.1f} | {min(found):.1f} - {max(found):.1f} |", flush=True)
    if arguments.bundle:
        print(f"\n| at {best:.1f} GB/s | weights GB | KV cache GB | tokens/s at most |\n| --- | --- | --- | --- |")
        print("\n".join(allowed(arguments.bundle, arguments.contexts, best)))


if __name__ == "__main__":
    main()
