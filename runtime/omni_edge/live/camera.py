"""The camera of a live conversation: which of its frames belong to a turn."""

from __future__ import annotations

from dataclasses import dataclass
from threading import RLock

from omni_edge.events import ImageFrame

# Frames that wait for the model at most; with more, the oldest are dropped.
_WAITING = 120
# A frame shows what is there up to so many periods later; then the camera counts as switched off.
_STALE_PERIODS = 3


@dataclass(frozen=True)
class TimedFrame:
    """A frame; `time` in seconds of the microphone."""

    time: float
    picture: ImageFrame


class Camera:
    """The frames that no turn has taken yet; safe from any thread.

    Args:
        fps: frames per second that the model sees. Frames that come faster than twice as often are dropped.
        lock: shared with the microphone.
    """

    def __init__(self, fps: int, lock: RLock) -> None:
        self._period, self._lock = 1 / fps, lock
        self._frames: list[TimedFrame] = []

    def add(self, frame: ImageFrame, time: float) -> None:
        """The next frame, seen at `time`."""
        with self._lock:
            if self._frames and time - self._frames[-1].time < self._period / 2:
                return
            self._frames.append(TimedFrame(time, frame))
            del self._frames[:-_WAITING]

    def forget(self, before: float) -> None:
        """Drops the frames before a time, but for the last one of them: no turn can need the others."""
        with self._lock:
            earlier = sum(frame.time <= before for frame in self._frames)
            del self._frames[: max(0, earlier - 1)]

    def take(self, begin: float, end: float) -> list[TimedFrame]:
        """The frames that a piece of a turn from `begin` to `end` shows; each frame is taken once.

        The last frame before `begin` counts as one at `begin`; earlier ones are dropped.
        """
        with self._lock:
            self.forget(begin)
            taken = [frame for frame in self._frames if frame.time < end]
            self._frames = self._frames[len(taken) :]
        if taken and self._stale(taken[0], begin):
            del taken[0]
        return [TimedFrame(max(frame.time, begin), frame.picture) for frame in taken]

    def latest(self, time: float) -> ImageFrame | None:
        """What is seen at a time; None: the camera is off."""
        with self._lock:
            frame = self._frames[-1] if self._frames else None
        return None if frame is None or self._stale(frame, time) else frame.picture

    def _stale(self, frame: TimedFrame, time: float) -> bool:
        return time - frame.time > _STALE_PERIODS * self._period
