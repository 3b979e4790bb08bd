"""The distance between spoken and recognized words."""

from __future__ import annotations

import pytest

from nano.data.word_errors import word_errors


@pytest.mark.parametrize(
    ("spoken", "recognized", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a c", 1), ("a b c", "x b c d", 2), ("a b", "", 2), ("", "a", 1)],
)
def test_word_errors(spoken: str, recognized: str, errors: int) -> None:
    assert word_errors(spoken.split(), recognized.split()) == errors
