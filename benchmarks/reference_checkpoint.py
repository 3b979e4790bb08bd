"""The common part of the scripts that time the reference: arguments, checkpoint, threads."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

TESTS = Path(__file__).parents[1] / "tests"


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with CHECKPOINT, --threads and --quick."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a tiny checkpoint: its figures mean nothing")
    return parser


@contextmanager
def parsed(parser: argparse.ArgumentParser) -> Iterator[argparse.Namespace]:
    """The parsed arguments; with --quick, `checkpoint` is a small random one that exists inside of the block."""
    arguments = parser.parse_args()
    if not arguments.quick and not arguments.checkpoint:
        parser.error("a checkpoint is needed (or --quick)")
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quick:
            sys.path[:0] = [str(TESTS.parent), str(TESTS)]
            from support.checkpoints import write_checkpoint  # noqa: PLC0415

            arguments.checkpoint = write_checkpoint(Path(folder) / "checkpoint")
        yield arguments


def versions() -> dict[str, str]:
    """The packages that make the reference."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}
