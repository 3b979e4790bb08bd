"""Chunk sizes by the clock: simulated playback on a machine of known speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from omni_edge.errors import UsageError
from omni_edge.vocoder.pacing import Pacing, PacingSettings

BLOCK = 0.24


@dataclass
class Playback:
    """Plays the chunks of a simulated machine in real time.

    Attributes:
        settings: limits of the pacing.
        rtf: (chunk size, index of the chunk) -> compute seconds per second of sound.
        sizes: blocks of each chunk.
        silences: seconds of each silence.
        halve: called when the pacing is too slow; None: nothing is.
    """

    settings: PacingSettings
    rtf: Callable[[int, int], float]
    sizes: list[int] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    halve: Callable[[], None] | None = None

    def run(self, chunks: int, lengths: dict[int, float] | None = None) -> Playback:
        """Plays `chunks` chunks. `lengths` maps the index of a chunk to its seconds of sound where it is not full."""
        now = buffer_end = 0.0
        pacing = Pacing(self.settings, BLOCK, lambda: now)
        for chunk in range(chunks):
            if pacing.too_slow and self.halve:
                self.halve()
                pacing.evaluations_halved()
            size = pacing.chunk_blocks
            seconds = (lengths or {}).get(chunk, size * BLOCK)
            now += self.rtf(size, chunk) * size * BLOCK
            if chunk and now > buffer_end:
                self.silences.append(now - buffer_end)
            buffer_end = max(buffer_end, now) + seconds
            self.sizes.append(size)
            pacing.chunk_emitted(seconds)
        return self


def test_chunks_double_on_a_fast_machine() -> None:
    """The first chunk gives no speed, because its time includes everything before the reply."""
    playback = Playback(PacingSettings(largest_chunk=8), lambda size, _: 0.25).run(7)
    assert playback.sizes == [1, 1, 2, 4, 8, 8, 8]
    assert playback.silences == []


def test_chunks_grow_near_real_time_when_the_buffer_covers_them() -> None:
    """RTF 0.8 at every size: a block adds 0.048 s to the buffer; two blocks need 0.384 s of 0.75 of it."""
    playback = Playback(PacingSettings(largest_chunk=4), lambda size, _: 0.8).run(60)
    assert playback.silences == []
    assert playback.sizes[:8] == [1, 1, 1, 1, 1, 1, 1, 2]
    assert playback.sizes[-1] == 4
    assert playback.sizes == sorted(playback.sizes)


@pytest.mark.parametrize("fastest", [0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("seed", range(5))
def test_no_silence_below_real_time(fastest: float, seed: int) -> None:
    """Speeds vary by a tenth to each side; larger chunks are cheaper."""
    jitter = np.random.default_rng(seed).uniform(0.9, 1.1, 200)
    playback = Playback(PacingSettings(), lambda size, chunk: fastest * (0.8 + 0.2 / size) * float(jitter[chunk])).run(
        200
    )
    assert playback.silences == []
    assert playback.sizes[-1] == 8


def test_chunks_grow_until_they_are_faster_than_real_time() -> None:
    """RTF of token2wav at 1, 2 and 4 blocks: two silences, and none after the first chunk of two blocks."""
    rtf = {1: 1.5, 2: 0.92, 4: 0.78, 8: 0.75}
    playback = Playback(PacingSettings(), lambda size, _: rtf[size]).run(80)
    assert playback.sizes[:4] == [1, 1, 2, 2]
    assert playback.silences == pytest.approx([(1.5 - 1) * BLOCK, (2 * 0.92 - 1) * BLOCK])
    assert 1 not in playback.sizes[2:]
    assert playback.sizes[-1] == 8


def test_a_machine_slower_than_real_time_takes_the_largest_ticks() -> None:
    """Silence is inevitable; the cheapest chunks make it shortest."""
    playback = Playback(PacingSettings(largest_chunk=4), lambda size, _: 1.2 + 0.3 / size).run(10)
    assert playback.sizes == [1, 1, 2, 4, 4, 4, 4, 4, 4, 4]


def test_a_pause_is_survived() -> None:
    """The machine is slow for three chunks, then as fast as before."""

    def rtf(_: int, chunk: int) -> float:
        return 4.0 if 3 <= chunk < 6 else 0.4

    during, after = (Playback(PacingSettings(), rtf).run(chunks) for chunks in (6, 60))
    assert len(during.silences) == 3
    assert after.silences == during.silences
    assert after.sizes[-1] == 8


def test_fewer_evaluations_where_chunks_cannot_grow() -> None:
    speed = [1.6]

    def halve() -> None:
        speed[0] /= 2

    playback = Playback(PacingSettings(largest_chunk=2), lambda *_: speed[0], halve=halve).run(20)
    assert speed == [0.8]
    assert playback.sizes[:3] == [1, 1, 2]
    # Chunks 1 and 2 are late; chunk 3 has half the cost and is in time.
    assert len(playback.silences) == 2


def test_the_end_of_a_reply_may_be_short_or_empty() -> None:
    playback = Playback(PacingSettings(), lambda *_: 0.5).run(6, {4: 0.0, 5: 0.02})
    assert len(playback.sizes) == 6


def test_a_reply_starts_afresh() -> None:
    now = 0.0
    pacing = Pacing(PacingSettings(), BLOCK, lambda: now)
    for _ in range(4):
        pacing.chunk_emitted(pacing.chunk_blocks * BLOCK)
    assert pacing.chunk_blocks == 8
    pacing.reset()
    assert pacing.chunk_blocks == 1
    now = 100.0
    pacing.chunk_emitted(BLOCK)
    assert pacing.chunk_blocks == 1


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (3, [1, 2]), (4, [1, 2, 4]), (9, [1, 2, 4, 8])])
def test_sizes_double(largest: int, sizes: list[int]) -> None:
    assert PacingSettings(largest).sizes == sizes


@pytest.mark.parametrize(
    "settings", [{"largest_chunk": 0}, {"reserve": 1.0}, {"reserve": -0.1}, {"min_evaluations": 0}]
)
def test_impossible_pacing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is impossible"):
        PacingSettings(**settings)
