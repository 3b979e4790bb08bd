"""How far each graph is from the reference, by precision: the table of docs/accuracy.md.

    python benchmarks/accuracy.py                       # the tests' three random checkpoints
    python benchmarks/accuracy.py CHECKPOINT            # a real one

Each figure is the signal-to-noise ratio in dB that `omni-export verify` finds; over several checkpoints the lowest.
Compiled operators take part where `omni-edge prepare` has made them. `--results` adds the figures to a file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from omni_edge.backend import kernels
from omni_edge.backend.machine import machine
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
    parser.add_argument("--results", type=Path, help="JSON lines that are added to: how, then a row for each graph")
    arguments = parser.parse_args()
    checkpoint: Path | None = arguments.checkpoint
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
        rows = [
            {"graph": role, **{column: min(result[role] for result in results[column]) for column in COLUMNS}}
            for role in ROLES
        ]
        for row in rows:
            print(f"| {row['graph']} |", " | ".join(f"{row[column]:.0f}" for column in COLUMNS), "|")
    if arguments.results:
        head = {
            "date": datetime.date.today().isoformat(),
            "checkpoints": [path.name for path in checkpoints],
            "compiled": kernels.compiled() is not None,
            "machine": asdict(machine()),
        }
        with arguments.results.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in [head, *rows])


if __name__ == "__main__":
    main()
