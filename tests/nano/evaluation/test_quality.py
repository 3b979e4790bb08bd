"""The shipped model on a few held-out exercises: speech, pictures, videos, time ids, and its own speech.

The thresholds allow for small counts; the figures of the full evaluation are in nano/README.md.
"""

from __future__ import annotations

from typing import Any

import pytest

from nano.evaluation.evaluate import Plan, run
from nano.evaluation.held_out_sets import HeldOutSets
from omni_edge.bundle.builtin import shipped_bundle
from support.operators import put_library, shared_folder

# The full form measures 0.04; here are some fifty words, of which one lost sentence is a tenth.
_WORD_ERRORS = 0.25


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the model with compiled operators, as a wheel has them."""
    bundle, cache = shipped_bundle(), tmp_path_factory.mktemp("compiled")
    put_library(cache, shared_folder(tmp_path_factory))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNI_EDGE_CACHE", str(cache))
        found: Any = run([bundle], Plan.quick(workers=2), HeldOutSets.from_repository())["bundles"][bundle.name]
    return dict(found)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("spoken_unseen_combinations", 0.8),
        ("spoken_unseen_voice", 0.7),
        ("typed_unseen_combinations", 0.9),
        ("pictures", 0.85),
        ("videos", 0.8),
        ("sound_and_picture", 0.75),
        ("conversation", 0.65),
        ("outside", 0.65),
    ],
)
def test_it_understands(results: dict[str, Any], name: str, least: float) -> None:
    found = results["understanding"][name]
    assert found["share"] >= least, found["mistakes"]


def test_spoken_words_are_understood_altogether(results: dict[str, Any]) -> None:
    sets = [results["understanding"][f"spoken_unseen_{what}"] for what in ("combinations", "voice")]
    assert sum(found["right"] for found in sets) >= 0.85 * sum(found["count"] for found in sets)


@pytest.mark.parametrize("shuffle", ["tokens", "frames"])
def test_which_colour_came_with_the_sound_is_told_by_the_time_ids(results: dict[str, Any], shuffle: str) -> None:
    # Of twelve at a chance of a quarter, more than seven are right once in three hundred times.
    found = results["understanding"][f"sound_and_picture, times of {shuffle} shuffled"]
    assert found["share"] <= 0.6


@pytest.mark.parametrize("kind", ["sampled", "greedy", "sampled, whole utterance"])
def test_an_independent_recognizer_understands_it(results: dict[str, Any], kind: str) -> None:
    assert results["speech"][kind]["rate"] <= _WORD_ERRORS, results["speech"]["misheard"]
    assert results["speech"]["unfinished"] == 0


@pytest.mark.parametrize("voice", ["Chelsie", "Ethan"])
def test_its_voices_are_told_apart(results: dict[str, Any], voice: str) -> None:
    assert results["voices"][voice]["share"] >= 0.9


def test_few_evaluations_in_a_stream_are_as_clear_as_the_reference(results: dict[str, Any]) -> None:
    found = results["token2wav"]
    assert found["euler-4, streamed"]["rate"] <= found["rk4-36, whole"]["rate"] + 0.1
