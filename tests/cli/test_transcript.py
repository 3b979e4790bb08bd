"""The transcript: whole lines, whatever happens to the disk."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from omni_cli.transcript import Transcript
from omni_edge.errors import ResourceError, UsageError
from support.commands import run_edge

NOON = datetime(2026, 11, 28, 12, 0, 0, tzinfo=timezone(timedelta(hours=1)))


def transcript(path: Path, warnings: list[str] | None = None) -> Transcript:
    return Transcript(path, (warnings if warnings is not None else []).append, now=lambda: NOON)


def test_each_turn_has_the_time_at_which_it_began(tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    written = transcript(file)
    written.add("user", "(spoken, 1.6 s)", ago=2.5)
    written.add("assistant", " One.\nTwo. ")
    expected = (
        "2026-11-28T11:59:57.500+01:00 user: (spoken, 1.6 s)\n2026-11-28T12:00:00.000+01:00 assistant: One.\n  Two.\n"
    )
    # Before it is closed: a crash loses nothing.
    assert file.read_text() == expected
    written.close()
    file.write_text(expected + "2026-11-28T12:0")
    continued = transcript(file)
    continued.add("user", "Hello.")
    continued.close()
    assert file.read_text() == expected + "2026-11-28T12:0\n2026-11-28T12:00:00.000+01:00 user: Hello.\n"


def test_a_full_disk_is_named_once_and_loses_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file, warnings = tmp_path / "talk.txt", list[str]()
    written = transcript(file, warnings)
    written.add("user", "x")
    size = file.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        for text in ("one", "two"):
            written.add("user", text)
        with pytest.raises(ResourceError, match=r"The end of the transcript .*talk.txt is missing. The disk is full"):
            transcript_that_is_full(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [each[:52] for each in warnings] == ["warning: The transcript waits, and the conversation "]
    # Nothing half-written.
    assert file.stat().st_size == size
    written.add("user", "three")
    written.close()
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["x", "one", "two", "three"]


def transcript_that_is_full(file: Path) -> None:
    another = transcript(file)
    another.add("user", "a" * 60)
    another.close()


def test_typed_turns_are_written_and_a_bad_name_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    options = ("--temp", "0", "--max-new-tokens", "4", "--no-speech")
    result = run_edge("chat", "-m", bundle, *options, "--transcript", file, input="Hello.\n")
    assert result.exit_code == 0, result.output
    user, assistant = file.read_text().splitlines()
    assert user.endswith(" user: Hello.")
    assert assistant.partition(" assistant: ")[2] == result.stdout.strip()
    result = run_edge("chat", "-m", bundle, *options, "--transcript", tmp_path / "none" / "talk.txt", input="Hello.\n")
    assert result.exit_code == 2
    assert (
        "talk.txt cannot be written (No such file or directory). Choose another file with --transcript."
        in result.stderr
    )
    with pytest.raises(UsageError):
        transcript(tmp_path)
