"""Damaged media files end in a result or in a documented error: no crash, no hang, no line of another library.

`python -m support.fuzz_media` tries thousands.
"""

from __future__ import annotations

from pathlib import Path

from support.fuzz_media import run

SECONDS = 20.0
FEWEST = 20


def test_damaged_media_files(tmp_path: Path) -> None:
    ends = [0, 0]
    for what, _, outcome in run(seed=7, count=500, folder=tmp_path, seconds=SECONDS):
        assert outcome.fault is None, (what, outcome)
        assert not outcome.stderr.strip(), (what, outcome)
        ends[bool(outcome.refused)] += 1
    assert min(ends) > 0
    assert sum(ends) >= FEWEST
