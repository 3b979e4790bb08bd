"""The evaluation's metrics, its sessions, its data and its tables; the weights do not matter here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from nano import world
from nano.data import mel24
from nano.data.exercises import EVALUATION_SETS, Exercise, evaluation_set
from nano.data.voices import RATE
from nano.evaluation.dialogue import GREEDY, WHOLE, converse, item, system_prompt, vocode
from nano.evaluation.evaluate import SOLVERS, compared
from nano.evaluation.held_out_sets import QUICK_COUNTS, HeldOutSets, mixed
from nano.evaluation.metrics import (
    Distance,
    Share,
    VoiceClassifier,
    WordErrors,
    extra_word_errors,
    log_mel,
    median_pitch,
)
from nano.evaluation.shuffle import SHUFFLES, Shuffle, shuffled_times
from nano.evaluation.tables import markdown
from nano.evaluation.workers import Recognition, WorkerPool
from omni_edge import AudioChunk, AudioClip, ImageFrame, OmniEdge, TextDelta, TurnDone, VideoClip
from omni_edge.decoders.thinker import Thinker, ThinkerBlock
from omni_edge.events import Media
from omni_edge.vocoder.schedule import ChunkSchedule


@pytest.fixture(scope="module")
def kept() -> HeldOutSets:
    return HeldOutSets.from_repository()


# -- measures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (9, 10, 0.5958, 0.9821),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
        (285, 300, 0.9192, 0.9694),
    ],
)
def test_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    assert Share(right, count).interval() == pytest.approx((low, high), abs=1e-4)


def test_word_errors_are_counted_over_all_words() -> None:
    found = WordErrors.from_sentences([(0, 4), (2, 3), (1, 3)])
    assert found == WordErrors(errors=3, words=10, perfect=1, sentences=3)
    assert found.rate == pytest.approx(0.3)
    heard = Recognition(("it", "was", "green"), ("it", "is", "very", "green"), np.zeros(0, np.float32))
    assert heard.errors == (2, 3)


def test_extra_word_errors_have_the_interval_of_a_paired_bootstrap() -> None:
    # Half of the requests have one error more of four words: the standard error is 0.125 / sqrt(100).
    reference = [(1, 4), (0, 4)] * 50
    found = extra_word_errors([(errors + number % 2, 4) for number, (errors, _) in enumerate(reference)], reference, 1)
    assert found["difference"] == 0.125
    assert [found["low"], found["high"]] == pytest.approx([0.1005, 0.1495], abs=0.002)
    assert extra_word_errors(reference, reference, 1) == {"difference": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("frequency", [90.0, 150.0, 220.0])
def test_pitch_is_the_fundamental_not_a_multiple_or_the_loudest_partial(frequency: float) -> None:
    time = np.arange(24_000) / 24_000
    sound = sum(gain * np.sin(2 * np.pi * frequency * order * time) for order, gain in ((1, 0.1), (2, 0.3), (3, 0.2)))
    quiet = np.zeros(6_000)
    assert median_pitch(np.concatenate([quiet, sound, quiet]).astype(np.float32), 24_000) == pytest.approx(
        frequency, rel=0.01
    )


def test_noise_has_no_pitch_and_nobodys_voice() -> None:
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert median_pitch(noise, 24_000) == 0
    assert median_pitch(noise[:100], 24_000) == 0
    assert VoiceClassifier({"low": 100.0, "high": 200.0}).classify(0.0) == ""
    with pytest.raises(ValueError, match="no sound of low has a pitch"):
        VoiceClassifier.fit([("low", noise)], 24_000)


def test_the_synthesizers_voices_are_told_apart_by_their_pitch(kept: HeldOutSets) -> None:
    cache = kept.cache
    by_voice: dict[str, list[int]] = {}
    for number in cache.numbers("reference"):
        by_voice.setdefault(cache.clips[number].voice, []).append(number)
    assert sorted(by_voice) == ["Chelsie", "Ethan"]
    classifier = VoiceClassifier.fit([(voice, cache.samples(numbers[0])) for voice, numbers in by_voice.items()], RATE)
    for voice, numbers in by_voice.items():
        assert all(classifier.classify(median_pitch(cache.samples(number), RATE)) == voice for number in numbers[1:])
    # The pitch that flite is given for rms and slt.
    assert kept.classifier.pitches == pytest.approx({"Chelsie": 170, "Ethan": 105}, rel=0.05)


def test_mels_are_the_vocoders_and_distances_are_of_the_sound() -> None:
    sound = (np.random.default_rng(1).standard_normal(24_000) * 0.1).astype(np.float32)
    expected = mel24.log_mel(torch.from_numpy(sound)[None])[0].T.numpy()
    np.testing.assert_allclose(log_mel(sound, mel24.RATE), expected, atol=0.02)
    near = Distance.between(sound * np.float32(1.1), sound, mel24.RATE)
    assert near.mel == pytest.approx(np.log(1.1), rel=1e-3)
    assert near.snr == pytest.approx(20.0, abs=0.1)
    assert Distance.between(sound, sound, mel24.RATE) == Distance(0.0, float("inf"))


# -- time ids ----------------------------------------------------------------------------------------------------


def _blocks(engine: OmniEdge, clip: VideoClip, monkeypatch: pytest.MonkeyPatch) -> list[ThinkerBlock]:
    """The blocks that a session passes to the Thinker for `clip` and a question."""
    seen: list[ThinkerBlock] = []
    step = Thinker.step

    def watched(self: Thinker, blocks: list[ThinkerBlock], cache: Any) -> Any:
        seen.extend(blocks)
        return step(self, blocks, cache)

    with monkeypatch.context() as patch:
        patch.setattr(Thinker, "step", watched)
        session = engine.session(speech=False, seed=0, context=2048)
        session.push(clip)
        session.push("what")
        next(iter(session.reply(max_new_tokens=1)))
    return seen


@pytest.mark.parametrize("sounding", [True, False])
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_only_the_time_ids_of_the_video_are_shuffled(
    engine: OmniEdge, monkeypatch: pytest.MonkeyPatch, shuffle: Shuffle, sounding: bool
) -> None:
    rng = np.random.default_rng(3)
    sound = AudioClip(rng.standard_normal(4 * RATE).astype(np.float32) * 0.1, RATE) if sounding else None
    clip = VideoClip(rng.integers(0, 256, (8, 112, 112, 3), np.uint8), 2.0, sound)
    plain = _blocks(engine, clip, monkeypatch)
    with shuffled_times(shuffle, 5):
        shuffled = _blocks(engine, clip, monkeypatch)
    assert len(plain) == len(shuffled)
    assert sum(block.media for block in plain) == 1
    for before, after in zip(plain, shuffled, strict=True):
        assert np.array_equal(before.tokens, after.tokens)
        assert np.array_equal(before.embeds, after.embeds)
        assert np.array_equal(before.positions[1:], after.positions[1:])
        if not before.media:
            assert np.array_equal(before.positions, after.positions)
            continue
        times, permuted = before.positions[0], after.positions[0]
        assert not np.array_equal(times, permuted)
        assert np.array_equal(np.sort(times), np.sort(permuted))
        if shuffle == "frames":
            frames = before.tokens == engine.manifest.text.video_token
            assert np.array_equal(times[~frames], permuted[~frames])
            # Every frame moves as a whole.
            moves = set(zip(times[frames].tolist(), permuted[frames].tolist(), strict=True))
            assert len(moves) == len(set(times[frames].tolist())) == 4
    for before, after in zip(plain, _blocks(engine, clip, monkeypatch), strict=True):
        assert np.array_equal(before.positions, after.positions)


# -- driving -----------------------------------------------------------------------------------------------------


class _Recorder:
    """Replaces a session: records the calls and answers with numbers."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._turn = 0

    def push(self, pushed: str | Media) -> None:
        self.done.append(pushed if isinstance(pushed, str) else type(pushed).__name__)

    def reply(self, **_: int) -> Iterator[TextDelta | AudioChunk | TurnDone]:
        self._turn += 1
        self.done.append("reply")
        turn = self._turn
        yield TextDelta(f"answer {turn}")
        for start in (0, 2):
            yield AudioChunk(np.full(2, turn, np.float32), 24_000, start)
        yield TurnDone(f"answer {turn}", (), (turn,), 0, "stop")


def _exercise() -> Exercise:
    sound = np.zeros(RATE, np.float32)
    video = np.zeros((2, 28, 28, 3), np.uint8)
    return Exercise(
        "conversation",
        [
            {"role": "system", "content": [{"type": "text", "text": "be kind"}]},
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": video[0]},
                    {"type": "video", "video": video, "fps": 2.0, "audio": sound},
                    {"type": "audio", "audio": sound},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "never pushed"}]},
            {"role": "user", "content": [{"type": "text", "text": "and now"}]},
        ],
        "right",
        ("what", "and now"),
    )


def test_an_exercise_is_driven_turn_by_turn_and_its_last_reply_counts() -> None:
    session = _Recorder()
    answer = converse(session, _exercise())  # type: ignore[arg-type]
    assert session.done == ["ImageFrame", "VideoClip", "AudioClip", "reply", "and now", "reply"]
    assert (answer.done.text, answer.turn) == ("answer 2", 2)
    assert answer.samples.tolist() == [2.0] * 4
    assert system_prompt(_exercise()) == "be kind"


def test_parts_become_what_a_session_takes() -> None:
    parts = {part["type"]: item(part) for message in _exercise().messages for part in message["content"]}
    assert isinstance(parts["image"], ImageFrame)
    assert isinstance(parts["audio"], AudioClip)
    video = parts["video"]
    assert isinstance(video, VideoClip)
    assert video.fps == 2.0
    assert video.sound is not None
    assert video.sound.rate == RATE
    with pytest.raises(ValueError, match="'smell'"):
        item({"type": "smell"})


def test_a_real_session_goes_on_from_its_own_replies(engine: OmniEdge, kept: HeldOutSets) -> None:
    exercise = next(iter(evaluation_set("conversation", kept.cache, 1)))
    session = engine.session(system=system_prompt(exercise), speech=False, sampling=GREEDY, seed=0, context=2048)
    answer = converse(session, exercise)
    assert answer.turn == 2
    # The first turn, its reply and the second turn precede the second reply.
    assert answer.done.prompt_tokens > len(engine.model.tokenizer.encode(" ".join(exercise.texts)))
    assert session.offset >= answer.done.prompt_tokens


def test_whole_utterances_equal_one_huge_tick_and_streams_have_their_length(engine: OmniEdge) -> None:
    codec = np.random.default_rng(0).integers(1, 16, 77)
    voice = engine.voices[0]
    whole = vocode(engine, codec, voice, (3, 1), chunks=WHOLE)
    huge = vocode(engine, codec, voice, (3, 1), chunks=ChunkSchedule(chunk_blocks=(10_000,)))
    assert np.array_equal(whole, huge)
    section = engine.model.vocoder().section
    streamed = vocode(engine, codec, voice, (3, 1))
    assert len(streamed) == len(whole) == 77 * section.frames_per_codec * section.samples_per_frame
    assert not np.array_equal(streamed, whole)
    assert vocode(engine, codec[:0], voice, 0).size == 0


def test_a_spoken_reply_is_what_its_codec_tokens_give(engine: OmniEdge) -> None:
    """Tokens and noise are the same, so that a reply can be vocoded again in another way."""
    session = engine.session(seed=11, sampling=GREEDY)
    session.push("hello")
    events = list(session.reply(max_new_tokens=4, max_codec_tokens=40))
    samples = np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)])
    done = events[-1]
    assert isinstance(done, TurnDone)
    again = vocode(engine, np.array(done.codec_tokens), session.voice, (11, 1))
    np.testing.assert_array_equal(samples, again)


# -- held-out sets and tables -----------------------------------------------------------------------------------------


def test_the_kept_exercises_are_complete_and_held_out(kept: HeldOutSets) -> None:
    assert set(QUICK_COUNTS) == set(EVALUATION_SETS)
    trained = set(world.spoken_texts("train"))
    rooms = set()
    for name, count in QUICK_COUNTS.items():
        exercises = list(evaluation_set(name, kept.cache, count))
        assert len(exercises) == count
        rooms |= {exercise.notes.get("room") for exercise in exercises if name.startswith("spoken")}
        if name == "spoken_unseen_combinations":
            assert not any(exercise.texts[0] in trained for exercise in exercises)
    assert rooms == {"clean", "noisy"}
    assert {clip.split for clip in kept.cache.clips} == {
        "unseen_combination",
        "unseen_voice",
        "unseen_take",
        "reference",
    }
    assert {world.reply_split(utterance.text) for utterance in kept.utterances} == {"held_out"}
    assert all(utterance.codec.min() > 0 for utterance in kept.utterances)


def test_spoken_replies_are_mixed_and_new(kept: HeldOutSets) -> None:
    exercises = mixed(kept.cache, QUICK_COUNTS, 16)
    replies = [exercise.reply for exercise in exercises]
    assert len(set(replies)) == len(replies)
    assert len({exercise.family for exercise in exercises[:8]}) >= 6
    assert sum(world.reply_split(reply) == "held_out" for reply in replies) >= 4
    # More than an equal share of each set: two of the sets have fewer replies than that.
    assert len(mixed(kept.cache, QUICK_COUNTS, 48)) == 48


def test_a_pool_of_one_works_in_order(bundle, engine: OmniEdge, capsys: pytest.CaptureFixture[str]) -> None:
    with WorkerPool(bundle, 1) as pool:
        found = pool.map("lengths", lambda loaded, text: (len(text), loaded.voices), ["a", "bcd"])
    assert found == [(1, engine.voices), (3, engine.voices)]
    output = capsys.readouterr()
    assert output.out == ""
    assert "lengths: 2 of 2" in output.err


def test_solvers_are_compared_with_the_reference_and_shown() -> None:
    sound = (np.random.default_rng(1).standard_normal(4_800) * 0.1).astype(np.float32)
    said = ("it", "was", "red")
    exact = [Recognition(said, said, sound, 0.1)]
    found = compared(
        {"near": [Recognition(said, ("it", "is", "red"), sound * np.float32(1.1), 0.05)], "same": exact}, exact, 24_000
    )
    assert found["near"]["rate"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["near"]["snr_db"] == pytest.approx(20.0)
    assert found["near"]["rtf"] == pytest.approx(0.25)
    assert found["same"]["snr_db"] is None
    share = Share(9, 10).to_json()
    results = {
        "date": "2026-11-25",
        "machine": {"processor": "a core"},
        "workers": 1,
        "seconds": 3,
        "counts": {"utterances": 1},
        "reference": "fp32, same",
        "bundles": {
            "fp32": {
                "bytes": 15_000_000,
                "understanding": {
                    "spoken_unseen_voice": {**share, "parts": {"clean": share, "typed": share}},
                    "videos, times of frames shuffled": {**share, "parts": {}, "chance": 0.25},
                },
                "speech": {"sampled": WordErrors(1, 20, 4, 5).to_json(), "misheard": []},
                "extra_word_errors": {"sampled, more than other": {"difference": -0.005, "low": -0.02, "high": 0.01}},
                "voices": {"Chelsie": share, "pitches": {"Chelsie": 170.0}},
                "token2wav": found,
            }
        },
    }
    lines = markdown(results).splitlines()
    for line in (
        "|  | `fp32` |",
        "| `spoken_unseen_voice` | 90.0% of 10 (60–98) |",
        "| – clean | 90.0% of 10 (60–98) |",
        "| – noisy |  |",
        "| videos, times of frames shuffled (chance 25%) | 90.0% of 10 (60–98) |",
        "| sampled | 5.0% of 20 words |",
        "| sampled, more than other | -0.5 points (-2.0 to +1.0) |",
        "| Chelsie | 90.0% of 10 (60–98) |",
        "| megabytes | 15.0 |",
        "| near | 33.3%; 0.095, 20 dB |",
        "| same | 0.0%; the reference |",
    ):
        assert line in lines
    assert not any("misheard" in line or "pitches" in line for line in lines)


def test_solvers_are_the_default_cheaper_dearer_and_the_references_own() -> None:
    assert [solver.evaluations for solver in SOLVERS.values()] == [4, 4, 4, 8, 36]
    assert [solver.rows for solver in SOLVERS.values()] == [2, 1, 2, 2, 2]
