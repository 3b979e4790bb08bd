"""How far an export is, and how long the rest will take."""

from __future__ import annotations

import pytest

from omni_export.output.progress import ExportProgress, ProgressMeter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the meter takes for the time; the only item counts."""
    now = [100.0]
    monkeypatch.setattr("omni_export.output.progress.time.monotonic", lambda: now[0])
    return now


def test_the_rest_is_estimated_by_weights_and_not_by_their_bytes(clock: list[float]) -> None:
    told: list[ExportProgress] = []
    # 4 million weights in INT4, and 1 million in float32 that are twice as many bytes.
    meter = ProgressMeter(told.append, total=6_000_000, weights=5_000_000)
    meter.start("thinker", 2_000_000)
    assert told[-1] == ExportProgress("thinker", 0, 2_000_000, 0, 6_000_000, None)
    clock[0] += 8
    meter.wrote(1_000_000, 2_000_000)
    assert told[-1] == ExportProgress("thinker", 1_000_000, 2_000_000, 1_000_000, 6_000_000, 12.0)
    clock[0] += 8
    meter.wrote(1_000_000, 2_000_000)
    meter.start("bigvgan", 4_000_000)
    assert told[-1] == ExportProgress("bigvgan", 0, 4_000_000, 2_000_000, 6_000_000, 4.0)
    clock[0] += 4
    meter.wrote(4_000_000, 1_000_000)
    assert told[-1] == ExportProgress("bigvgan", 4_000_000, 4_000_000, 6_000_000, 6_000_000, 0.0)


def test_what_was_there_before_and_what_writes_nothing_leaves_the_rate_alone(clock: list[float]) -> None:
    told: list[ExportProgress] = []
    meter = ProgressMeter(told.append, total=90, weights=60, done=30)
    meter.start("thinker", 40)
    assert (told[-1].done, told[-1].total) == (30, 90)
    clock[0] += 10
    meter.wrote(40, 40)
    meter.start("ranges", 0)
    clock[0] += 1000
    meter.start("talker", 20)
    assert told[-1].remaining == pytest.approx(5)


def test_there_is_no_estimate_before_the_rate_has_settled(clock: list[float]) -> None:
    told: list[ExportProgress] = []
    meter = ProgressMeter(told.append, total=90, weights=60)
    meter.start("thinker", 90)
    clock[0] += 0.5
    meter.wrote(30, 20)
    assert told[-1].remaining is None
    clock[0] += 0.5
    meter.wrote(30, 20)
    assert told[-1].remaining == pytest.approx(0.5)
