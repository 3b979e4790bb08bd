"""Permutes TMRoPE's time ids, to show which answers depend on them; nothing else of the input changes.

For the evaluation only: inside of `shuffled_times`, the prompts of `omni_edge` have permuted time ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from omni_edge.bundle.manifest import PositionSection
from omni_edge.conversation import prompt
from omni_edge.decoders.tmrope import Ids, InterleavedVideo, Positions, interleave

Shuffle = Literal["tokens", "frames"]
"""tokens: the time ids of all tokens of a video, picture and sound, are permuted. frames: the times of whole frames are
permuted, so that each frame stays intact."""
SHUFFLES: tuple[Shuffle, ...] = get_args(Shuffle)


@contextmanager
def shuffled_times(shuffle: Shuffle, seed: int) -> Iterator[None]:
    """Permutes row 0 of the ids of every video inside of the block; height, width, order and text stay.

    Args:
        shuffle: which ids are permuted.
        seed: seeds the permutations.
    """
    rng = np.random.default_rng(seed)
    vision = Positions.vision

    def mixed(video: Ids, audio_tokens: int, section: PositionSection) -> InterleavedVideo:
        made = interleave(video, audio_tokens, section)
        seen = made.order < video.shape[1]
        return replace(made, offsets=_permuted(made.offsets, seen, shuffle, rng))

    def silent(self: Positions, times: Ids, height: int, width: int) -> Ids:
        ids = vision(self, times, height, width)
        return _permuted(ids, np.ones(ids.shape[1], np.bool_), shuffle, rng)

    # Replaced where they are looked up: the name in `prompt`, and the method.
    with _put(prompt, "interleave", mixed), _put(Positions, "vision", silent):
        yield


def _permuted(ids: Ids, seen: np.ndarray, shuffle: Shuffle, rng: np.random.Generator) -> Ids:
    """Permutes row 0 of `ids` [3, n]; `seen` bool [n] is True for tokens of frames and False for sound."""
    found = ids.copy()
    if shuffle == "tokens":
        found[0] = rng.permutation(ids[0])
    else:
        times, which = np.unique(ids[0, seen], return_inverse=True)
        found[0, seen] = rng.permutation(times)[which]
    return found


@contextmanager
def _put(owner: object, name: str, value: Callable[..., object]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
