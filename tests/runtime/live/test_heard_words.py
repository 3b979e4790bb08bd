"""What was heard of a reply, rounded down to a word."""

from __future__ import annotations

import pytest

from omni_edge.live.heard_words import heard_characters, heard_tokens

PIECES = ["The", " light", " in", " the", " kit", "chen", " is", " on", "."]


@pytest.mark.parametrize(
    ("characters", "tokens"),
    [(0, 0), (2, 0), (3, 1), (8, 1), (9, 2), (16, 4), (20, 4), (23, 4), (24, 6), (27, 7), (30, 7), (31, 9)],
)
def test_a_word_counts_when_all_of_it_was_heard(characters: int, tokens: int) -> None:
    assert heard_tokens(PIECES, characters) == tokens
    assert len("".join(PIECES)) == 31


def test_punctuation_belongs_to_its_word() -> None:
    pieces = ["Yes", ",", " I", " don", "'t", "."]
    assert [heard_tokens(pieces, n) for n in (3, 4, 6, 10, 12, 13)] == [0, 2, 3, 3, 3, 6]


def test_in_chinese_each_character_is_a_word() -> None:
    # The second character takes three tokens, and its text comes with the last of them.
    assert [heard_tokens(["你", "", "", "好", "吗"], n) for n in range(4)] == [0, 1, 4, 5]


def test_a_reply_without_text_has_no_words() -> None:
    assert heard_tokens([], 100) == heard_tokens(["", ""], 0) == 0


def test_characters_are_in_proportion_to_the_speech() -> None:
    assert heard_characters(31, 1.0, 2.0, 99) == 15
    assert heard_characters(31, 2.0, 2.0, 99) == 31
    # Not complete: by the rate, and never more than there is.
    assert heard_characters(31, 1.0, None, 15) == 15
    assert heard_characters(31, 9.0, None, 15) == 31
    assert heard_characters(31, 0.0, None, 15) == 0
