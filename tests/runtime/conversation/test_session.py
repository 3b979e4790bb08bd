"""What a session promises: streaming, cancelling, full contexts, several sessions on the same weights, seeds."""

from __future__ import annotations

import itertools
import sys
import threading

import numpy as np
import pytest

from omni_edge import (
    AudioChunk,
    AudioClip,
    ContextFullError,
    ImageFrame,
    MediaError,
    OmniEdge,
    PcmBlock,
    Sampling,
    Session,
    TextDelta,
    TurnDone,
    UsageError,
    VideoClip,
)
from omni_edge.audio import samples
from omni_edge.events import Event

RATE = 16_000
GREEDY = Sampling(temperature=0)


def greedy(engine: OmniEdge, **settings: object) -> Session:
    return engine.session(seed=3, sampling=GREEDY, talker_sampling=GREEDY, **settings)  # type: ignore[arg-type]


def answer(session: Session, tokens: int = 12, codec_tokens: int = 60) -> list[Event]:
    return list(session.reply(max_new_tokens=tokens, max_codec_tokens=codec_tokens))


def done(events: list[Event]) -> TurnDone:
    assert isinstance(events[-1], TurnDone)
    return events[-1]


def speech(events: list[Event]) -> np.ndarray:
    return np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)])


def hum(seconds: float) -> np.ndarray:
    return (0.2 * np.sin(np.arange(int(seconds * RATE)) / 9)).astype(np.float32)


def test_text_and_speech_come_while_the_reply_is_written(engine: OmniEdge) -> None:
    session = greedy(engine)
    session.push("Tell me something long.")
    events = answer(session, tokens=40, codec_tokens=60)
    kinds = [type(event).__name__ for event in events]
    first_chunk = kinds.index("AudioChunk")
    # Every Thinker token lets the Talker take one step, and 24 codec tokens are enough for the first chunk.
    assert kinds[:first_chunk].count("TextDelta") == 24
    assert "TextDelta" in kinds[first_chunk:]
    chunks = [event for event in events if isinstance(event, AudioChunk)]
    section = engine.manifest.token2wav
    assert section is not None
    assert chunks[0].samples.size == section.block_frames * section.samples_per_frame
    assert [chunk.start for chunk in chunks] == np.cumsum([0, *(c.samples.size for c in chunks[:-1])]).tolist()
    assert {chunk.rate for chunk in chunks} == {section.sample_rate}
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == done(events).text
    frames = len(done(events).codec_tokens) * section.frames_per_codec
    assert speech(events).size == frames * section.samples_per_frame


def test_metrics_add_up(engine: OmniEdge) -> None:
    session = greedy(engine)
    session.push("Hello.")
    metrics = done(answer(session)).metrics
    assert metrics.ttfa is not None
    assert metrics.rtf is not None
    assert 0 < metrics.ttft < metrics.ttfa <= metrics.total
    parts = metrics.prefill + metrics.decode + metrics.talker + metrics.dit + metrics.bigvgan
    assert 0.5 * metrics.total < parts <= metrics.total
    assert metrics.rtf == pytest.approx(parts / metrics.audio)


def test_sessions_share_weights_and_nothing_else(engine: OmniEdge) -> None:
    alone = greedy(engine)
    alone.push("What is the time?")
    expected = answer(alone)
    one, two = greedy(engine), greedy(engine)
    one.push("What is the time?")
    two.push(ImageFrame(np.full((60, 60, 3), 90, np.uint8)))
    two.push("And this?")
    first, second = one.reply(max_new_tokens=12, max_codec_tokens=60), two.reply(max_new_tokens=12)
    events: list[Event] = []
    for event in first:
        events.append(event)
        next(second, None)
    assert done(events).token_ids == done(expected).token_ids
    np.testing.assert_array_equal(speech(events), speech(expected))


def test_sessions_run_in_threads(engine: OmniEdge) -> None:
    expected = greedy(engine)
    expected.push("Hello")
    tokens = done(answer(expected)).token_ids
    replies: list[tuple[int, ...]] = []

    def talk() -> None:
        session = greedy(engine)
        session.push("Hello")
        replies.append(done(answer(session)).token_ids)

    threads = [threading.Thread(target=talk) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [tokens] * 3


def test_cancelled_reply_keeps_its_text_in_the_conversation(engine: OmniEdge) -> None:
    session = greedy(engine)
    session.push("Count.")
    events: list[Event] = []
    for event in session.reply(max_new_tokens=40):
        events.append(event)
        if len([e for e in events if isinstance(e, TextDelta)]) == 5:
            session.cancel()
    assert done(events).finish_reason == "cancelled"
    assert len(done(events).token_ids) == 5
    session.push("Go on.")
    assert len(done(answer(session)).token_ids) == 12

    # The same as if the reply had ended there by its length.
    other = greedy(engine)
    other.push("Count.")
    answer(other, tokens=5)
    other.push("Go on.")
    session_tokens = session.offset
    assert done(answer(other)).token_ids
    assert other.offset == session_tokens


def test_cancel_while_speaking_stops_the_speech(engine: OmniEdge) -> None:
    session = greedy(engine)
    session.push("Count.")
    chunks = 0
    events: list[Event] = []
    for event in session.reply(max_new_tokens=3, max_codec_tokens=500):
        events.append(event)
        chunks += isinstance(event, AudioChunk)
        if chunks == 1:
            session.cancel()
    assert done(events).finish_reason == "cancelled"
    assert chunks == 1


def test_abandoned_reply_leaves_a_usable_conversation(engine: OmniEdge) -> None:
    session = greedy(engine)
    session.push("Count.")
    reply = session.reply(max_new_tokens=40)
    for _ in range(6):
        next(reply)
    session.push("Stop. What now?")
    abandoned = done(answer(session)).token_ids

    cancelled = greedy(engine)
    cancelled.push("Count.")
    answer(cancelled, tokens=6)
    cancelled.push("Stop. What now?")
    assert done(answer(cancelled)).token_ids == abandoned


def test_the_iterator_of_an_abandoned_reply_ends_without_touching_the_next(engine: OmniEdge) -> None:
    session, other = greedy(engine), greedy(engine)
    held = []
    for each in (session, other):
        each.push("Count.")
        reply = each.reply(max_new_tokens=40)
        held.append((reply, [next(reply) for _ in range(6)]))
        each.push("Stop. What now?")
    assert done(list(held[0][0])).finish_reason == "cancelled"
    assert session.offset == other.offset
    assert done(answer(session)).token_ids == done(answer(other)).token_ids


def test_full_context_ends_a_reply_and_refuses_more(engine: OmniEdge) -> None:
    probe = greedy(engine, speech=False, system="S")
    probe.push("Hi")
    answer(probe, tokens=1)
    capacity = probe.offset + 40
    session = greedy(engine, speech=False, system="S", context=capacity)
    session.push("Hi")
    events = answer(session, tokens=500)
    if done(events).finish_reason == "context_full":
        assert session.offset == capacity
    before = session.offset
    with pytest.raises(ContextFullError, match=r"The context is full: \d+ of \d+ positions"):
        session.push("x" * 200)
    assert session.offset == before
    with pytest.raises(ContextFullError):
        session.push(AudioClip(hum(60), RATE))
    with pytest.raises(ContextFullError):
        session.push(ImageFrame(np.zeros((800, 800, 3), np.uint8)))
    with pytest.raises(ContextFullError):
        session.push(VideoClip(np.zeros((40, 56, 56, 3), np.uint8), 2.0))
    assert session.offset == before
    session.reset()
    session.push("Hi")
    assert done(answer(session, tokens=3)).token_ids == done(events).token_ids[:3]


def test_seed_names_everything_that_is_random(engine: OmniEdge) -> None:
    def run(seed: int) -> tuple[TurnDone, np.ndarray]:
        session = engine.session(seed=seed, sampling=Sampling(temperature=1.5, top_k=0))
        session.push("Surprise me.")
        events = answer(session)
        return done(events), speech(events)

    first, again, other = run(1), run(1), run(2)
    assert first[0].token_ids == again[0].token_ids
    assert first[0].codec_tokens == again[0].codec_tokens
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].token_ids != other[0].token_ids


def test_a_sampled_reply_differs_from_a_greedy_one(engine: OmniEdge) -> None:
    session = engine.session(seed=5, speech=False, sampling=Sampling(temperature=3.0, top_k=0))
    session.push("Hello")
    wild = done(answer(session)).token_ids
    calm = greedy(engine, speech=False)
    calm.push("Hello")
    assert done(answer(calm)).token_ids != wild


def test_voices_sound_different(engine: OmniEdge) -> None:
    replies = {}
    for voice in engine.voices:
        session = greedy(engine, voice=voice)
        session.push("Hello")
        replies[voice] = speech(answer(session))
    assert engine.voices == ["Chelsie", "Ethan"]
    size = min(map(len, replies.values()))
    assert np.abs(replies["Chelsie"][:size] - replies["Ethan"][:size]).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voice": "Nobody"}, "There is no voice 'Nobody'; this bundle has Chelsie, Ethan."),
        ({"context": 0}, "from 1 to 32768"),
        ({"context": 40_000}, "from 1 to 32768"),
    ],
)
def test_wrong_settings_are_refused(engine: OmniEdge, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine.session(**settings)  # type: ignore[arg-type]


def test_nothing_pushed_is_nothing_to_answer(engine: OmniEdge) -> None:
    session = greedy(engine)
    with pytest.raises(UsageError, match="nothing to answer"):
        session.reply()


@pytest.mark.parametrize(
    "sound", [np.zeros(0, np.float32), np.zeros(100, np.float32), np.full(RATE, np.nan, np.float32)]
)
def test_bad_sound_leaves_the_conversation_alone(engine: OmniEdge, sound: np.ndarray) -> None:
    session = greedy(engine, speech=False)
    session.push("Listen: ")
    before = session.offset
    with pytest.raises(MediaError):
        session.push(AudioClip(sound, RATE))
    with pytest.raises(MediaError):
        session.push(PcmBlock(sound, RATE, end=True))
    assert session.offset == before
    session.push("nothing")
    other = greedy(engine, speech=False)
    other.push("Listen: nothing")
    assert done(answer(session)).token_ids == done(answer(other)).token_ids


def test_a_refused_piece_does_not_lose_the_live_sound(engine: OmniEdge) -> None:
    session, other = greedy(engine, speech=False), greedy(engine, speech=False)
    for each in (session, other):
        each.push(PcmBlock(hum(1), RATE))
    with pytest.raises(MediaError):
        session.push(PcmBlock(np.full(10, np.inf, np.float32), RATE, end=True))
    assert done(answer(session)).token_ids == done(answer(other)).token_ids


def test_a_sound_track_too_short_to_be_heard_is_left_out(engine: OmniEdge) -> None:
    frames = np.zeros((4, 56, 56, 3), np.uint8)
    session, silent = greedy(engine, speech=False), greedy(engine, speech=False)
    session.push(VideoClip(frames, 2.0, AudioClip(hum(0.01), RATE)))
    silent.push(VideoClip(frames, 2.0))
    assert done(answer(session)).token_ids == done(answer(silent)).token_ids


def test_live_sound_is_prefilled_while_it_is_spoken(engine: OmniEdge) -> None:
    session = greedy(engine, speech=False)
    offsets = []
    for start in range(0, 5 * RATE, RATE // 4):
        session.push(PcmBlock(hum(5)[start : start + RATE // 4], RATE))
        offsets.append(session.offset)
    # Blocks of 50 audio tokens are complete after two and four seconds (and a window's worth of samples); the turn is
    # opened with the first.
    steps = [after - before for before, after in itertools.pairwise(offsets) if after != before]
    assert len(steps) == 2
    assert steps[0] > steps[1] == 50
    session.push("What was that?")
    assert done(answer(session, tokens=2)).prompt_tokens > offsets[-1] + 25


def test_text_of_a_mark_is_text(engine: OmniEdge) -> None:
    session = greedy(engine, speech=False, system="S")
    session.push("<|im_end|>")
    spelled = done(answer(session, tokens=1)).prompt_tokens
    other = greedy(engine, speech=False, system="S")
    other.push("a")
    pieces, letter = (len(engine.model.tokenizer.encode(text)) for text in ("<|im_end|>", "a"))
    assert pieces > 1
    assert spelled == done(answer(other, tokens=1)).prompt_tokens + pieces - letter


def test_a_live_sound_that_ends_too_short_is_over(engine: OmniEdge) -> None:
    session, other = greedy(engine, speech=False), greedy(engine, speech=False)
    session.push(PcmBlock(hum(0.002), RATE))
    with pytest.raises(MediaError, match="too short for one"):
        session.push(PcmBlock(hum(0.002), RATE, end=True))
    # Another rate is another sound.
    session.push(PcmBlock(hum(1), RATE // 2, end=True))
    other.push(PcmBlock(hum(1), RATE // 2, end=True))
    assert done(answer(session)).token_ids == done(answer(other)).token_ids


def test_the_samples_of_a_live_sound_are_checked_once(engine: OmniEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []

    def counted(name: str) -> None:
        check = getattr(samples, name)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("omni_edge") and getattr(module, name, None) is check:
                monkeypatch.setattr(module, name, lambda value: (checked.append(name), check(value))[1])

    counted("validate_pcm")
    counted("validate_rate")
    session = greedy(engine, speech=False)
    for piece in range(3):
        session.push(PcmBlock(hum(0.1), RATE, end=piece == 2))
    # The converter of a pair of rates, which all sounds share, checks them too when it is made.
    assert checked.count("validate_pcm") == 3
    assert checked.count("validate_rate") in (1, 3)
