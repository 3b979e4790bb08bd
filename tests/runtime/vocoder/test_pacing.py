"""How large chunks may be: a listener, a clock and a machine of known speed, all of them simulated."""

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
class Listener:
    """Plays what a paced machine gives it.

    Attributes:
        rtf: chunk size, number of the chunk -> compute seconds per second of sound.
        sizes: of the chunks so far.
        silences: how long it had nothing to play, each time.
    """

    pacing: PacingSettings
    rtf: Callable[[int, int], float]
    sizes: list[int] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    ease: Callable[[], None] | None = None

    def hear(self, chunks: int, lengths: dict[int, float] | None = None) -> Listener:
        """`lengths`: number of a chunk -> seconds of sound, where a reply ends in the middle of one."""
        now = dry = 0.0
        pacing = Pacing(self.pacing, BLOCK, lambda: now)
        for chunk in range(chunks):
            if pacing.too_slow and self.ease:
                self.ease()
                pacing.evaluations_halved()
            size = pacing.chunk_blocks
            seconds = (lengths or {}).get(chunk, size * BLOCK)
            now += self.rtf(size, chunk) * size * BLOCK
            if chunk and now > dry:
                self.silences.append(now - dry)
            dry = max(dry, now) + seconds
            self.sizes.append(size)
            pacing.chunk_emitted(seconds)
        return self


def test_a_fast_machine_grows_as_fast_as_it_may() -> None:
    """The first chunk says nothing of speed: what came before the reply is in its time."""
    heard = Listener(PacingSettings(largest_chunk=8), lambda size, _: 0.25).hear(7)
    assert heard.sizes == [1, 1, 2, 4, 8, 8, 8]
    assert heard.silences == []


def test_a_machine_near_real_time_grows_when_enough_is_waiting() -> None:
    """0.8 at every size: each block adds 0.048 s to what waits; two need 0.384 of 0.75 of it."""
    heard = Listener(PacingSettings(largest_chunk=4), lambda size, _: 0.8).hear(60)
    assert heard.silences == []
    assert heard.sizes[:8] == [1, 1, 1, 1, 1, 1, 1, 2]
    assert heard.sizes[-1] == 4
    assert heard.sizes == sorted(heard.sizes)


@pytest.mark.parametrize("fastest", [0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("seed", range(5))
def test_no_silence_below_real_time(fastest: float, seed: int) -> None:
    """Chunks that vary by a tenth to each side, larger ones cheaper."""
    jitter = np.random.default_rng(seed).uniform(0.9, 1.1, 200)
    heard = Listener(PacingSettings(), lambda size, chunk: fastest * (0.8 + 0.2 / size) * float(jitter[chunk])).hear(
        200
    )
    assert heard.silences == []
    assert heard.sizes[-1] == 8


def test_chunks_grow_until_they_are_faster_than_real_time() -> None:
    """Measured of token2wav at 1, 2 and 4 blocks: two silences on the way, none once two blocks are tried."""
    rtf = {1: 1.5, 2: 0.92, 4: 0.78, 8: 0.75}
    heard = Listener(PacingSettings(), lambda size, _: rtf[size]).hear(80)
    assert heard.sizes[:4] == [1, 1, 2, 2]
    assert heard.silences == pytest.approx([(1.5 - 1) * BLOCK, (2 * 0.92 - 1) * BLOCK])
    assert 1 not in heard.sizes[2:]
    assert heard.sizes[-1] == 8


def test_a_machine_slower_than_real_time_takes_the_largest_ticks() -> None:
    """Silence comes either way: the cheapest chunks make it shortest."""
    heard = Listener(PacingSettings(largest_chunk=4), lambda size, _: 1.2 + 0.3 / size).hear(10)
    assert heard.sizes == [1, 1, 2, 4, 4, 4, 4, 4, 4, 4]


def test_a_pause_is_survived() -> None:
    """The machine is busy with something else for a while, then as fast as before."""

    def rtf(_: int, chunk: int) -> float:
        return 4.0 if 3 <= chunk < 6 else 0.4

    during, after = (Listener(PacingSettings(), rtf).hear(chunks) for chunks in (6, 60))
    assert len(during.silences) == 3
    assert after.silences == during.silences
    assert after.sizes[-1] == 8


def test_fewer_evaluations_where_chunks_cannot_grow() -> None:
    speed = [1.6]

    def ease() -> None:
        speed[0] /= 2

    heard = Listener(PacingSettings(largest_chunk=2), lambda *_: speed[0], ease=ease).hear(20)
    assert speed == [0.8]
    assert heard.sizes[:3] == [1, 1, 2]
    # Chunks 1 and 2 were late; the third, at half the cost, comes in time.
    assert len(heard.silences) == 2


def test_the_end_of_a_reply_may_be_short_or_empty() -> None:
    heard = Listener(PacingSettings(), lambda *_: 0.5).hear(6, {4: 0.0, 5: 0.02})
    assert len(heard.sizes) == 6


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
