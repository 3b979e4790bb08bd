"""The requests that every compared engine answers, ours and the peers': `prefill` and `decode`, over stdin and stdout.

An engine is a subprocess in an environment of its own that loads its model once and then serves requests, so that
`compare.py` can let several take turns within seconds. This file needs nothing but Python: every environment has that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

# Requests of `measure`, and the largest context that an engine has to hold.
CONTEXTS = (128, 2048)
PREFILLS = (64, 128, 512)
STEPS = 16
CAPACITY = 4096


class Engine(Protocol):
    """A loaded model.

    Attributes:
        versions: packages and versions, for the record.
        build: what is special about how the model was made, for the record.
    """

    versions: dict[str, str]
    build: str

    def prefill(self, tokens: int) -> float:
        """Seconds from an empty cache to the first token of a reply to `tokens` tokens."""

    def decode(self, context: int, steps: int) -> float:
        """Seconds for `steps` further tokens, the first of them at `context` positions or a little more."""


def prompt(tokens: int, vocabulary: int) -> list[int]:
    """`tokens` token ids, always the same, since speed does not depend on them."""
    return [(7919 * index + 101) % min(vocabulary, 50_000) for index in range(tokens)]


def peak_rss() -> int:
    """Bytes: the largest resident size of this process so far, mapped files included."""
    status = Path("/proc/self/status").read_text("ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """The figures of one request."""
    match request:
        case {"prefill": int(tokens)}:
            seconds = engine.prefill(tokens)
            return {"prefill": tokens, "seconds": seconds, "rate": tokens / seconds}
        case {"decode": int(context), "steps": int(steps)}:
            seconds = engine.decode(context, steps)
            return {"decode": context, "steps": steps, "seconds": seconds, "rate": steps / seconds}
        case {"memory": True}:
            return {"peak_rss": peak_rss()}
    raise ValueError(f"not a request: {request}")


def main(
    description: str | None,
    build: Callable[[Path, Path], None],
    load: Callable[[Path, int], Engine],
) -> None:
    """The command line of a peer.

    Args:
        description: its docstring.
        build: writes the peer's model, given the text model's folder and where to write.
        load: loads that model for a number of threads.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="convert and quantize the text model (see text_model.py)")
    building.add_argument("text_model", type=Path)
    building.add_argument("model", type=Path)
    for name, text in (("measure", "one of each figure, as a JSON line"), ("serve", "requests as JSON lines on stdin")):
        command = commands.add_parser(name, help=text)
        command.add_argument("model", type=Path)
        command.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if arguments.command == "build":
        build(arguments.text_model, arguments.model)
        return
    out = _own_stdout()
    began = time.perf_counter()
    engine = load(arguments.model, arguments.threads)
    loaded = {
        "load_seconds": time.perf_counter() - began,
        "threads": arguments.threads,
        "versions": engine.versions,
        "build": engine.build,
    }
    if arguments.command == "measure":
        figures: dict[str, Any] = dict(loaded)
        for tokens in PREFILLS:
            figures[f"prefill_{tokens}"] = answer(engine, {"prefill": tokens})["rate"]
        for context in CONTEXTS:
            figures[f"decode_{context}"] = answer(engine, {"decode": context, "steps": STEPS})["rate"]
        print(json.dumps({**figures, "peak_rss": peak_rss()}), file=out, flush=True)
        return
    print(json.dumps(loaded), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=out, flush=True)


def _own_stdout() -> Any:
    """The real stdout; whatever a native library prints goes to stderr from now on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out
