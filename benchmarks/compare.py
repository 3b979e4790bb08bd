"""Our Thinker beside other engines on the same random weights, interleaved.

    python benchmarks/compare.py --bundle /tmp/b3b \\
        --peer llama=/opt/llama/bin/python:/tmp/peer-llama.gguf --peer mnn=/opt/mnn/bin/python:/tmp/peer-mnn
    python benchmarks/compare.py --quick          # a tiny checkpoint; peers that this interpreter can import

Every engine is a subprocess that loads once. Each figure is taken in rounds, one engine after the other in an order
that rotates, so that whatever else the machine does hits all of them alike; an engine that is not being asked is
stopped (SIGSTOP). Every raw result is appended to benchmarks/results/history/DATE-NAME.jsonl. The table has medians,
ranges, and the median of the rounds' ratios ours / peer. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).with_name("peers")))
import engine as protocol
from command_line import published_command

from omni_edge.backend.machine import machine

FOLDER = Path(__file__).parent
PEERS = FOLDER / "peers"
OURS = "omni"
# The package that an interpreter needs for each peer.
PACKAGES = {"llama": "llama_cpp", "mnn": "MNN", "genai": "onnxruntime_genai", "reference": "transformers"}


@dataclass(frozen=True)
class Contender:
    """One engine: its name (the script in peers/; "-" and a label may follow), an interpreter, and its model."""

    name: str
    python: str
    model: str

    @property
    def package(self) -> str:
        """The script's name."""
        return self.name.partition("-")[0]

    @property
    def script(self) -> Path:
        return PEERS / f"{self.package}.py"


@dataclass(frozen=True)
class Plan:
    """The figures of a comparison."""

    rounds: int = 5
    load_rounds: int = 3
    steps: int = protocol.STEPS
    contexts: tuple[int, ...] = protocol.CONTEXTS
    prefills: tuple[int, ...] = protocol.PREFILLS

    def requests(self) -> Iterator[dict[str, Any]]:
        """One per figure; contexts from short to long, so that a filled cache serves all rounds of its figure."""
        for tokens in self.prefills:
            yield {"prefill": tokens}
        for context in self.contexts:
            yield {"decode": context, "steps": self.steps}


QUICK = Plan(rounds=2, load_rounds=1, steps=3, contexts=(48, 96), prefills=(48, 64))


class Worker:
    """A contender's process; it is stopped except while it answers."""

    def __init__(self, contender: Contender, threads: int, log: TextIO) -> None:
        command = [contender.python, str(contender.script), "serve", contender.model, "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
        )
        self.name = contender.name
        self.loaded = self._read()
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()}; the log has its last lines.")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Record:
    """The file of raw results: a line with command and machine, then a line per result."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self._file = path.open("a", encoding="utf-8")
        self._write(head)

    def add(self, **line: Any) -> None:
        """Writes one result, with the machine's load average."""
        self.lines.append(line)
        self._write({**line, "load_average": round(os.getloadavg()[0], 2)})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextmanager
def workers(contenders: list[Contender], threads: int, log: TextIO) -> Iterator[list[Worker]]:
    """All contenders, loaded."""
    with ExitStack() as stack:
        running = []
        for contender in contenders:
            running.append(Worker(contender, threads, log))
            stack.callback(running[-1].close)
        yield running


def rotated(items: list[Any], by: int) -> list[Any]:
    """`items`, rotated by `by` places."""
    by %= len(items)
    return items[by:] + items[:by]


def measure(contenders: list[Contender], plan: Plan, threads: int, record: Record, log: TextIO) -> None:
    """Measures every figure of the plan and records it."""
    for number in range(plan.load_rounds):
        for contender in rotated(contenders, number):
            with workers([contender], threads, log) as running:
                record.add(engine=contender.name, figure="load", round=number, **running[0].loaded)
    with workers(contenders, threads, log) as running:
        for request in plan.requests():
            figure = " ".join(f"{name} {value}" for name, value in request.items() if name != "steps")
            for worker in running:  # warms up; not counted
                worker.ask(request)
            for number in range(plan.rounds):
                for worker in rotated(running, number):
                    record.add(engine=worker.name, figure=figure, round=number, **worker.ask(request))
        for worker in running:
            record.add(engine=worker.name, figure="memory", round=0, **worker.ask({"memory": True}))


# Field and unit of a figure in the table, apart from rates.
VALUES = {"load": ("load_seconds", "s"), "memory": ("peak_rss", "GB")}


def value(line: dict[str, Any]) -> float:
    """The number that a result line carries."""
    key = VALUES.get(line["figure"], ("rate", ""))[0]
    return float(line[key]) / (1e9 if key == "peak_rss" else 1)


def table(lines: list[dict[str, Any]], names: list[str]) -> str:
    """Medians with ranges, and the median ratio ours / peer of the rounds."""
    figures = list(dict.fromkeys(line["figure"] for line in lines))
    rows = [["figure", *names, *(f"{names[0]} / {peer}" for peer in names[1:])]]
    for figure in figures:
        runs = {
            name: [value(line) for line in lines if (line["engine"], line["figure"]) == (name, figure)]
            for name in names
        }
        unit = VALUES.get(figure, ("rate", "tok/s"))[1]
        cells = [f"{median(run):.2f} ({min(run):.2f}-{max(run):.2f})" for run in runs.values()]
        ours = runs[names[0]]
        ratios = [median(a / b for a, b in zip(ours, runs[peer], strict=True)) for peer in names[1:]]
        rows.append([f"{figure} [{unit}]", *cells, *(f"{ratio:.2f}" for ratio in ratios)])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def parse_peer(text: str) -> Contender:
    """NAME[-LABEL]=PYTHON:MODEL."""
    name, _, rest = text.partition("=")
    python, _, model = rest.partition(":")
    contender = Contender(name, python, model)
    if contender.package not in (OURS, *PACKAGES) or not python or not model:
        names = ", ".join((OURS, *PACKAGES))
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME[-LABEL]=PYTHON:MODEL with a NAME of {names}")
    return contender


def quick_contenders(folder: Path, peers: list[str]) -> list[Contender]:
    """A tiny checkpoint in `folder`, its bundle, and the models of those `peers` that this interpreter can import."""
    sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "tests")]
    from text_model import write_text_model  # noqa: PLC0415

    from omni_export.bundle import ExportOptions, export_bundle  # noqa: PLC0415
    from omni_quant.precision import Kind, Precision  # noqa: PLC0415
    from support.checkpoints import write_checkpoint  # noqa: PLC0415 -- torch and transformers: not needed otherwise

    checkpoint = write_checkpoint(folder / "checkpoint")
    export_bundle(str(checkpoint), folder / "bundle", ExportOptions(Precision(Kind.INT4, 32), text_only=True))
    contenders = [Contender(OURS, sys.executable, str(folder / "bundle"))]
    text = write_text_model(checkpoint, folder / "text")
    for name in peers:
        if importlib.util.find_spec(PACKAGES[name]):
            peer = Contender(name, sys.executable, str(folder / name))
            subprocess.run([peer.python, str(peer.script), "build", str(text), peer.model], check=True)
            contenders.append(peer)
    return contenders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="our bundle")
    parser.add_argument("--peer", type=parse_peer, action="append", default=[], metavar="NAME[-LABEL]=PYTHON:MODEL")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--steps", type=int, default=Plan.steps, help="tokens of a decode measurement")
    parser.add_argument("--prefills", type=int, nargs="+", default=Plan.prefills, help="prompts, positions")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--name", default="thinker", help="a part of the results file's name")
    parser.add_argument("--results", type=Path, default=FOLDER / "results" / "history")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: seconds, and figures that mean nothing")
    parser.add_argument("--quick-peers", nargs="*", choices=sorted(PACKAGES), default=sorted(PACKAGES))
    arguments = parser.parse_args()
    if not arguments.quick and not arguments.bundle:
        parser.error("--bundle is needed (or --quick)")
    plan = Plan(arguments.rounds, steps=arguments.steps, prefills=tuple(arguments.prefills))
    if arguments.quick:
        plan = QUICK
    with tempfile.TemporaryDirectory() as room:
        contenders = [Contender(OURS, sys.executable, arguments.bundle or ""), *arguments.peer]
        if arguments.quick:
            contenders = quick_contenders(Path(room), arguments.quick_peers)
        now = datetime.datetime.now(datetime.timezone.utc)
        head = {
            "command": published_command(sys.argv),
            "date": now.isoformat(timespec="seconds"),
            "machine": asdict(machine()),
            "threads": arguments.threads,
            "plan": asdict(plan),
        }
        record = Record(arguments.results / f"{now.date()}-{arguments.name}.jsonl", head)
        try:
            with Path(room, "log").open("w+", encoding="utf-8") as log:
                try:
                    measure(contenders, plan, arguments.threads, record, log)
                except BaseException:
                    log.seek(0)
                    sys.stderr.write(log.read()[-4000:])
                    raise
        finally:
            record.close()
    print(table(record.lines, [contender.name for contender in contenders]))
    print(f"\nraw results: {record.path}")


if __name__ == "__main__":
    main()
