"""Watches what a program leaves in the user's folders and which addresses it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

# A look-up of a host opens a socket of one of these families even where no answer can come.
INTERNET = ("AF_INET", "AF_INET6")


@dataclass(frozen=True)
class Traces:
    """What a program has left behind.

    Attributes:
        files: below the user's home and cache folders, which were empty when it began.
        calls: system calls with an internet address; None where there is no strace to see them.
        errors: its stderr.
    """

    files: list[str]
    calls: list[str] | None
    errors: str


def watch(command: list[str], folder: Path, **environment: str) -> Traces:
    """Runs `command` with empty folders of the user's in `folder`, under strace where there is one."""
    user, calls = folder / "user", folder / "calls"
    homes = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA")
    private = {name: str(user / name) for name in homes}
    for path in private.values():
        Path(path).mkdir(parents=True)
    # Also set for the tests: it would hide the fault, and HF_HOME would hide what the exporter keeps.
    hidden = ("ORT_DISABLE_TELEMETRY", "HF_HOME", "HF_HUB_OFFLINE")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    if strace := shutil.which("strace"):
        command = [strace, "-f", "-qq", "-e", "trace=network", "-o", str(calls), *command]
    result = subprocess.run(
        command,
        env={**inherited, **private, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = calls.read_text("utf-8", "replace").splitlines() if strace else []
    return Traces(
        files=sorted(path.relative_to(user).as_posix() for path in user.rglob("*") if path.is_file()),
        calls=[line for line in lines if any(family in line for family in INTERNET)] if strace else None,
        errors=result.stderr,
    )


def assert_offline(traces: Traces) -> None:
    """No file, no look-up; skips, once the files are checked, where sockets cannot be watched."""
    assert traces.files == []
    if traces.calls is None:
        pytest.skip("needs strace to watch the sockets; no file was left")
    assert traces.calls == []
