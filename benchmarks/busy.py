"""Decoding beside busy programs: `omni-edge bench` with none, one and two of them, by turns.

    python benchmarks/busy.py BUNDLE [--stage talker] [--rounds 3] [--busy 0 1 2] [--out busy.jsonl]

A busy program is an endless loop in a process of its own. Each line of stdout is one run of the benchmark: busy
programs, and the median of each rate. The end on stderr is each rate's share of that beside the fewest busy programs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

_RATE = "tok/s"
_LOOP = "while True: pass"


@contextlib.contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Runs `count` endless loops meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def rates(bundle: Path, stages: list[str], runs: int, context: int) -> dict[str, float]:
    """Median rates of decoding, tokens/s, by the figures' names."""
    program = "from omni_cli.app import main; main()"
    command = [sys.executable, "-c", program, "bench", "-m", str(bundle), "--json"]
    command += ["--runs", str(runs), "--at", str(context), "--prefill", str(context)]
    for stage in stages:
        command += ["--stage", stage]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)["figures"]
    return {
        f"{figure['stage']} {figure['name']}": figure["median"]
        for figure in figures
        if figure["unit"] == _RATE and "prefill" not in figure["name"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--stage", action="append", choices=["thinker", "talker"], help="default: talker")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="busy programs, by turns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each rate in a round")
    parser.add_argument("--at", type=int, default=128, help="positions of the context")
    parser.add_argument("--out", type=Path, help="a file to which the lines are appended as well")
    options = parser.parse_args()
    taken: dict[str, dict[int, list[float]]] = {}
    for round_ in range(options.rounds):
        for count in options.busy:
            with busy_programs(count):
                found = rates(options.bundle, options.stage or ["talker"], options.runs, options.at)
            for name, rate in found.items():
                taken.setdefault(name, {}).setdefault(count, []).append(rate)
            line = json.dumps({"round": round_, "busy": count, "rates": found})
            print(line, flush=True)
            if options.out:
                with options.out.open("a") as out:
                    out.write(line + "\n")
    for name, by_count in taken.items():
        quiet = median(by_count[min(by_count)])
        for count, values in by_count.items():
            print(f"{name}, {count} busy: {median(values):.1f}, {median(values) / quiet:.0%}", file=sys.stderr)


if __name__ == "__main__":
    main()
