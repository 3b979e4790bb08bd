"""A live conversation: turns of the user, replies computed in advance, pictures, an end at any time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    Session,
    TextDelta,
    TurnDone,
    UsageError,
    VideoClip,
)
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import ContextUse, Level, SpeechResumed, SpeechStarted, SpeechStopped
from omni_edge.live.hearing import Hearing
from omni_edge.live.voice_detector import VOICE_RATE
from support.conversation import SPOKEN, TOKENS, Conversation, kinds, plain, reply, session, turn_in
from support.spoken import question, silence
from support.turns import waves


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


def test_the_system_prompt_is_prefilled_before_anybody_speaks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled operators round by how positions are batched, which is what differs here.
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    engine = OmniEdge.load(bundle, threads=1)
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
