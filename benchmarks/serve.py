"""Measures `omni-edge serve`, started as a process of its own.

    python benchmarks/serve.py latency [--model BUNDLE] [--runs 30]
    python benchmarks/serve.py abuse   [--model BUNDLE] [--seconds 600] [--hostile 50] [--talkers 8]

`latency` asks the same questions over the WebSocket and in this process, in turn: what the server adds to the first
sound. Each conversation is new, so a first turn makes a session and prefills the system prompt in both.

`abuse` measures one talker among others that are silent, before and while clients attack the server. The attackers run
on the same machine and in part hold the key, so the talker waits for them in the queue. `--results FILE.jsonl` appends
the machine, the command and every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from command_line import published_command
from serve_hostile import Attack
from serve_latency import ask, conversations, in_process_seconds, open_session, served_seconds
from serve_process import ServerProcess, server_process

from omni_edge import OmniEdge
from omni_edge.backend.machine import machine
from omni_edge.bench.figures import versions

_QUESTION = {"type": "input_text", "text": "turn on the kitchen light"}
_RESIDENT = "omni_edge_resident_memory_bytes"


class Lines:
    """JSON lines, behind the machine and the command.

    Args:
        path: the file; None: they are kept nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.add({"command": published_command(sys.argv), "machine": asdict(machine()), "versions": versions()})

    def add(self, line: dict[str, Any]) -> None:
        """Appends a line."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and 95th percentile, as two cells."""
    return f"{1000 * np.median(seconds):.1f} | {1000 * np.percentile(seconds, 95):.1f}"


def latency(options: argparse.Namespace) -> int:
    """What the server adds to the first sound; status 1: more than `--gate` at the 95th percentile."""
    lines = Lines(options.results)
    threads = [] if options.threads is None else ["--threads", str(options.threads)]
    engine = OmniEdge.load(options.model, threads=options.threads)
    runs: dict[str, list[tuple[float, float]]] = {}
    with server_process(options.model, *threads) as server:
        # The first run warms both up.
        for run in range(options.runs + 1):
            for turns in conversations():
                over, here = served_seconds(server, turns), in_process_seconds(engine, turns)
                for turn, served, alone in zip(turns, over, here, strict=True):
                    lines.add({"turn": turn.name, "run": run, "served": served, "in_process": alone})
                    if run:
                        runs.setdefault(turn.name, []).append((served, alone))
    print("| turn | in process, ms: median | 95 % | served: median | 95 % | added: median | 95 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    worst = 0.0
    for name, pairs in runs.items():
        served, alone = np.array(pairs).T
        added = float(np.percentile(served, 95) - np.percentile(alone, 95))
        worst = max(worst, added)
        middle = 1000 * float(np.median(served) - np.median(alone))
        print(f"| {name} | {milliseconds(alone)} | {milliseconds(served)} | {middle:.1f} | {1000 * added:.1f} |")
    return int(worst > options.gate)


def abuse(options: argparse.Namespace) -> int:
    """A talker among attackers; status 1: a traceback, an error, or a server that answers no more."""
    lines = Lines(options.results)
    # Those of attackers that have just gone are still open.
    sessions = str(options.talkers + 4 * options.hostile)
    with server_process(options.model, "--wyoming", "0", "--max-sessions", sessions) as server, ExitStack() as others:
        for _ in range(options.talkers - 1):
            others.enter_context(open_session(server))
        before = talk(server, options.seconds / 4)
        warm = attacked(server, options.hostile, options.seconds / 4)
        resident = settled(server)
        during = attacked(server, options.hostile, options.seconds)
        line = {
            "seconds": options.seconds,
            "hostile": options.hostile,
            "talkers": options.talkers,
            "attacks": dict(during[0].rounds + warm[0].rounds),
            "surprises": during[0].surprises + warm[0].surprises,
            "first_sound_before": before,
            "first_sound_during": during[1],
            "resident_before": resident,
            "resident_after": settled(server),
            "tracebacks": sum("Traceback" in line for line in server.log),
            "errors": [line for line in server.log if " ERROR " in line],
            "answers_after": bool(talk(server, 0)),
        }
    lines.add(line)
    shown = {**line, "first_sound_before": milliseconds(before), "first_sound_during": milliseconds(during[1])}
    print(json.dumps(shown, indent=2))
    return int(bool(line["tracebacks"] or line["errors"] or line["surprises"]))


def talk(server: ServerProcess, seconds: float) -> list[float]:
    """Seconds to the first sound of one question after the other, each in a new conversation; at least one."""
    found: list[float] = []
    end = time.monotonic() + seconds
    while not found or time.monotonic() < end:
        with open_session(server) as session:
            found.append(ask(session, _QUESTION))
    return found


def attacked(server: ServerProcess, hostile: int, seconds: float) -> tuple[Attack, list[float]]:
    """Attackers for some time, and meanwhile a talker's seconds to the first sound."""
    attack = Attack(server)
    attack.begin(hostile)
    try:
        return attack, talk(server, seconds)
    finally:
        attack.end()


def settled(server: ServerProcess) -> float:
    """Resident bytes once the attackers' connections are closed."""
    end = time.monotonic() + 20
    while True:
        found = server.metrics()
        idle = found["omni_edge_generations_active"] + found["omni_edge_generations_waiting"] == 0
        if (idle and found["omni_edge_connections"] <= 16) or time.monotonic() > end:
            return found[_RESIDENT]
        time.sleep(0.1)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("latency", latency), ("abuse", abuse)):
        added = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        added.set_defaults(measure=run)
        added.add_argument("--model", type=Path, help="the bundle; default: the built-in model")
        added.add_argument("--results", type=Path, help="JSON lines: the machine and the command, then every run")
        if name == "latency":
            added.add_argument("--runs", type=int, default=30)
            added.add_argument("--threads", type=int, help="cores to use; default: all")
            added.add_argument("--gate", type=float, default=0.03, help="seconds that the server may add")
        else:
            added.add_argument("--seconds", type=float, default=600)
            added.add_argument("--hostile", type=int, default=50)
            added.add_argument("--talkers", type=int, default=8)
    return parser.parse_args(words)


if __name__ == "__main__":
    options = parse()
    sys.exit(options.measure(options))
