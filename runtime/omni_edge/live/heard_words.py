"""Which words of a reply were heard, from the number of samples that were played.

The Talker does not say which token a sample belongs to. Words are therefore placed in proportion to their characters:
over the whole speech where it is complete, else at a rate of characters per second. The result is rounded down.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate

# English at 150 words a minute; the first complete reply of a conversation replaces it.
DEFAULT_CHARACTERS_PER_SECOND = 15.0


def heard_characters(characters: int, played: float, total: float | None, characters_per_second: float) -> int:
    """Characters of a reply that were heard, rounded down.

    Args:
        characters: those of the reply so far.
        played: seconds that were played.
        total: seconds of the whole speech; None: it is not complete yet.
        characters_per_second: the rate where it is not.
    """
    if total is not None:
        return characters if played >= total else int(characters * played / total)
    return min(characters, int(characters_per_second * played))


def heard_tokens(pieces: Sequence[str], characters: int) -> int:
    """The largest number of tokens whose text is at most `characters` long and ends with a whole word.

    Args:
        pieces: the text that each token completed; empty inside a character of several tokens.
        characters: heard characters.
    """
    text = "".join(pieces)
    lengths = [0, *accumulate(map(len, pieces))]
    return max(
        count
        for count, length in enumerate(lengths)
        if count == 0 or (length <= characters and pieces[count - 1] and _ends_word(text, length))
    )


def _ends_word(text: str, length: int) -> bool:
    """Whether the first `length` characters end with a whole word; in Chinese or Japanese each character is one."""
    if length == len(text):
        return True
    return text[length].isspace() or text[length - 1].isspace() or _wide(text[length - 1]) or _wide(text[length])


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
