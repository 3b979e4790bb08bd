"""The distance between what was spoken and what was recognized."""

from __future__ import annotations

from collections.abc import Sequence


def word_errors(spoken: Sequence[str], recognized: Sequence[str]) -> int:
    """Least number of words to insert, delete or replace (Levenshtein distance)."""
    row = list(range(len(recognized) + 1))
    for index, word in enumerate(spoken, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(recognized, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1]
