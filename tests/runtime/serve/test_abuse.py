"""A real server among attackers, and what it adds to the first sound: the short forms of `benchmarks/serve.py`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
KINDS = {
    *("garbage", "garbage_frames", "huge_lengths", "slow_loris", "half_open", "wrong_key", "other_origin", "flood"),
    *("leave_anywhere", "never_read"),
}


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The stdout of the script, without the time that a process takes to start."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    options = importlib.import_module("serve").parse(words)
    assert options.measure(options) == 0
    return capsys.readouterr().out


def test_attackers_leave_no_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("abuse", "--seconds", "1.5", "--hostile", "10", "--talkers", "2")
    found: dict[str, Any] = json.loads(run(monkeypatch, capsys, *words))
    assert (found["tracebacks"], found["errors"], found["surprises"], found["answers_after"]) == (0, [], [], True)
    assert set(found["attacks"]) == KINDS
    # The long form measures the memory; this one sees what is never freed.
    assert found["resident_after"] < 1.2 * found["resident_before"]


def test_the_first_sound_is_compared_with_that_of_the_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    words = ("latency", "--runs", "1", "--threads", "1", "--gate", "60", "--results", str(file))
    table = run(monkeypatch, capsys, *words)
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| first turn, typed",
        "| second turn, typed",
        "| first turn, spoken",
    ]
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(lines) == 1 + 2 * 3
    assert all(0 < line["in_process"] < 30 and 0 < line["served"] < 30 for line in lines[1:])
