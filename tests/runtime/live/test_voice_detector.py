"""Silero's model on real speech and on noise. It comes with the extra `live`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni_edge.errors import UsageError
from omni_edge.live.hearing import Heard, Hearing
from omni_edge.live.turn_detector import Transition
from omni_edge.live.voice_detector import VOICE_RATE, VoiceDetector
from omni_edge.media import load_audio
from support.spoken import DATA, noise, question, silence


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    return VoiceDetector()


def turns(detector: VoiceDetector, samples: np.ndarray) -> list[Heard]:
    hearing = Hearing(detector)
    pieces = [samples[start : start + 320] for start in range(0, samples.size, 320)]
    heard = [heard for piece in pieces for heard in hearing.step(piece, VOICE_RATE)]
    return [part for part in heard if part.transition]


def test_a_spoken_question_is_one_turn(detector: VoiceDetector) -> None:
    spoken = np.concatenate([silence(1), question(), silence(1)])
    room = spoken + noise(4, -60)[: spoken.size]
    started, paused, ended = turns(detector, room)
    assert [part.transition.value for part in (started, paused, ended) if part.transition] == [
        "started", "paused", "ended"
    ]  # fmt: skip
    assert 0.6 < started.time < 0.9
    # The clip's last 0.4 s are silence.
    assert ended.time == paused.time
    assert 2.1 < ended.time < 2.4


def test_noise_and_clicks_are_no_speech(detector: VoiceDetector) -> None:
    clicks = noise(10, -60)
    clicks[::8000] = 0.9
    hum = (0.1 * np.sin(np.arange(10 * VOICE_RATE) * 2 * np.pi * 50 / VOICE_RATE)).astype(np.float32)
    for sound in (noise(10, -40), noise(10, -25), clicks, hum):
        assert turns(detector, sound) == []


def test_a_user_is_heard_among_people_who_talk_all_the_time(detector: VoiceDetector) -> None:
    voices = load_audio(DATA / "nano" / "heldout.flac").samples.astype(np.float32)
    people = sum(np.roll(voices, 101_000 * talker) for talker in range(8))[: 24 * VOICE_RATE]
    people *= np.float32(10 ** (-30 / 20)) / np.sqrt(np.mean(people**2))
    assert turns(detector, people) == []
    # The microphone is muted while a reply is played.
    people[4 * VOICE_RATE : 10 * VOICE_RATE] = 0
    assert turns(detector, people) == []
    spoken = people.copy()
    spoken[16 * VOICE_RATE :][: question().size] += question()
    started, paused, ended = turns(detector, spoken)
    assert started.transition is Transition.STARTED
    assert 15.6 < started.time < 16.3
    assert 17 < ended.time == paused.time < 17.6


def test_a_user_who_speaks_from_the_first_sample_on_is_heard_whole(detector: VoiceDetector) -> None:
    # Begins within a word, so that nothing is quieter for a while.
    word = question()[3_000:22_000]
    # A clip that is cut to its speech and hardly changes its level.
    steady = load_audio(DATA / "nano" / "heldout.flac").samples[98_500:128_000].astype(np.float32)
    for spoken in (word, np.float32(0.2) * word, steady):
        sound = np.concatenate([spoken, silence(1)]) + noise(3, -70)[: spoken.size + VOICE_RATE]
        heard = Hearing(detector).step(sound, VOICE_RATE)
        assert next(part.transition for part in heard if part.transition) is Transition.STARTED
        taken = np.concatenate([part.samples for part in heard])
        np.testing.assert_array_equal(taken[: spoken.size], sound[: spoken.size])


def test_a_missing_or_wrong_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"gone.onnx does not exist. Install it again"):
        VoiceDetector(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("nothing")
    with pytest.raises(UsageError, match=r"text.onnx is no voice detector"):
        VoiceDetector(tmp_path / "text.onnx")
    monkeypatch.setattr("omni_edge.live.voice_detector._PACKAGE", "no-such-package")
    with pytest.raises(UsageError, match=r"pip install 'omni-edge\[live\]'"):
        VoiceDetector()
