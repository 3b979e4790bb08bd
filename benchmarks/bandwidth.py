"""The memory bandwidth that bounds decoding, and how much of it a bundle's decoding uses.

    python benchmarks/bandwidth.py                                       # 2 GB, for 1 and 2 threads
    python benchmarks/bandwidth.py --bundle /tmp/omni-3b-mute            # and decoding, by turns with reading

Ways of reading memory from one end to the other, a slice per thread: numpy's sum of an array; a loop in C that does
nothing else, compiled for this processor where there is a C compiler; and an INT4 matrix (blocks of 128), far
larger than any cache, times a vector in onnxruntime.

With a bundle, each round reads in all these ways and decodes at each context, through the public API. A token's bytes
are the Thinker's weights and the keys and values of its context; what they make per second, over the best reading of
the same round, is the share of the bandwidth that decoding uses.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from omni_edge import OmniEdge
from omni_edge.backend import kernels
from omni_edge.backend.kernels.compiler import find_compiler
from omni_edge.backend.machine import machine
from omni_edge.backend.onnx_runtime import ort
from omni_edge.bench.decoders import ThinkerProbe
from omni_edge.bundle.manifest import graph_bytes
from omni_edge.decoders.decoder import KVCache

BLOCK = 128
COLUMNS = 2048
GIGABYTE = 1e9
STEPS = 16
# A cache line; two slices share none.
LINE_BYTES, LINE_WORDS = 64, 8
CAPACITY = 4096
# Reading from several places by turns is faster than reading from one.
LOOP = """
#include <stddef.h>
#include <stdint.h>
enum { PLACES = 8, LINE = 8, AHEAD = 128 };
__attribute__((visibility("default")))
uint64_t read_words(const uint64_t *words, size_t count) {
    const size_t each = count / PLACES / LINE * LINE;
    uint64_t bits = 0;
    for (size_t i = 0; i < each; i += LINE)
        for (int place = 0; place < PLACES; place++) {
            const uint64_t *line = words + place * each + i;
            __builtin_prefetch(line + AHEAD, 0, 2);
            for (int k = 0; k < LINE; k++) bits |= line[k];
        }
    return bits;
}
"""

Reading = tuple[Callable[[], object], int]


@cache
def words(count: int) -> NDArray[np.int64]:
    """An array that all readings share."""
    return np.ones(count, np.int64)


def in_slices(nbytes: int, threads: int, read: Callable[[NDArray[np.int64]], object]) -> Reading:
    """Runs `read` on a slice of an array in each thread; returns the call and the number of bytes."""
    lines = words(nbytes // LINE_BYTES * LINE_WORDS).reshape(-1, LINE_WORDS)
    slices = [part.ravel() for part in np.array_split(lines, threads)]

    def call() -> None:
        running = [threading.Thread(target=read, args=(part,)) for part in slices]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return call, sum(part.nbytes for part in slices)


def sum_array(nbytes: int, threads: int) -> Reading:
    """The sum of an array by numpy."""
    return in_slices(nbytes, threads, np.sum)


def loop(nbytes: int, threads: int) -> Reading | None:
    """A loop in C; None without a compiler."""
    command = find_compiler()
    if command is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "loop.c"), Path(folder, "loop.so")
        source.write_text(LOOP)
        kernels.compile_library(command, [source], library)
        read_words = ctypes.CDLL(str(library)).read_words
    read_words.argtypes, read_words.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
    return in_slices(nbytes, threads, lambda part: read_words(part.ctypes.data, part.size))


def multiply(nbytes: int, threads: int) -> Reading:
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


WAYS: dict[str, Callable[[int, int], Reading | None]] = {
    "sum of an array (numpy)": sum_array,
    "loop over an array (C)": loop,
    "INT4 matrix times vector (onnxruntime)": multiply,
}


def rate(call: Callable[[], object], nbytes: int) -> float:
    """GB/s of one run."""
    began = time.perf_counter()
    call()
    return nbytes / (time.perf_counter() - began) / GIGABYTE


class Decoding:
    """A bundle's Thinker, and the bytes that a token reads."""

    def __init__(self, bundle: Path, threads: int) -> None:
        engine = OmniEdge.load(bundle, threads=threads)
        section = engine.manifest.thinker
        self._probe = ThinkerProbe(engine, CAPACITY)
        self._weights = graph_bytes(engine.manifest, "thinker")
        self._position = KVCache.allocate(section, 2).nbytes - KVCache.allocate(section, 1).nbytes

    def rate(self, context: int) -> float:
        """GB/s of decoding at a context."""
        seconds = sum(ended - began for began, ended in self._probe.decode(context, STEPS))
        return (self._weights + context * self._position) * STEPS / seconds / GIGABYTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the array and of the matrix")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--bundle", type=Path, help="also measure the decoding of this bundle")
    parser.add_argument("--contexts", type=int, nargs="*", default=[128, 2048])
    parser.add_argument("--json", type=Path, help="append every run to this file, as a line of JSON")
    arguments = parser.parse_args()
    nbytes, threads = arguments.megabytes * 1_000_000, max(arguments.threads)
    found: dict[tuple[str, int], list[float]] = {}
    readings = {
        (name, count): reading
        for name, make in WAYS.items()
        for count in arguments.threads
        if (reading := make(nbytes, count))
    }
    decoding = Decoding(arguments.bundle, threads) if arguments.bundle else None
    for number in range(arguments.runs + 1):
        line: dict[tuple[str, int], float] = {key: rate(*reading) for key, reading in readings.items()}
        for context in arguments.contexts if decoding else []:
            line[f"decoding at {context}", threads] = decoding.rate(context)
        for key, value in line.items() if number else []:  # the first round warms up
            found.setdefault(key, []).append(value)
    best = [max(runs) for runs in zip(*(found[key] for key in readings), strict=True)]
    print("| reading | threads | GB/s (median) | range | of the best reading |\n| --- | --- | --- | --- | --- |")
    for (name, count), runs in found.items():
        share = median(run / most for run, most in zip(runs, best, strict=True))
        print(f"| {name} | {count} | {median(runs):.1f} | {min(runs):.1f} - {max(runs):.1f} | {share:.0%} |")
    if arguments.json:
        record = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": asdict(machine()),
            "readings": [
                {"reading": name, "threads": count, "gigabytes_per_second": runs}
                for (name, count), runs in found.items()
            ],
        }
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
