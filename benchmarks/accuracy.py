"""How far each graph is from the reference, by precision: the table of docs/accuracy.md.

    python benchmarks/accuracy.py                       # the tests' three random checkpoints
    python benchmarks/accuracy.py CHECKPOINT            # a real one

Each figure is the signal-to-noise ratio in dB that `omni-export verify` finds; over several checkpoints the lowest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from omni_export.bundle import ROLES, ExportOptions, export_bundle
from omni_export.verify.verify import verify_bundle
from omni_quant.precision import Kind, Precision

COLUMNS = {
    "fp32": Precision(),
    "INT8 g32": Precision(Kind.INT8, 32),
    "INT8 g128": Precision(Kind.INT8, 128),
    "INT4 g32": Precision(Kind.INT4, 32),
    "INT4 g128": Precision(Kind.INT4, 128),
}


def measure(checkpoint: Path, precision: Precision, folder: Path) -> dict[str, float]:
    """Role -> SNR in dB."""
    bundle = folder / "bundle"
    export_bundle(str(checkpoint), bundle, ExportOptions(precision, {"bigvgan": precision}, force=True))
    return {row.graph: row.snr for row in verify_bundle(bundle, checkpoint)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    checkpoint: Path | None = parser.parse_args().checkpoint
    with TemporaryDirectory() as name:
        folder = Path(name)
        if checkpoint is not None:
            checkpoints = [checkpoint]
        else:
            root = Path(__file__).parents[1]
            sys.path[:0] = [str(root), str(root / "tests")]
            from support.checkpoints import SHAPES, write_checkpoint  # noqa: PLC0415  (the tests' own, found by the line above)

            checkpoints = [write_checkpoint(folder / shape, shape) for shape in SHAPES]
        print("| graph |", " | ".join(COLUMNS), "|")
        print("| --- |" + " --- |" * len(COLUMNS))
        results = {
            column: [measure(path, precision, folder) for path in checkpoints] for column, precision in COLUMNS.items()
        }
        for role in ROLES:
            cells = [f"{min(result[role] for result in results[column]):.0f}" for column in COLUMNS]
            print(f"| {role} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
