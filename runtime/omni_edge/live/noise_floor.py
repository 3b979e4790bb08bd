"""The level of the room: what talks all the time around the user is noise, and the user is louder.

A detector of voices finds speech in a murmur of many voices too. The murmur hardly changes its level, while a speaker's
falls in every pause, so a low percentile of the recent levels is that of the room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Frames of 32 ms: those that a level is averaged over (0.16 s), those that the room is measured in (15 s), and those
# after which it is known (3 s): a user who speaks from the first sample on has made a pause by then.
_AVERAGED, _MEASURED, FIRST_FRAMES = 5, 469, 94
_PERCENTILE = 5
# Decibels above the room from which a voice is the user's, and down to which it stays so, before and after that.
_FIRST_ENTER, _ENTER, _FIRST_LEAVE, _LEAVE = 7.0, 9.0, 0.0, 3.5
# A muted microphone says nothing about the room.
_MUTED_POWER = 1e-9


@dataclass
class NoiseState:
    """The room around one microphone.

    Attributes:
        powers: mean squares of the last frames.
        levels: decibels of the averages.
        louder: whether the last frame was louder than the room.
    """

    powers: deque[float] = field(default_factory=lambda: deque(maxlen=_AVERAGED))
    levels: deque[float] = field(default_factory=lambda: deque(maxlen=_MEASURED))
    louder: bool = False


def is_louder(frame: NDArray[np.float32], state: NoiseState) -> bool:
    """Whether the next frame, float32 [n], is louder than the room."""
    power = float(np.mean(frame**2))
    state.powers.append(power)
    if power < _MUTED_POWER:
        state.louder = False
        return False
    level = 10 * float(np.log10(sum(state.powers) / len(state.powers)))
    state.levels.append(level)
    first = len(state.levels) <= FIRST_FRAMES
    enter, leave = (_FIRST_ENTER, _FIRST_LEAVE) if first else (_ENTER, _LEAVE)
    place = len(state.levels) * _PERCENTILE // 100
    room = float(np.partition(state.levels, place)[place])
    state.louder = level >= room + (leave if state.louder else enter)
    return state.louder
