"""Exercises as sequences: their targets and positions."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nano import world
from nano.data.exercises import Exercise, make_exercise
from nano.data.sequences import IGNORED, Composer, Sample
from nano.data.tokenizer import write_tokenizer
from nano.world.scenes import COLOURS, SHAPES


@pytest.fixture(scope="module")
def composer(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    work: Path = tmp_path_factory.mktemp("work")
    write_tokenizer(work / "tokenizer")
    return Composer(work)


def _colour_question() -> Exercise:
    """An exercise about a picture of several shapes."""
    rng = random.Random(0)
    while True:
        exchange = world.draw(rng, "train", "picture", spoken=False)
        if exchange.turns[-1].clue:
            return make_exercise(exchange, rng, None, "train")


def _learned(composer: Composer, sample: Sample, span: slice) -> str:
    return composer.codec.decode([token for token in sample.targets[span].tolist() if token != IGNORED])


def test_a_reply_is_learned_one_position_ahead_and_nothing_of_the_prompt(composer: Composer) -> None:
    exercise = Exercise("timer", _colour_question().messages, "Three shapes.", ("how many shapes are there",))
    sample = composer.compose(exercise)
    start, stop = sample.replies[-1]
    assert _learned(composer, sample, slice(start - 1, stop - 1)) == "Three shapes."
    assert sample.targets[stop - 1] == composer.codec.turn_end
    assert np.all(sample.targets[: start - 1] == IGNORED)


def test_the_word_that_a_question_asks_about_learns_what_belongs_to_it(composer: Composer) -> None:
    exercise = _colour_question()
    assert exercise.clue is not None
    shape, colour = exercise.clue
    assert (shape in SHAPES, colour in COLOURS) == (True, True)
    assert exercise.reply == f"The {shape} is {colour}."
    sample = composer.compose(exercise)
    before = sample.replies[-1][0] - 1
    (place,) = np.flatnonzero(sample.targets[:before] != IGNORED)
    assert composer.codec.decode([int(sample.tokens[place])]) == f" {shape}"
    assert composer.codec.decode([int(sample.targets[place])]) == f" {colour}"
