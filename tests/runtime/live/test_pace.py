"""Speech on a slow machine, by a clock of the test's own: silence falls between phrases, and never inside one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import AudioChunk, OmniEdge, Session, TextDelta, TurnDone
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import Underrun
from omni_edge.live.hearing import Hearing
from omni_edge.live.phrases import Phrases
from omni_edge.live.virtual_sink import VirtualSink
from support.spoken import LoudnessDetector

RATE = 24_000
# Seconds of the chunks of a slow machine, as the paced schedule makes them.
CHUNKS = (0.24, 0.24, 0.48, 0.96, 1.92)


def spoken(phrases: Sequence[float]) -> NDArray[np.float32]:
    """Words of 0.3 s with gaps of 0.05 s between them; phrases of these seconds, with pauses of 0.3 s behind them."""
    values = np.random.default_rng(0)
    parts = [np.zeros(RATE // 10, np.float32)]
    for seconds in phrases:
        voice = values.standard_normal(round(seconds * RATE)).astype(np.float32) * 0.1
        word = np.arange(voice.size) % round(0.35 * RATE) < round(0.3 * RATE)
        parts += [voice * word, np.zeros(round(0.3 * RATE), np.float32)]
    return np.concatenate(parts)


class Machine(VirtualSink):
    """Computes speech `rtf` times as slow as real time while it plays it; has the clock of both.

    Attributes:
        gaps: (sample before which nothing could be played, seconds).
        began: when the first sample was played.
    """

    def __init__(self, rtf: float, chunks: Sequence[float]) -> None:
        super().__init__(RATE)
        self.now, self.rtf, self.chunks = 0.0, rtf, chunks
        self.gaps: list[tuple[int, float]] = []
        self.began: float | None = None

    def write(self, samples: NDArray[np.float32]) -> None:
        super().write(samples)
        self.began = self.now if self.began is None else self.began

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        count = round(seconds * RATE)
        dry = max(0, count - self.waiting)
        self.advance(count)
        if dry and self.played:
            if self.gaps and self.gaps[-1][0] == self.played:
                dry += round(self.gaps.pop()[1] * RATE)
            self.gaps.append((self.played, dry / RATE))

    def reply(self, speech: NDArray[np.float32]) -> Iterator[Any]:
        """What a session yields."""
        yield TextDelta("Hello.", (1,))
        self.pass_time(self.rtf * self.chunks[0])  # the look-ahead of the first chunk
        start, number = 0, 0
        while start < speech.size:
            chunk = speech[start : start + round(self.chunks[min(number, len(self.chunks) - 1)] * RATE)]
            self.pass_time(self.rtf * chunk.size / RATE)
            yield AudioChunk(chunk, RATE, start)
            start, number = start + chunk.size, number + 1
        yield TurnDone("Hello.", (1,), (), 0, "stop")


def answer(
    engine: OmniEdge,
    monkeypatch: pytest.MonkeyPatch,
    rtf: float,
    speech: NDArray[np.float32],
    chunks: Sequence[float] = CHUNKS,
) -> tuple[Machine, list[Any]]:
    """A live conversation whose reply is that speech; its loudspeaker, and what happened."""
    machine = Machine(rtf, chunks)
    monkeypatch.setattr(Session, "reply", lambda *unused, **settings: machine.reply(speech))
    session = engine.session(seed=1)
    duplex = Duplex(session, Hearing(LoudnessDetector()), sink=machine, clock=lambda: machine.now)
    duplex.ask("Hello?")
    events = list(duplex.events(wait=False))
    while machine.waiting:
        machine.pass_time(0.01)
    # The silence behind the last sample is none of its gaps.
    machine.gaps = [gap for gap in machine.gaps if gap[0] < speech.size]
    assert machine.played == speech.size
    return machine, events


@pytest.mark.parametrize("rtf", [0.95, 1.2, 1.5, 2, 3])
@pytest.mark.parametrize("phrases", [(1.4, 2.1, 0.7, 3.2), (4.6, 0.5, 4.7), (0.35, 0.35, 4.0)])
def test_silence_falls_between_phrases(
    engine: OmniEdge, monkeypatch: pytest.MonkeyPatch, rtf: float, phrases: tuple[float, ...]
) -> None:
    speech = spoken(phrases)
    machine, events = answer(engine, monkeypatch, rtf, speech)
    for sample, _ in machine.gaps:
        assert np.abs(speech[sample - RATE // 50 : sample + RATE // 50]).max() == 0
    reported = [event for event in events if isinstance(event, Underrun)]
    assert all(event.at_pause for event in reported)
    assert [event.seconds for event in reported] == pytest.approx([seconds for _, seconds in machine.gaps], abs=1e-3)
    # It begins before all of it is there.
    assert machine.began is not None
    assert machine.began < rtf * (0.24 + speech.size / RATE) - 0.5


@pytest.mark.parametrize("rtf", [0.1, 0.5, 0.7])
def test_a_fast_machine_holds_nothing_back(engine: OmniEdge, monkeypatch: pytest.MonkeyPatch, rtf: float) -> None:
    # The paced schedule makes no chunk larger than the buffer covers.
    chunks = (0.24, 0.24, 0.48) if rtf <= 0.5 else (0.24,)
    machine, events = answer(engine, monkeypatch, rtf, spoken([2.5, 3.0]), chunks)
    assert machine.began == pytest.approx(rtf * 0.48)
    assert [event for event in events if isinstance(event, Underrun)] == []


@pytest.mark.parametrize("rtf", [1.5, 4.5])
def test_speech_without_a_pause_is_split_between_words(
    engine: OmniEdge, monkeypatch: pytest.MonkeyPatch, rtf: float
) -> None:
    speech = spoken([20.0])
    machine, events = answer(engine, monkeypatch, rtf, speech)
    assert len(machine.gaps) >= 3
    for sample, _ in machine.gaps:
        assert np.abs(speech[sample - RATE // 50 : sample + RATE // 50]).max() == 0
    assert all(event.at_pause for event in events if isinstance(event, Underrun))
    # 2.5 s and the rest of a chunk are computed before the first word is heard, and not 5 s.
    assert machine.began is not None
    assert machine.began < rtf * (0.24 + 2.5 + 1.92)


def test_a_gap_inside_a_word_is_reported(engine: OmniEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    speech = np.random.default_rng(0).standard_normal(12 * RATE).astype(np.float32) * 0.1
    machine, events = answer(engine, monkeypatch, 3, speech)
    reported = [event for event in events if isinstance(event, Underrun)]
    assert len(reported) == len(machine.gaps) > 0
    assert not any(event.at_pause for event in reported)


def test_what_is_held_back_does_not_depend_on_the_pieces() -> None:
    speech = spoken([1.4, 2.0])
    first_phrase = round((0.1 + 1.35 + 0.15) * RATE)
    for piece in (1000, 7777, speech.size):
        phrases, out = Phrases(RATE), []
        for start in range(0, speech.size, piece):
            phrases.add(speech[start : start + piece])
            out.append(phrases.let_out(0.0, 10.0))
        # The last pause ends in the last piece, and with it the second phrase.
        assert sum(part.size for part in out) + phrases.held == speech.size
        lengths = [part.size for part in out if part.size]
        assert lengths[0] == pytest.approx(first_phrase, abs=RATE // 100) or piece == speech.size
        np.testing.assert_array_equal(np.concatenate([*out, phrases.rest()]), speech)
