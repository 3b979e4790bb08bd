"""A live conversation on a virtual clock: pushed in frames of 20 ms, faster than real time, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import (
    AudioChunk,
    AudioClip,
    ContextFullError,
    ImageFrame,
    OmniEdge,
    PcmBlock,
    Sampling,
    Session,
    TextDelta,
    TurnDone,
    UsageError,
    VideoClip,
)
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import (
    ContextUse,
    Interrupted,
    Level,
    LiveEvent,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
)
from omni_edge.live.hearing import Hearing
from omni_edge.live.virtual_sink import VirtualSink
from omni_edge.live.voice_detector import VOICE_RATE
from support.spoken import LoudnessDetector, question, silence
from support.turns import waves

TOKENS, CODEC_TOKENS = 12, 60
# Codec tokens of a reply that is long enough to be interrupted: 4 s.
LONG = 200
FRAME = 320
GREEDY = Sampling(temperature=0)


def session(engine: OmniEdge, speech: bool = True, context: int | None = None) -> Session:
    return engine.session(seed=4, speech=speech, context=context, sampling=GREEDY, talker_sampling=GREEDY)


class Conversation:
    """A `Duplex`, its loudspeaker, and what happened; `say` moves the clock."""

    def __init__(
        self,
        engine: OmniEdge,
        *,
        speech: bool = True,
        half_duplex: bool = False,
        context: int | None = None,
        **limits: int,
    ) -> None:
        self.session = session(engine, speech, context)
        assert engine.manifest.token2wav is not None
        self.sink = VirtualSink(engine.manifest.token2wav.sample_rate)
        settings: dict[str, Any] = {"max_new_tokens": TOKENS, "max_codec_tokens": CODEC_TOKENS, **limits}
        hearing = Hearing(LoudnessDetector())
        self.duplex = Duplex(self.session, hearing, sink=self.sink, half_duplex=half_duplex, **settings)
        self.events: list[LiveEvent] = []

    def say(self, samples: NDArray[np.float32], compute: bool = True) -> None:
        """Pushes a sound in frames; the loudspeaker plays meanwhile, and `compute` says whether the model runs."""
        for start in range(0, samples.size - FRAME + 1, FRAME):
            self.sink.advance(self.sink.rate * FRAME // VOICE_RATE)
            self.duplex.push(PcmBlock(samples[start : start + FRAME], VOICE_RATE))
            if compute:
                self.run()

    def run(self) -> None:
        """Computes until nothing is left to do."""
        self.events += self.duplex.events(wait=False)

    def until(self, kind: type) -> None:
        """Computes up to the first event of a kind."""
        for event in self.duplex.events():
            self.events.append(event)
            if isinstance(event, kind):
                return

    def take(self, *kinds: type) -> list[Any]:
        """The events of these kinds so far, in order; forgets all."""
        found = [event for event in self.events if isinstance(event, kinds)]
        self.events = []
        return found


SPOKEN = SpeechStarted, SpeechStopped, SpeechResumed, TurnDone, Interrupted


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def plain(engine: OmniEdge, samples: NDArray[np.float32], speech: bool = True) -> Session:
    """The conversation of a caller who knows the turn's end: the sound, without speculation."""
    one = session(engine, speech)
    one.push(PcmBlock(samples, VOICE_RATE, end=True))
    return one


def reply(one: Session, max_codec_tokens: int = CODEC_TOKENS) -> TurnDone:
    done = list(one.reply(max_new_tokens=TOKENS, max_codec_tokens=max_codec_tokens))[-1]
    assert isinstance(done, TurnDone)
    return done


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[[Session], NDArray[np.float32]]:
    """What a session was pushed as live sound, all of it that it was not taken back from."""
    pushed: dict[Session, list[NDArray[np.float32]]] = {}
    push = Session.push

    def recording(self: Session, item: Any) -> None:
        if isinstance(item, PcmBlock) and item.samples.size:
            pushed.setdefault(self, []).append(np.asarray(item.samples))
        push(self, item)

    monkeypatch.setattr(Session, "push", recording)
    return lambda one: np.concatenate(pushed[one])


def test_a_question_is_answered(engine: OmniEdge, record: Callable[[Session], NDArray[np.float32]]) -> None:
    live = Conversation(engine)
    spoken = np.concatenate([silence(1), question(), silence(1)])
    live.say(spoken)
    events = live.take(*SPOKEN)
    assert kinds(events) == ["SpeechStarted", "SpeechStopped", "TurnDone"]
    started, stopped, done = events
    assert started.time == pytest.approx(0.75, abs=0.1)
    assert stopped.time == pytest.approx(2.3, abs=0.15)
    turn = record(live.session)
    # The turn is a piece of what the microphone gave: nothing is lost or repeated.
    begin = round(started.time * VOICE_RATE)
    np.testing.assert_array_equal(turn, spoken[begin : begin + turn.size])
    expected = reply(plain(engine, turn))
    assert done.token_ids == expected.token_ids
    assert done.codec_tokens == expected.codec_tokens
    assert done.prompt_tokens == expected.prompt_tokens


def test_the_system_prompt_is_prefilled_before_anybody_speaks(engine: OmniEdge) -> None:
    live, other = Conversation(engine), session(engine)
    live.run()
    opening = live.session.offset
    assert opening > 4
    live.session.push("Hi")
    other.push("Hi")
    assert live.session.offset == other.offset > opening
    spoken, expected = reply(live.session), reply(other)
    assert (spoken.token_ids, spoken.codec_tokens) == (expected.token_ids, expected.codec_tokens)


def test_a_reply_computed_in_advance_leaves_no_trace_when_the_user_continues(
    engine: OmniEdge, record: Callable[[Session], NDArray[np.float32]]
) -> None:
    live = Conversation(engine)
    live.say(np.concatenate([question(), silence(0.1), question(), question(), silence(1)]))
    events = live.take(SpeechStarted, SpeechStopped, SpeechResumed, TextDelta, TurnDone)
    assert kinds(events)[:2] == ["SpeechStarted", "SpeechStopped"]
    done = events[-1]
    assert kinds(events).count("TurnDone") == 1
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == done.text
    expected = reply(plain(engine, record(live.session)))
    assert (done.token_ids, done.codec_tokens) == (expected.token_ids, expected.codec_tokens)


def test_the_reply_is_computed_in_the_silence_but_comes_out_at_its_end(engine: OmniEdge) -> None:
    live = Conversation(engine)
    used = live.session.offset
    live.say(np.concatenate([question(), silence(0.02)]))
    assert kinds(live.take(*SPOKEN)) == ["SpeechStarted"]
    # 0.4 s of the clip's end are silence: the reply is complete, and nothing of it is seen.
    assert live.session.offset > used + TOKENS
    assert live.sink.waiting == 0
    live.say(silence(0.3))
    events = live.take(SpeechStopped, TextDelta, AudioChunk, TurnDone)
    assert kinds(events)[0] == "SpeechStopped"
    assert kinds(events)[-1] == "TurnDone"
    assert live.sink.waiting + live.sink.played == sum(e.samples.size for e in events if isinstance(e, AudioChunk)) > 0


def test_both_halves_are_one_turn_when_nothing_was_played(
    engine: OmniEdge, record: Callable[[Session], NDArray[np.float32]]
) -> None:
    live = Conversation(engine)
    # The model is too slow to say anything before the user goes on.
    live.say(np.concatenate([question(), silence(0.7), question()]), compute=False)
    live.say(silence(1))
    events = live.take(*SPOKEN)
    assert kinds(events) == ["SpeechStarted", "SpeechStopped", "SpeechResumed", "SpeechStopped", "TurnDone"]
    expected = reply(plain(engine, record(live.session)))
    assert events[-1].token_ids == expected.token_ids
    assert events[-1].prompt_tokens == expected.prompt_tokens


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


def first_turn() -> NDArray[np.float32]:
    """The sound of a turn that is `question` alone."""
    return turn_in(np.concatenate([question(), silence(1)]))


def turn_in(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the turn in a sound holds."""
    hearing = Hearing(LoudnessDetector())
    pieces = [sound[start : start + FRAME] for start in range(0, sound.size, FRAME)]
    return np.concatenate([heard.samples for piece in pieces for heard in hearing.step(piece, VOICE_RATE)])


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


def test_typed_turns_and_pictures_take_part(engine: OmniEdge) -> None:
    live = Conversation(engine, speech=False)
    picture = ImageFrame(waves(60, 84))
    live.duplex.push(picture)
    live.duplex.ask("What is it?")
    live.run()
    (done,) = live.take(TurnDone)
    other = session(engine, speech=False)
    other.push(picture)
    other.push("What is it?")
    assert done.token_ids == reply(other).token_ids
    # A line that is typed while the user speaks ends the turn.
    live.say(question())
    live.duplex.ask("Answer.")
    live.run()
    assert kinds(live.take(*SPOKEN)) == ["SpeechStarted", "TurnDone"]


def test_push_to_talk_and_a_key_that_was_only_touched(engine: OmniEdge) -> None:
    one = session(engine, speech=False)
    duplex = Duplex(one, Hearing(None), max_new_tokens=TOKENS)
    assert list(duplex.events(wait=False)) == []
    before = one.offset
    duplex.begin_turn()
    duplex.push(PcmBlock(silence(0.02), VOICE_RATE))
    duplex.end_turn()
    assert kinds([e for e in duplex.events(wait=False) if isinstance(e, SPOKEN)]) == ["SpeechStarted", "SpeechStopped"]
    assert one.offset == before
    assert not one.turn_open
    duplex.push(PcmBlock(question(), VOICE_RATE))
    duplex.begin_turn()
    duplex.push(PcmBlock(question(), VOICE_RATE))
    duplex.close()
    done = [event for event in duplex.events() if isinstance(event, TurnDone)]
    assert [each.token_ids for each in done] == [reply(plain(engine, question(), speech=False)).token_ids]
    # A microphone does not stop at once; who types or shows something has to know.
    duplex.push(PcmBlock(question(), VOICE_RATE))
    assert list(duplex.events()) == []
    with pytest.raises(UsageError, match="was closed"):
        duplex.ask("Hello.")


def test_leaving_keeps_what_was_heard_and_forgets_an_open_turn(engine: OmniEdge, tmp_path: Path) -> None:
    live = Conversation(engine)
    live.say(np.concatenate([question(), silence(0.9)]))
    assert live.duplex.playing
    used = live.session.offset
    live.duplex.leave()
    assert 0 < live.session.offset < used
    assert live.sink.waiting == 0
    live.session.save(tmp_path / "talk.omni")
    assert engine.resume(tmp_path / "talk.omni").offset == live.session.offset

    # A reply is computed in advance, and the turn may still go on.
    other = Conversation(engine)
    other.run()
    before = other.session.offset
    other.say(question())
    assert other.session.offset > before
    other.duplex.leave()
    assert other.session.offset == before
    assert list(other.duplex.events()) == []


def test_level_and_context_are_shown(engine: OmniEdge) -> None:
    live = Conversation(engine, speech=False)
    live.say(np.concatenate([question(), silence(1)]))
    levels = [event for event in live.events if isinstance(event, Level)]
    assert len(levels) == pytest.approx(26, abs=1)
    assert levels[-1].decibels == -120
    assert -30 < max(level.decibels for level in levels) < 0
    use = [event for event in live.events if isinstance(event, ContextUse)][-1]
    assert (use.used, use.capacity) == (live.session.offset, live.session.capacity)


def test_a_turn_that_does_not_fit_is_an_error_and_the_talk_can_start_anew(engine: OmniEdge) -> None:
    live = Conversation(engine, speech=False, context=60)
    live.run()
    before = live.session.offset
    with pytest.raises(ContextFullError):
        live.say(np.concatenate([question(), silence(1)]))
    live.run()
    assert kinds(live.take(*SPOKEN)) == ["SpeechStarted", "SpeechStopped"]
    assert live.session.offset == before
    live.duplex.ask("Hi")
    live.run()
    assert kinds(live.take(*SPOKEN)) == ["TurnDone"]


def test_the_camera_shows_what_was_seen_during_the_turn(engine: OmniEdge) -> None:
    live = Conversation(engine, speech=False)
    frames = [waves(56, 84 + 20 * step)[:, 20 * step :] for step in range(8)]
    spoken = np.concatenate([silence(3), question(), question(), silence(1.5)])
    for second, start in enumerate(range(0, spoken.size, VOICE_RATE)):
        live.duplex.push_camera(ImageFrame(frames[second]))
        live.say(spoken[start : start + VOICE_RATE])
    started, stopped, done = live.take(SpeechStarted, SpeechStopped, TurnDone)
    assert 2 < started.time < 3 < stopped.time
    turn = turn_in(spoken)
    at = [started.time + moment for moment in range(int(np.ceil(turn.size / VOICE_RATE)))]
    other = session(engine, speech=False)
    shown = np.stack([frames[int(time)] for time in at])
    other.push(VideoClip(shown, 1, AudioClip(turn, VOICE_RATE)))
    expected = reply(other)
    assert (done.prompt_tokens, done.token_ids) == (expected.prompt_tokens, expected.token_ids)


def test_a_typed_question_shows_the_latest_frame_of_a_camera_that_is_on(engine: OmniEdge) -> None:
    live = Conversation(engine, speech=False)
    live.duplex.push_camera(ImageFrame(waves(84, 56)))
    live.say(silence(1))
    live.duplex.push_camera(ImageFrame(waves(56, 84)))
    live.duplex.ask("What is it?")
    live.run()
    other = session(engine, speech=False)
    other.push(ImageFrame(waves(56, 84)))
    other.push("What is it?")
    (done,) = live.take(TurnDone)
    assert done.token_ids == reply(other).token_ids
    # Switched off.
    live.say(silence(4))
    used = live.session.offset
    live.duplex.ask("And now?")
    live.run()
    (done,) = live.take(TurnDone)
    assert done.prompt_tokens - used < 24
