"""Interruption: what was heard stays, playback and computing stop, an echo interrupts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import AudioChunk, OmniEdge, PcmBlock, Session, TextDelta, TurnDone
from omni_edge.live.events import Interrupted, SpeechStarted
from omni_edge.live.virtual_sink import VirtualSink
from omni_edge.live.voice_detector import VOICE_RATE
from support.conversation import FRAME, LONG, SPOKEN, TOKENS, Conversation, first_turn, kinds, reply, session
from support.spoken import question, silence


def interrupted(engine: OmniEdge, seconds: float, by_key: bool = False) -> tuple[Conversation, Interrupted, TurnDone]:
    """A conversation whose reply was interrupted after it was played for `seconds`, and answered again."""
    live = Conversation(engine, max_codec_tokens=LONG)
    live.say(np.concatenate([question(), silence(0.5)]))
    live.say(silence(seconds))
    if by_key:
        assert live.duplex.interrupt()
        assert not live.duplex.interrupt()
        live.run()
    live.say(np.concatenate([question(), silence(1)]))
    events = live.take(*SPOKEN)
    names = ["SpeechStarted", "SpeechStopped", "TurnDone", "Interrupted", "SpeechStarted", "SpeechStopped", "TurnDone"]
    assert kinds(events) == names
    return live, events[3], events[-1]


def only_heard(engine: OmniEdge, turns: NDArray[np.float32], cut: Interrupted) -> TurnDone:
    """The second reply of a conversation whose first one had the heard words and no more.

    Args:
        engine: the model.
        turns: the sound of both turns.
        cut: what was heard of the first reply.
    """
    other, first = session(engine), first_turn()
    np.testing.assert_array_equal(turns[: first.size], first)
    other.push(PcmBlock(first, VOICE_RATE, end=True))
    # A reply of no token is abandoned before its first one.
    ended = other.reply(max_new_tokens=max(1, cut.tokens), max_codec_tokens=1)
    if cut.tokens:
        assert [event.text for event in ended if isinstance(event, TurnDone)] == [cut.text]
    other.push(PcmBlock(turns[first.size :], VOICE_RATE, end=True))
    return reply(other, LONG)


@pytest.mark.parametrize("by_key", [False, True])
def test_an_interrupted_conversation_only_ever_had_the_heard_words(
    engine: OmniEdge, record: Callable[[Session], NDArray[np.float32]], by_key: bool
) -> None:
    seen: list[int] = []
    for seconds in (0.1, 0.5):
        live, cut, done = interrupted(engine, seconds, by_key)
        expected = only_heard(engine, record(live.session), cut)
        assert done.token_ids == expected.token_ids
        assert done.prompt_tokens == expected.prompt_tokens
        seen.append(cut.tokens)
    assert 0 <= seen[0] < seen[1] < TOKENS


def test_its_speech_only_ever_had_the_heard_words(
    exact_engine: OmniEdge, record: Callable[[Session], NDArray[np.float32]]
) -> None:
    live, cut, done = interrupted(exact_engine, 0.5)
    expected = only_heard(exact_engine, record(live.session), cut)
    assert done.token_ids == expected.token_ids
    assert done.codec_tokens == expected.codec_tokens
    assert len(done.codec_tokens) > 20


def test_a_noise_during_the_reply_changes_nothing(engine: OmniEdge) -> None:
    live = Conversation(engine)
    live.say(np.concatenate([question(), silence(0.5)]))
    before = live.session.offset
    live.say(np.concatenate([question()[4000:8000], silence(0.5)]))
    assert kinds(live.take(*SPOKEN)) == ["SpeechStarted", "SpeechStopped", "TurnDone"]
    assert live.session.offset == before
    assert live.duplex.playing


def test_generation_and_playback_stop_with_the_decision(engine: OmniEdge) -> None:
    live = Conversation(engine, max_new_tokens=200, max_codec_tokens=2000)
    live.say(np.concatenate([question(), silence(0.6)]), compute=False)
    live.until(AudioChunk)
    events = live.duplex.events()
    while live.sink.waiting < live.sink.rate:
        live.events.append(next(events))
    live.say(silence(0.2), compute=False)
    assert live.duplex.playing
    live.say(question()[: int(0.7 * VOICE_RATE)], compute=False)
    # Decided where the microphone is pushed, before the model takes another step.
    assert not live.duplex.playing
    assert live.sink.waiting == 0
    live.take()
    live.events += [next(events) for _ in range(3)]
    live.run()
    assert kinds(live.take(Interrupted, TextDelta, AudioChunk, TurnDone)) == ["Interrupted"]


def room(sink: VirtualSink) -> Iterator[NDArray[np.float32]]:
    """What a microphone hears of the loudspeaker: 80 ms later, 20 dB quieter, with 0.3 s of reverberation."""
    rng = np.random.default_rng(0)
    tail = rng.standard_normal(int(0.3 * VOICE_RATE)) * np.exp(-np.arange(int(0.3 * VOICE_RATE)) / (0.05 * VOICE_RATE))
    response = np.concatenate([np.zeros(int(0.08 * VOICE_RATE)), [1.0], 0.2 * tail]) * 10 ** (-20 / 20)
    heard = np.zeros(response.size + FRAME)
    step = sink.rate // VOICE_RATE if sink.rate % VOICE_RATE == 0 else None
    while True:
        played = sink.advance(sink.rate * FRAME // VOICE_RATE)
        source = played[::step] if step else np.interp(np.arange(FRAME) * 1.5, np.arange(played.size), played)
        heard = np.concatenate([heard[FRAME:], np.zeros(FRAME)])
        heard[: response.size + FRAME - 1] += np.convolve(source, response)
        yield heard[:FRAME].astype(np.float32)


@pytest.mark.parametrize("half_duplex", [True, False])
def test_the_echo_of_a_reply_is_no_turn_in_half_duplex(engine: OmniEdge, half_duplex: bool) -> None:
    live = Conversation(engine, half_duplex=half_duplex, max_new_tokens=30, max_codec_tokens=200)
    live.say(np.concatenate([question(), silence(0.5)]))
    assert live.sink.waiting > 1.4 * live.sink.rate
    echo = room(live.sink)
    loudest = 0.0
    for _ in range(250):
        block = next(echo)
        loudest = max(loudest, float(np.abs(block).max()))
        live.duplex.push(PcmBlock(block, VOICE_RATE))
        live.run()
    assert loudest > 0.02
    found = kinds(live.take(SpeechStarted, Interrupted))
    if half_duplex:
        assert found == ["SpeechStarted"]
        assert live.sink.waiting == 0
    else:
        # Without the gate the room interrupts the reply, and what is said next may still be waiting.
        assert found[:3] == ["SpeechStarted", "Interrupted", "SpeechStarted"]


def test_a_key_interrupts_in_half_duplex(engine: OmniEdge) -> None:
    live = Conversation(engine, half_duplex=True)
    live.say(np.concatenate([question(), silence(0.8)]))
    assert live.duplex.playing
    live.say(question()[: VOICE_RATE // 2])
    assert live.take(Interrupted) == []
    assert live.duplex.interrupt()
    live.run()
    (cut,) = live.take(Interrupted)
    assert 0.5 < cut.seconds < 1.3
    assert cut.text
    live.say(np.concatenate([silence(0.3), question(), silence(1)]))
    assert kinds(live.take(*SPOKEN)) == ["SpeechStarted", "SpeechStopped", "TurnDone"]
