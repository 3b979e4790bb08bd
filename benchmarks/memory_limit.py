"""Runs a command in a control group of limited memory without swap, and reports what the group took.

    python benchmarks/memory_limit.py LIMIT [--cold FOLDER]... -- COMMAND...

LIMIT is in bytes, or as 3.5GB. A file's pages belong to the group that read them first, so --cold drops those of a
bundle, and of the cache with its prepared graphs, before. The report is a line of JSON on stderr: the group's peak,
mapped files included, which the kernel drops where memory is short; the anonymous memory at its highest; how often the
limit was met; how many processes were ended for want of memory. Needs Linux and root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

UNITS = {"GB": 10**9, "MB": 10**6}
SECONDS = 0.05
ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Names:
    """What the two versions of control groups call the same things.

    Attributes:
        root: the hierarchy.
        limits: file to value, in the order of writing; LIMIT stands for the limit.
        peak: file with the highest use.
        anonymous: entry of `memory.stat`.
        met: file, entry: how often the limit was met.
        killed: file, entry: processes that were ended.
    """

    root: Path
    limits: dict[str, str]
    peak: str
    anonymous: str
    met: tuple[str, str]
    killed: tuple[str, str]


VERSION_2 = Names(
    ROOT,
    {"memory.max": "LIMIT", "memory.swap.max": "0"},
    "memory.peak",
    "anon",
    ("memory.events", "max"),
    ("memory.events", "oom_kill"),
)
VERSION_1 = Names(
    ROOT / "memory",
    {"memory.limit_in_bytes": "LIMIT", "memory.swappiness": "0"},
    "memory.max_usage_in_bytes",
    "rss",
    ("memory.failcnt", ""),
    ("memory.oom_control", "oom_kill"),
)


def main() -> int:
    """Runs; the exit code is the command's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("limit", type=size)
    parser.add_argument(
        "--cold", type=Path, action="append", default=[], help="a folder whose files are dropped from the page cache"
    )
    parser.add_argument("command", nargs="+", help="behind --")
    options = parser.parse_args()
    for path in (path for folder in options.cold for path in folder.rglob("*") if path.is_file()):
        drop(path)
    names = VERSION_2 if (ROOT / "cgroup.controllers").is_file() else VERSION_1
    group = names.root / f"omni-edge-{os.getpid()}"
    group.mkdir()
    try:
        return measure(options.command, group, names, options.limit)
    finally:
        group.rmdir()


def size(text: str) -> int:
    """Bytes of a size such as 3.5GB."""
    unit = UNITS.get(text[-2:].upper())
    return int(float(text[:-2]) * unit) if unit else int(text)


def drop(path: Path) -> None:
    """Drops a file's pages from the cache; those that another process has mapped stay."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(command: list[str], group: Path, names: Names, limit: int) -> int:
    """Runs the command in the group and writes the report; the exit code."""
    for name, value in names.limits.items():
        (group / name).write_text(value.replace("LIMIT", str(limit)))
    began, anonymous = time.perf_counter(), 0
    process = subprocess.Popen(["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group, *command])
    while process.poll() is None:
        anonymous = max(anonymous, entry(group / "memory.stat", names.anonymous))
        time.sleep(SECONDS)
    report = {
        "limit": limit,
        "peak": entry(group / names.peak),
        "anonymous": anonymous,
        "met": entry(group / names.met[0], names.met[1]),
        "killed": entry(group / names.killed[0], names.killed[1]),
        "seconds": round(time.perf_counter() - began, 1),
        "exit": process.returncode,
    }
    print(json.dumps(report), file=sys.stderr)
    return process.returncode


def entry(path: Path, name: str = "") -> int:
    """The number in a file, or that of one of its lines."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return next((int(line[-1]) for line in lines if not name or line[0] == name), 0)


if __name__ == "__main__":
    sys.exit(main())
