"""Measures a live conversation: a microphone and a loudspeaker without devices, everything else as it is.

    python benchmarks/live.py wait       [--model BUNDLE] [--seconds 2 5 15 40] [--runs 10]
    python benchmarks/live.py interrupt  [--model BUNDLE] [--runs 10] [--rk4]
    python benchmarks/live.py echo-room  [--minutes 30] [--echo apm half none]
    python benchmarks/live.py babble     [--minutes 30] [--decibels -30] [--talkers 8]
    python benchmarks/live.py hour       [--minutes 60] [--context 2048]
    python benchmarks/live.py record     [--out FOLDER]

`wait` and `interrupt` run in real time: frames of 20 ms are pushed when their last sample was recorded, and the
loudspeaker plays at 1x. t0 is the last sample of the speech, so the silence that ends a turn is part of every figure.
The others run on a clock that moves by the processor time of one core while the model computes, and jumps where it
does not. No run is dropped. `--results FILE.jsonl` appends every run, and skips those that are there already.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import live_record
import numpy as np
from command_line import published_command
from live_hours import Tally, babble, echo_room, hour
from live_latency import measure_interruption, measure_wait
from live_wait_picture import wait_svg

from omni_edge import OmniEdge, SolverSettings, VoiceDetector
from omni_edge.backend.machine import machine
from omni_edge.bench.figures import versions

_MINUTE = 60.0
_MEGABYTE = 1e6


class Results:
    """The JSON lines of a table: those of earlier calls too.

    Args:
        path: the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        old = path.read_text("utf-8").splitlines() if path is not None and path.exists() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in old]
        self._append({"command": published_command(sys.argv), "machine": asdict(machine()), "versions": versions()})

    def add(self, line: dict[str, Any]) -> None:
        """Keeps a run."""
        self.lines.append(line)
        self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def figure(values: Sequence[float | None], pick: Any = np.median, unit: float = 1.0, digits: int = 2) -> str:
    """A cell; what never came is not part of it."""
    present = [value * unit for value in values if value is not None]
    return f"{pick(present):.{digits}f}" if present else "-"


def table(*rows: Sequence[object]) -> None:
    """Prints a table; the first row is its head."""
    head, *rest = rows
    for row in (head, ["---"] * len(head), *rest):
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def wait(options: argparse.Namespace) -> None:
    """The wait of a user for the first sound."""
    engine, detector = OmniEdge.load(options.model, threads=options.threads), VoiceDetector()
    results, began = Results(options.results), time.monotonic()
    limits = options.max_new_tokens, options.max_codec_tokens
    warm = False
    for run in range(options.runs):
        for seconds in options.seconds:
            if any(line.get("question") == seconds and line.get("run") == run for line in results.lines):
                continue
            if time.monotonic() - began > options.budget:
                return
            if not warm:
                results.add({"warm_up": True, **asdict(measure_wait(engine, detector, 2.0, 0, options.pause, limits))})
                warm = True
            measured = measure_wait(engine, detector, seconds, run, options.pause, limits)
            results.add({"run": run, **asdict(measured)})
    rows, questions = [], []
    for seconds in options.seconds:
        runs = [line for line in results.lines if line.get("question") == seconds and "run" in line]
        sounds = [line["first_sound"] for line in runs]
        rows.append([
            f"{seconds:g}",
            len(runs),
            figure([line["endpoint"] for line in runs]),
            figure([line["first_text"] for line in runs]),
            figure(sounds),
            figure(sounds, lambda values: np.percentile(values, 95)),
            figure(sounds, max),
            figure([line["first_played"] for line in runs]),
            figure([line["rtf"] for line in runs]),
            sum(line["underruns"] for line in runs),
        ])  # fmt: skip
        questions.append((seconds, runs))
    if options.picture is not None:
        options.picture.write_text(wait_svg(options.title, questions), "utf-8")
    head = (
        "question, s",
        "runs",
        "end of turn, s",
        "first text, s",
        "first sound, s",
        "95 %, s",
        "slowest, s",
    )
    table([*head, "played, s", "RTF", "underruns"], *rows)


def interrupt(options: argparse.Namespace) -> None:
    """How fast an interruption works."""
    engine, detector = OmniEdge.load(options.model, threads=options.threads), VoiceDetector()
    results = Results(options.results)
    limits = options.max_new_tokens, options.max_codec_tokens
    settings = {"solver": SolverSettings("rk4", 36)} if options.rk4 else {}
    done = sum("onset_to_decision" in line for line in results.lines)
    for run in range(done, options.runs):
        results.add({"run": run, **asdict(measure_interruption(engine, detector, run, settings, limits))})
    runs = [line for line in results.lines if "onset_to_decision" in line]
    missed = sum(line["onset_to_decision"] is None for line in runs)
    rows: list[list[object]] = [["interruptions", len(runs) - missed], ["missed", missed]]
    for name, key in (
        ("speech to decision, ms", "onset_to_decision"),
        ("decision to silence, ms", "decision_to_silence"),
        ("decision to the end of computing, ms", "decision_to_stop"),
    ):
        values = [line[key] for line in runs]
        rows.append([name, f"{figure(values, unit=1e3, digits=0)} (slowest {figure(values, max, 1e3, 0)})"])
    rows.append(["replies still being computed", sum(line["generating"] for line in runs)])
    rows.append(["events begun after the decision", sum(line["events_after"] for line in runs)])
    table(["figure", "value"], *rows)


def print_tallies(results: Results) -> None:
    """One row for each long conversation."""
    head = "conversation", "minutes", "speech played, min", "asked", "answered", "false turns", "false interruptions"
    rows = []
    for line in results.lines:
        if "asked" not in line:
            continue
        tally = Tally(**{name: value for name, value in line.items() if name not in ("what", "wall")})
        # From the first minute on whose memory no later turn adds to: turns leave the context.
        rss = np.array(tally.resident[len(tally.resident) // 4 :]) / _MEGABYTE
        rows.append([
            line["what"],
            f"{tally.seconds / _MINUTE:.0f}",
            f"{tally.played / _MINUTE:.1f}",
            tally.asked,
            tally.answered,
            tally.false_turns,
            tally.false_interruptions,
            f"{tally.interruptions} of {tally.interruptions_tried}",
            f"{tally.cut_words} of {tally.underruns}",
            tally.turns_evicted,
            len(tally.errors),
            f"{rss[0]:.0f} to {rss.max():.0f}" if rss.size else "-",
        ])  # fmt: skip
    table([*head, "interruptions", "cut words of underruns", "turns that left", "errors", "RSS, MB"], *rows)


def long_talks(options: argparse.Namespace) -> None:
    """Conversations on a simulated clock."""
    engine, detector = OmniEdge.load(options.model, threads=1), VoiceDetector()
    results, seconds = Results(options.results), options.minutes * _MINUTE
    plans: dict[str, Any] = {}
    limit = options.max_codec_tokens
    if options.command == "echo-room":
        for control in options.echo:
            plans[f"echo room, {control}"] = lambda control=control: echo_room(
                engine, detector, control, seconds, limit
            )
    elif options.command == "babble":
        name = f"{options.talkers} talkers at {options.decibels:g} dB"
        plans[name] = lambda: babble(engine, detector, options.decibels, options.talkers, seconds, limit)
    else:
        plans["an hour"] = lambda: hour(engine, detector, seconds, options.context, limit)
    for what, measure in plans.items():
        if any(line.get("what") == what for line in results.lines):
            continue
        began = time.monotonic()
        tally = measure()
        results.add({"what": what, "wall": time.monotonic() - began, **asdict(tally)})
    print_tallies(results)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=run.__doc__.splitlines()[0])
        added.set_defaults(measure=run)
        added.add_argument("--model", type=Path, help="the bundle; default: the built-in model")
        return added

    for name, run in (("wait", wait), ("interrupt", interrupt)):
        real = command(name, run)
        real.add_argument("--results", type=Path, help="JSON lines: the machine and the command, then every run")
        real.add_argument("--runs", type=int, default=10)
        real.add_argument("--threads", type=int, help="cores to use; default: all")
        real.add_argument("--max-new-tokens", type=int, default=24, help="random weights never end a reply")
        real.add_argument("--max-codec-tokens", type=int, default=200)
        if name == "wait":
            real.add_argument(
                "--seconds", type=float, nargs="+", default=[2, 5, 15, 40], help="lengths of the question"
            )
            real.add_argument("--pause", type=float, default=0.15, help="silence between its sentences (s)")
            real.add_argument("--picture", type=Path, help="draws every run into this SVG file")
            real.add_argument("--title", default="From the end of a question to the reply", help="of the picture")
            real.add_argument("--budget", type=float, default=1e9, help="begin no run after so many seconds")
        else:
            real.add_argument("--rk4", action="store_true", help="a slow solver: the reply is computed while it plays")
    for name, minutes in (("echo-room", 30), ("babble", 30), ("hour", 60)):
        simulated = command(name, long_talks)
        simulated.add_argument("--results", type=Path, help="JSON lines: the machine and the command, then every run")
        simulated.add_argument("--minutes", type=float, default=minutes)
        simulated.add_argument(
            "--max-codec-tokens", type=int, default=300, help="a reply that goes wrong ends after 6 s"
        )
        if name == "echo-room":
            controls = ["apm", "half", "none"]
            simulated.add_argument("--echo", nargs="+", choices=controls, default=controls[:2])
        elif name == "babble":
            simulated.add_argument("--decibels", type=float, default=-30, help="of all talkers, below full scale")
            simulated.add_argument("--talkers", type=int, default=8)
        else:
            simulated.add_argument("--context", type=int, default=2048, help="positions; a smaller one is full sooner")
    command("record", live_record.record).add_argument("--out", type=Path, default=Path("live-session"))
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    options.measure(options)


if __name__ == "__main__":
    main()
