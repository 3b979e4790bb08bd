"""Compares the linear layers for ARM64 with i8mm (`smmla`) bit for bit with those for dot products, under emulation.

    python tests/arm/linear.py

Sums of products of bytes are exact, so both paths must give the same floats. Needs the commands
aarch64-linux-gnu-gcc and qemu-aarch64-static; takes half a minute. .ci/run leaves it out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from omni_edge.backend.kernels import compiler, prebuilt

HERE = Path(__file__).resolve().parent
KERNELS = Path(prebuilt.__file__).parent


def main() -> int:
    """Compares; the exit code is 0 where all results are equal."""
    classes = {entry.name: entry for entry in prebuilt.CLASSES}
    results = {name: results_of(classes[name]) for name in ("dotprod", "i8mm")}
    dotprod, i8mm = (np.frombuffer(values, "<u4") for values in results.values())
    equal = dotprod.size == i8mm.size > 0 and bool(np.isfinite(dotprod.view("<f4")).all())
    differ = int((dotprod != i8mm).sum()) if equal else -1
    print(f"arm: linear layers, {dotprod.size} results: {'all equal' if differ == 0 else f'{differ} DIFFER'}")
    return 0 if differ == 0 else 1


def results_of(target: prebuilt.ProcessorClass) -> bytes:
    """What the program writes that is compiled for a class of processors."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "linear"
        sources = [HERE / "linear.c", *sorted(KERNELS.glob("*.c"))]
        command = ["aarch64-linux-gnu-gcc", *compiler.FLAGS, *target.flags, "-static", "-I", KERNELS, *sources]
        subprocess.run([*map(str, command), "-o", program, "-lm"], check=True)
        smmla = (
            "smmla"
            in subprocess.run(
                ["aarch64-linux-gnu-objdump", "-d", program], check=True, capture_output=True, text=True
            ).stdout
        )
        if smmla != (target.name == "i8mm"):
            sys.exit(f"arm: the program for {target.name} {'has' if smmla else 'lacks'} smmla")
        return subprocess.run(["qemu-aarch64-static", "-cpu", "max", program], check=True, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(main())
