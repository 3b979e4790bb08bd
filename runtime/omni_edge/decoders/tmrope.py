"""TMRoPE: three-dimensional position ids (time, height, width) aligned to real time, and the rotary tables they index.

Source: transformers `Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_rope_index`; technical report
arXiv 2503.20215, section 2.2. `Positions` yields the ids span by span, so that a prompt can be prefilled as it
arrives. Property tests compare it with the reference on whole prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import DecoderSection, PositionSection

Ids = NDArray[np.int64]


@dataclass
class Positions:
    """The next position ids of a growing context.

    Attributes:
        next: the id a following text token or span starts from.
        highest: the largest id in use; decoding continues after it.
    """

    next: int = 0
    highest: int = field(default=-1)

    def text(self, count: int) -> Ids:
        """Ids [3, count] of text or of sound alone: all three rise by one per token."""
        ids = np.arange(self.next, self.next + count)
        return self._take(np.broadcast_to(ids, (3, count)))

    def shared(self, count: int) -> Ids:
        """Ids [3, count] of marks that share one id (vision_bos + audio_bos around a video with sound)."""
        return self._take(np.full((3, count), self.next))

    def continued(self, count: int) -> Ids:
        """Ids [3, count] of decoded text: they follow the highest id in use."""
        self.next = self.highest + 1
        return self.text(count)

    def vision(self, times: Ids, height: int, width: int) -> Ids:
        """Ids [3, T * height * width] of temporal patches at the time ids `times` [T], in merged rows and columns."""
        return self._take(self.next + vision_grid(times, height, width))

    def interleaved(self, video: InterleavedVideo) -> Ids:
        """Ids [3, n] of a video with its sound; as in the reference, the next id follows the last run's largest one."""
        start = self.next
        ids = self._take(start + video.offsets)
        self.next = start + video.last + 1
        return ids

    def live_video(self, video: Ids, sound: Ids) -> Ids:
        """Ids [3, n + m] of the next chunk of a live video: its vision tokens' [3, n], then its sound's [m]."""
        ids = self._take(np.concatenate([video, np.broadcast_to(sound, (3, sound.size))], axis=1))
        self.next = int(sound[-1]) + 1
        return ids

    def _take(self, ids: Ids) -> Ids:
        if ids.shape[1]:
            largest = int(ids.max())
            self.next = largest + 1
            self.highest = max(self.highest, largest)
        return np.ascontiguousarray(ids, np.int64)


def vision_grid(times: Ids, height: int, width: int) -> Ids:
    """Offsets (time, row, column) of merged vision tokens, int64 [3, T * height * width]."""
    t, h, w = np.meshgrid(times, np.arange(height), np.arange(width), indexing="ij")
    return np.stack([t.ravel(), h.ravel(), w.ravel()]).astype(np.int64)


def time_ids(count: int, seconds_per_grid: float, section: PositionSection) -> Ids:
    """Time ids of `count` temporal patches; computed in float32 like the reference, which truncates."""
    steps = np.arange(count, dtype=np.float32) * np.float32(seconds_per_grid) * np.float32(section.ids_per_second)
    return steps.astype(np.int64)


def chunk_bounds(ids: Ids, ids_per_chunk: int) -> list[tuple[int, int]]:
    """The (start, stop) runs of ascending time offsets [n], one per interleaving chunk.

    As in the reference, a gap of several chunks closes only one of them per token that lies behind it.
    """
    bounds = []
    start, chunk = 0, 1
    for index, value in enumerate(ids.tolist()):
        if value >= chunk * ids_per_chunk:
            bounds.append((start, index))
            start = index
            chunk += 1
    bounds.append((start, len(ids)))
    return bounds


@dataclass(frozen=True)
class InterleavedVideo:
    """The order and the position offsets of a video's tokens with its sound.

    Attributes:
        order: int64 [n]; index into the concatenation of video tokens, then audio tokens.
        offsets: int64 [3, n] relative to the span's first id, in that order.
        last: the largest offset of the last run: the reference continues from there.
    """

    order: Ids
    offsets: Ids
    last: int


def interleave(video: Ids, audio_tokens: int, section: PositionSection) -> InterleavedVideo:
    """Cuts video offsets [3, n] and `audio_tokens` into 2-second chunks: each chunk's video, then its sound."""
    ids_per_chunk = int(section.ids_per_second * section.seconds_per_chunk)
    audio = np.broadcast_to(np.arange(audio_tokens), (3, audio_tokens))
    streams = [(video, 0), (audio, video.shape[1])]
    runs = [chunk_bounds(ids[0], ids_per_chunk) for ids, _ in streams]
    order, offsets = [], []
    for index in range(max(map(len, runs))):
        for (ids, base), bounds in zip(streams, runs, strict=True):
            if index < len(bounds) and bounds[index][0] < bounds[index][1]:
                start, stop = bounds[index]
                order.append(np.arange(base + start, base + stop))
                offsets.append(ids[:, start:stop])
    return InterleavedVideo(np.concatenate(order), np.concatenate(offsets, axis=1), int(offsets[-1].max()))


class RotaryTable:
    """Computes the rows of the cos/sin tables for given position ids."""

    def __init__(self, section: DecoderSection) -> None:
        pairs = section.rotary_dim // 2
        exponent = np.arange(0, section.rotary_dim, 2, dtype=np.float32) / np.float32(section.rotary_dim)
        # In float64, then rounded: the same on every machine and in every language.
        powers = np.float64(np.float32(section.rope_theta)) ** exponent.astype(np.float64)
        self._inverse = np.float32(1) / powers.astype(np.float32)
        self._axis = np.repeat(np.arange(3), section.mrope_section)
        self._width = section.head_dim // 2
        self._pairs = pairs

    def rows(self, ids: Ids) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin, float32 [n, head_dim / 2], for ids [3, n]; columns past the model's own pairs are zero."""
        angles = (ids[self._axis].T.astype(np.float32) * self._inverse).astype(np.float64)
        cos, sin = (np.zeros((ids.shape[1], self._width), np.float32) for _ in range(2))
        cos[:, : self._pairs], sin[:, : self._pairs] = np.cos(angles), np.sin(angles)
        return cos, sin
