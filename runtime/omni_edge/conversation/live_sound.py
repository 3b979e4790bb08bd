"""A live sound and the live video that belongs to it: which frames each chunk of 2 s shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.front_end import AudioFrontEndState

# A frame that comes this much after a moment is still the one that is visible then: one block of a microphone.
_TOLERANCE_SECONDS = 0.02

EncodeFrames = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Frames uint8 [n, height, width, 3] of whole temporal patches -> embeds float32 [m, hidden]."""


@dataclass(frozen=True)
class _Frame:
    """A frame, its number, and the seconds of sound before it."""

    number: int
    time: float
    pixels: NDArray[np.uint8]


@dataclass
class LiveVideo:
    """The frames of a live video, as a recording of it would be sampled: at every moment the frame visible then.

    Attributes:
        fps: moments per second.
        frames_per_patch: moments in a temporal patch.
        start: the id that its times count from; None: nothing of it was prefilled.
        sound_tokens: audio tokens that were prefilled.
        next_moment: the first moment that was not prefilled.
    """

    fps: int
    frames_per_patch: int
    start: int | None = None
    sound_tokens: int = 0
    next_moment: int = 0
    _frames: list[_Frame] = field(default_factory=list)
    _count: int = 0
    # Temporal patches of the present chunk that were encoded: first moment and frame numbers -> embeds.
    _encoded: dict[tuple[int, ...], NDArray[np.float32]] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the frames; None: there is none yet."""
        return (self._frames[0].pixels.shape[0], self._frames[0].pixels.shape[1]) if self._frames else None

    def add(self, pixels: NDArray[np.uint8], time: float) -> None:
        """A frame, uint8 [height, width, 3], visible from `time` seconds of the sound on."""
        self._frames.append(_Frame(self._count, time, pixels))
        self._count += 1

    def moments(self, seconds: float) -> int:
        """How many moments a video of `seconds` has."""
        return math.ceil(round(seconds * self.fps, 6))

    def embeds(self, first: int, count: int, encode: EncodeFrames) -> NDArray[np.float32]:
        """The embeds, float32 [m, hidden], of the temporal patches that show `count` moments from number `first` on.

        The last moment is repeated where a patch is not full. What was encoded before is not encoded again.
        """
        patches = []
        for start in range(first, first + count, self.frames_per_patch):
            moments = (min(start + each, first + count - 1) for each in range(self.frames_per_patch))
            shown = [self._visible(moment / self.fps) for moment in moments]
            key = (start, *(frame.number for frame in shown))
            if key not in self._encoded:
                self._encoded[key] = encode(np.stack([frame.pixels for frame in shown]))
            patches.append(self._encoded[key])
        return np.concatenate(patches)

    def forget(self, before: int) -> None:
        """Drops what no moment from number `before` on shows; that one comes next."""
        self.next_moment = before
        first = self._visible(before / self.fps).number
        self._frames = [frame for frame in self._frames if frame.number >= first]
        # Not in place: a snapshot may still need them.
        self._encoded = {key: embeds for key, embeds in self._encoded.items() if key[0] >= before}

    def copy(self) -> LiveVideo:
        """The same, independent of what comes later."""
        return replace(self, _frames=list(self._frames))

    def _visible(self, time: float) -> _Frame:
        """The last frame that had come at a time; the first one before that."""
        latest = time + _TOLERANCE_SECONDS
        return next((each for each in reversed(self._frames) if each.time <= latest), self._frames[0])


@dataclass
class LiveSound:
    """A sound that is pushed piece by piece.

    Attributes:
        state: that of the front end; None: only frames have come.
        begun: whether a block of it was prefilled.
        video: its frames; None: it has none.
    """

    state: AudioFrontEndState | None = None
    begun: bool = False
    video: LiveVideo | None = None

    def seconds(self, rate: int) -> float:
        """The sound so far, at the front end's `rate`."""
        return self.state.mel.received / rate if self.state is not None else 0.0

    def copy(self) -> LiveSound:
        """The same, independent of what comes later."""
        return LiveSound(deepcopy(self.state), self.begun, self.video.copy() if self.video is not None else None)
