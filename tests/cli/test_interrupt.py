"""Ctrl-C during a reply: what was written stays, the file is valid, the exit code is 130."""

from __future__ import annotations

import signal
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from omni_cli.printer import TextPrinter
from omni_edge import AudioChunk
from omni_edge.events import Event
from support.commands import GREEDY, run_edge

# A penalty far below 1 rewards repetition: the reply never ends by itself.
ENDLESS = ("--temp", "0", "--repeat-penalty", "1e-6", "--max-new-tokens", "100000", "--context", "32000")


def test_a_signal_ends_the_reply_in_good_order(bundle: Path) -> None:
    program = "from omni_cli.app import main; main()"
    command = [sys.executable, "-c", program, "run", "Hello.", "-m", str(bundle), "--no-speech", *ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first
    assert rest.endswith(b"\n")
    assert b"Traceback" not in errors


def test_the_speech_so_far_is_a_valid_file(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes with the second piece of speech."""
    heard: list[int] = []
    show = TextPrinter.show

    def interrupt(self: TextPrinter, event: Event) -> None:
        show(self, event)
        if isinstance(event, AudioChunk):
            heard.append(event.samples.size)
            if len(heard) == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TextPrinter, "show", interrupt)
    wav = tmp_path / "reply.wav"
    result = run_edge("run", "Hello.", "-m", bundle, *GREEDY, "--max-new-tokens", 40, "-o", wav)
    assert result.exit_code == 130, result.output
    assert result.stdout.strip()
    assert len(heard) == 2
    with wave.open(str(wav)) as file:
        assert file.getnframes() == sum(heard)
