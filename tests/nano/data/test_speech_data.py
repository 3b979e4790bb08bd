"""Voices, the cache of spoken words and the exercises made of it. No synthesizer is needed."""

from __future__ import annotations

import json
import subprocess
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nano import world
from nano.data import exercises, speech_cache, voices
from nano.data.voices import RATE, VOICES, Voice


def tone(voice: Voice, text: str, speed: float = 1.0, pitch: float = 1.0) -> voices.Samples:
    """Replaces a synthesizer: a short sound that depends on the text."""
    time = np.arange(200 + 3 * len(text)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 20 * len(str(voice))) * time * speed * pitch)).astype(np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> speech_cache.SpeechCache:
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_cache, "synthesize", tone)
        speech_cache.build(work)
    return speech_cache.SpeechCache(work)


def test_the_plan_covers_every_text_and_keeps_the_splits_apart(cache: speech_cache.SpeechCache) -> None:
    texts, names = {}, {}
    for clip in cache.clips:
        texts.setdefault(clip.split, set()).add(clip.text)
        names.setdefault(clip.split, set()).add(clip.voice)
    assert texts["train"] == set(world.spoken_texts("train"))
    assert texts["unseen_combination"] == set(world.spoken_texts("held_out"))
    assert texts["unseen_voice"] <= texts["train"]
    assert texts["unseen_take"] >= set(world.question_texts())
    training, held_out = ({str(v) for v in VOICES if v.split == split} for split in ("train", "held_out"))
    assert names["train"] == training
    assert names["unseen_voice"] == held_out
    assert names["unseen_combination"] | names["unseen_take"] <= training
    trained = {(clip.text, clip.voice, clip.speed, clip.pitch) for clip in cache.clips if clip.split == "train"}
    takes = {(c.text, c.voice, c.speed, c.pitch) for c in cache.clips if c.split == "unseen_take"}
    assert not trained & takes
    evaluated = [replace(clip, start=0, length=0) for clip in cache.clips if clip.split.startswith("unseen")]
    assert speech_cache.plan(evaluation_only=True) == evaluated


def test_the_cache_returns_the_spoken_samples(cache: speech_cache.SpeechCache) -> None:
    by_name = {str(voice): voice for voice in VOICES}
    for number in (0, 1, len(cache) // 2, len(cache) - 1):
        clip = cache.clips[number]
        expected = tone(by_name[clip.voice], clip.text, clip.speed, clip.pitch)
        assert np.abs(cache.samples(number) - expected).max() < 1 / 32767
        assert number in cache.find(clip.text, clip.split)


def test_a_build_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_cache, "synthesize", tone)
    short = speech_cache.plan()[:30]
    monkeypatch.setattr(speech_cache, "plan", lambda **_: short)
    speech_cache.build(tmp_path / "whole")
    speech_cache.build(tmp_path / "cut")
    index, sound = (tmp_path / "cut" / "data" / name for name in ("speech.jsonl", "speech.s16"))
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:12]) + lines[12][:20])
    # More sound was written than the index lists.
    sound.write_bytes(sound.read_bytes()[: 2 * json.loads(lines[14])["start"] + 7])
    assert len(speech_cache.SpeechCache(tmp_path / "cut")) == 12
    speech_cache.build(tmp_path / "cut")
    for name in ("speech.jsonl", "speech.s16"):
        assert (tmp_path / "cut" / "data" / name).read_bytes() == (tmp_path / "whole" / "data" / name).read_bytes()


def test_a_synthesizer_is_told_speed_and_pitch(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **_: object) -> None:
        commands.append(command)
        file = next(part for part in command if part.endswith(".wav"))
        spoken = np.zeros(22_050, np.int16)
        spoken[6_000:12_000] = (20_000 * np.sin(np.arange(6_000) * 0.05)).astype(np.int16)
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, 22_050, 0, "NONE", ""))
            out.writeframes(spoken.tobytes())

    monkeypatch.setattr(subprocess, "run", run)
    by_name = {str(voice): voice for voice in VOICES}
    samples = voices.synthesize(by_name["espeak-ng:en-us+m1"], "what did i say", 1.2, 1.1)
    assert samples.dtype == np.float32
    # 6000 samples at 22.05 kHz, and 40 ms on either side, to a whole frame of 10 ms
    assert abs(len(samples) / RATE - (6_000 / 22_050 + 0.08)) < 0.025
    assert np.abs(samples).max() == pytest.approx(0.5)
    assert commands[-1][:7] == ["espeak-ng", "-v", "en-us+m1", "-s", "198", "-p", "55"]
    assert commands[-1][-1] == "what did I say"
    voices.synthesize(by_name["flite:slt"], "hello", 1.25, 1.1)
    assert "duration_stretch=0.800" in commands[-1]
    assert "int_f0_target_mean=187.0" in commands[-1]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_room_keeps_the_words_and_repeats(split: voices.Split) -> None:
    clean = tone(VOICES[0], "x" * 5000)
    for seed in range(25):
        augmented = voices.augment(clean, np.random.default_rng(seed), split)
        assert np.array_equal(augmented, voices.augment(clean, np.random.default_rng(seed), split))
        assert augmented.dtype == np.float32
        assert 0.14 < np.abs(augmented).max() < 0.96
        assert abs(len(augmented) - len(clean)) < 0.15 * len(clean) + 0.75 * RATE
        # The tone is still the loudest thing: its frequency, at most resized.
        peak = np.abs(np.fft.rfft(augmented)).argmax() * RATE / len(augmented)
        frequency = 200 + 20 * len(str(VOICES[0]))
        assert 0.86 < peak / frequency < 1.16


def test_training_exercises_repeat_and_speak(cache: speech_cache.SpeechCache) -> None:
    kinds, families = set(), set()
    for seed in range(300):
        exercise = exercises.training_exercise(seed, cache)
        again = exercises.training_exercise(seed, cache)
        assert exercise.reply == again.reply
        roles = [message["role"] for message in exercise.messages]
        assert roles in (["system", "user"], ["system", "user", "assistant", "user"])
        for message, other in zip(exercise.messages, again.messages, strict=True):
            for part, twin in zip(message["content"], other["content"], strict=True):
                kinds.add(part["type"])
                if part["type"] == "audio":
                    assert part["audio"].dtype == np.float32
                    assert np.array_equal(part["audio"], twin["audio"])
        families.add(exercise.family)
    assert kinds == {"text", "audio", "image", "video"}
    assert families == set(world.FAMILIES)


def test_without_a_cache_everything_is_typed() -> None:
    parts = [
        part["type"]
        for seed in range(100)
        for message in exercises.training_exercise(seed, None).messages
        for part in message["content"]
    ]
    assert "audio" not in parts
    assert {"text", "image", "video"} <= set(parts)


@pytest.mark.parametrize("name", exercises.EVALUATION_SETS)
def test_evaluation_sets_are_whole_fixed_and_held_out(name: str, cache: speech_cache.SpeechCache) -> None:
    found = list(exercises.evaluation_set(name, cache))
    assert len(found) >= 200
    again = list(exercises.evaluation_set(name, cache, 5))
    assert [e.reply for e in again] == [e.reply for e in found[:5]]
    spoken = [e for e in found if e.notes["input"] == "spoken"]
    if name == "typed_unseen_combinations":
        assert not spoken
    else:
        assert len(spoken) >= len(found) / 2
        rooms = [e.notes["room"] for e in spoken]
        assert 0.3 < rooms.count("noisy") / len(rooms) < 0.7
    training = {str(voice) for voice in voices.voices("train")}
    assert all((e.notes["voice"] not in training) == (name == "spoken_unseen_voice") for e in spoken)
    trained = set(world.spoken_texts("train"))
    if name in {"spoken_unseen_combinations", "typed_unseen_combinations", "outside"}:
        assert not any(e.texts[0] in trained for e in found)


def test_an_unknown_set_and_a_missing_cache_are_refused(cache: speech_cache.SpeechCache) -> None:
    with pytest.raises(ValueError, match="no evaluation set 'x'; there are spoken_unseen"):
        next(exercises.evaluation_set("x", cache))
    with pytest.raises(ValueError, match=r"conversation needs spoken words: run `python -m nano.data.speech_cache`"):
        next(exercises.evaluation_set("conversation", None))
