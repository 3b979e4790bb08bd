"""What the commands print besides the answer."""

from __future__ import annotations

import io

import pytest

from omni_cli.console import Progress, human_bytes, human_seconds, overall, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_sizes_have_decimal_units() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 1_234_567, 123_456_789, 3_100_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "123 MB",
        "3.1 GB",
    ]


def test_durations_are_minutes_and_seconds() -> None:
    assert [human_seconds(value) for value in (0, 0.2, 59.5, 60, 754)] == ["0:00", "0:01", "1:00", "1:00", "12:34"]


def test_the_whole_is_shown_beside_a_stage() -> None:
    assert overall(1_250_000, 5_000_000, 61) == "all  25 % of 5.0 MB, 1:01 left"
    assert overall(1_250_000, 5_000_000, None, bar=True) == "[##........]  25 % of 5.0 MB"
    assert overall(5_000_000, 5_000_000, 0, bar=True) == "[##########] 100 % of 5.0 MB, 0:00 left"


def test_a_table_aligns_its_columns() -> None:
    assert table(["graph", "nodes"], [["dit", "7"], ["thinker", "1234"]], right=(1,)) == (
        "graph    nodes\ndit          7\nthinker   1234"
    )


def test_progress_in_a_log_is_a_few_lines() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(1001):
        progress("thinker", done * 1000, 1_000_000)
    progress("dit", 5, 5)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "thinker    0 %  of 1.0 MB",
        "thinker   25 %  of 1.0 MB",
        "thinker   50 %  of 1.0 MB",
        "thinker   75 %  of 1.0 MB",
        "thinker  100 %  of 1.0 MB",
        "dit  100 %  of 5 B",
    ]


def test_progress_in_a_terminal_is_one_line_per_stage() -> None:
    stream = Terminal()
    progress = Progress(stream)
    for done in range(1001):
        progress("thinker", done, 1000)
    progress("dit", 5, 5)
    progress.close()
    assert stream.getvalue().count("\n") == 2
    assert stream.getvalue().split("\n")[0].endswith("thinker  100 %  of 1.0 kB")


def test_a_line_that_is_redrawn_fits_into_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    Progress(stream)("thinker", 1, 2, "note " * 20)
    assert stream.getvalue() == "\r\x1b[Kthinker   50 %  of 2 B   note"
