"""Echo cancellation in a synthetic room: the loudspeaker comes back at -20 dB, 80 ms later, with reverberation."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_cli import echo_canceller
from omni_cli.commands.chat_listening import Devices, Echo
from omni_cli.echo_canceller import EchoCanceller
from omni_cli.sound_devices import SoundDevice
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.errors import UsageError
from omni_edge.live.hearing import Hearing
from omni_edge.live.turn_detector import Transition
from omni_edge.live.voice_detector import VOICE_RATE, VoiceDetector
from support.spoken import question, silence

SPEAKER_RATE, MICROPHONE_RATE = 24_000, 48_000
DECIBELS, DELAY_SECONDS, REVERBERATION_SECONDS = -20.0, 0.08, 0.3


def decibels(samples: NDArray[np.float32]) -> float:
    return 10 * float(np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12))


def echo(played: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the microphone records of the loudspeaker, float32 [n] at 16 kHz."""
    delay, tail = round(DELAY_SECONDS * VOICE_RATE), round(REVERBERATION_SECONDS * VOICE_RATE)
    reflections = np.random.default_rng(0).standard_normal(tail) * np.exp(-6 * np.arange(tail) / tail)
    response = np.concatenate([np.zeros(delay), [1.0], 0.1 * reflections])
    response *= 10 ** (DECIBELS / 20) / np.sqrt(np.sum(response**2))
    return np.convolve(played, response)[: played.size].astype(np.float32)


def blocks(samples: NDArray[np.float32], rate: int, seconds: float) -> list[NDArray[np.float32]]:
    converted = resampler(VOICE_RATE, rate).step(samples, ResampleState(), end=True)
    assert converted is not None
    size = round(seconds * rate)
    return [converted[start : start + size] for start in range(0, converted.size - size + 1, size)]


@pytest.fixture(scope="module")
def room() -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """What the loudspeaker plays, what the user says meanwhile, both at 16 kHz, and where the user begins."""
    played = np.tile(np.concatenate([question(), silence(0.2)]), 6)
    begin = round(0.7 * played.size)
    said = np.zeros_like(played)
    said[begin : begin + question().size] = question()[::-1]
    return played, said, begin


def interruptions(samples: NDArray[np.float32]) -> list[float]:
    """Times at which the conversation would be interrupted (s)."""
    hearing = Hearing(VoiceDetector())
    parts = [samples[start : start + 320] for start in range(0, samples.size, 320)]
    heard = [each for part in parts for each in hearing.step(part, VOICE_RATE, playing=True)]
    return [each.time for each in heard if each.transition is Transition.STARTED]


def test_the_echo_is_gone_and_the_user_still_interrupts(
    room: tuple[NDArray[np.float32], NDArray[np.float32], int],
) -> None:
    pytest.importorskip("livekit")
    played, said, begin = room
    hiss = 1e-4 * np.random.default_rng(1).standard_normal(played.size).astype(np.float32)
    recorded = echo(played) + said + hiss
    canceller = EchoCanceller()
    cleaned = []
    # The devices' blocks differ, and those of the loudspeaker come in pairs.
    far = blocks(played, SPEAKER_RATE, 0.04)
    for number, near in enumerate(blocks(recorded, MICROPHONE_RATE, 0.02)):
        if number % 2 == 0 and number // 2 < len(far):
            canceller.play(far[number // 2], SPEAKER_RATE)
        cleaned.append(canceller.clean(near, MICROPHONE_RATE))
    result = np.concatenate(cleaned)
    # It needs two seconds to learn the room.
    alone = slice(2 * VOICE_RATE, begin - VOICE_RATE // 2)
    assert decibels(recorded[alone]) > -45
    assert decibels(result[alone]) < decibels(recorded[alone]) - 30
    # Without it the conversation would interrupt itself.
    assert min(interruptions(recorded)) < begin / VOICE_RATE - 1
    (interrupted,) = interruptions(result)
    assert begin / VOICE_RATE - 0.5 < interrupted < begin / VOICE_RATE + 1


def test_auto_takes_the_best_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    device = partial(SoundDevice, 0, channels=1, rate=48_000, default=True)
    microphone, loudspeaker = device("Mic", "input"), device("Loudspeaker", "output")
    for installed, chosen in ((True, Echo.APM), (False, Echo.HALF)):
        monkeypatch.setattr(echo_canceller, "installed", lambda installed=installed: installed)
        assert Devices(microphone, loudspeaker, None).echo(Echo.AUTO) is chosen
        assert Devices(microphone, loudspeaker, None).echo(Echo.OFF) is Echo.OFF
        assert Devices(microphone, device("USB Headset", "output"), None).echo(Echo.AUTO) is Echo.OFF
        assert Devices(microphone, None, None).echo(Echo.AUTO) is Echo.OFF


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    with pytest.raises(UsageError, match=r"pip install 'omni-edge\[echo\]'. --echo half works without it"):
        EchoCanceller()
