"""The sound of a container as mono samples at one rate, each at its time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import MediaError
from omni_edge.media.container import Decoding, by_preference, check_length, decodable, is_broadcast, open_container
from omni_edge.media.source import Source

# Time stamps are rounded, and clocks drift: less than this is no gap.
_SMALLEST_GAP_SECONDS = 0.1
_LARGEST_BROADCAST_GAP_SECONDS = 10.0


@dataclass(frozen=True)
class SoundTrack:
    """Decoded sound.

    Attributes:
        samples: float32 [n], the mean of the channels; n is 0 where the track holds no sample.
        rate: samples per second; that of the first part where the rate changes.
        start: time of the first sample in seconds.
    """

    samples: NDArray[np.float32]
    rate: int
    start: float


def decode_sound(source: Source, longest: float, advice: str = "") -> SoundTrack | None:
    """The default sound track, or another where that holds no sample; None where the file has no sound track.

    Args:
        source: the file.
        longest: seconds; more is refused while it is being decoded.
        advice: what else to do about a sound that is too long.

    Raises:
        MediaError: too long, damaged or cut off, without a decoder, or PyAV is not installed.
    """
    track = None
    for index in itertools.count():
        with open_container(source) as container:
            streams = by_preference(list(container.streams.audio))
            if index >= len(streams):
                return track
            track = _decode(container, decodable(streams[index], source), source, longest, advice)
            if track.samples.size:
                return track
    return track


def _decode(container: Any, stream: Any, source: Source, longest: float, advice: str) -> SoundTrack:
    timeline: _Timeline | None = None
    decoding = Decoding(container, stream, source)
    largest_gap = _LARGEST_BROADCAST_GAP_SECONDS if is_broadcast(container) else None
    for frame in decoding:
        if not frame.samples or not frame.sample_rate:
            continue
        if timeline is None:
            timeline = _Timeline(frame.sample_rate, frame.time or 0.0, largest_gap)
        timeline.append(frame, longest)
        if timeline.count > longest * timeline.rate:
            raise MediaError(
                f"{source.name} holds more than {longest:.0f} s of sound. Cut out the part that matters{advice}."
            )
    if timeline is None:
        return SoundTrack(np.empty(0, np.float32), 0, 0.0)
    timeline.flush()
    if decoding.pauses:
        timeline.fill_until(decoding.end, longest)
    check_length(container, stream, source, timeline.count / timeline.rate)
    return SoundTrack(timeline.samples(), timeline.rate, timeline.start)


class _Timeline:
    """Samples laid one after another, with silence where the time stamps leave a gap.

    Args:
        rate: samples per second.
        start: time of the first sample in seconds.
        largest_gap: seconds; a larger one is a jump of the clock; None: there are no such jumps.
    """

    def __init__(self, rate: int, start: float, largest_gap: float | None) -> None:
        self.rate, self.start, self.count = rate, start, 0
        self._largest_gap = largest_gap
        # Time that sample 0 would have by the present clock.
        self._origin = start
        self._parts: list[NDArray[np.float32]] = []
        self._form: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def append(self, frame: Any, longest: float) -> None:
        """Takes the next frame."""
        import av  # noqa: PLC0415

        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            self.flush()
            self._form = form
            self._resampler = av.AudioResampler(format="fltp", rate=self.rate)
        self.fill_until(frame.time, longest)
        self._resample(frame)

    def flush(self) -> None:
        """Takes what the resampler holds back."""
        if self._resampler is not None:
            self._resample(None)
            self._resampler = None

    def fill_until(self, time: float | None, longest: float) -> None:
        """Silence up to `time`, at most a sample more than `longest` seconds. A clock that jumps is set anew."""
        if time is None:
            return
        gap = time - self._origin - self.count / self.rate
        if gap < -_SMALLEST_GAP_SECONDS or (self._largest_gap is not None and gap > self._largest_gap):
            self._origin += gap
        elif gap > _SMALLEST_GAP_SECONDS:
            limit = int(longest * self.rate) + 1 - self.count
            self._put(np.zeros(max(min(round(gap * self.rate), limit), 0), np.float32))

    def samples(self) -> NDArray[np.float32]:
        """float32 [count]."""
        return np.concatenate(self._parts)

    def _resample(self, frame: Any) -> None:
        for piece in self._resampler.resample(frame):
            self._put(piece.to_ndarray().mean(axis=0, dtype=np.float32))

    def _put(self, samples: NDArray[np.float32]) -> None:
        self._parts.append(samples)
        self.count += samples.size
