"""The microphone and the loudspeaker of a live conversation, with virtual devices in PortAudio's place."""

from __future__ import annotations

import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from omni_cli.live_speaker import LiveSpeaker
from omni_cli.microphone import Microphone
from omni_cli.sound_devices import choose_device, sound_devices
from omni_cli.speech_out import Loudspeaker
from omni_edge.errors import DeviceError
from support.portaudio import VirtualPortAudio, device

RATE = 24_000


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> VirtualPortAudio:
    module = VirtualPortAudio([device("Microphone", inputs=1), device("Loudspeaker", outputs=2)])
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


class Recorder:
    """Takes a microphone's blocks and sentences."""

    def __init__(self) -> None:
        self.blocks: SimpleQueue[tuple[np.ndarray, int]] = SimpleQueue()
        self.sentences: SimpleQueue[str] = SimpleQueue()

    def take(self, block: np.ndarray, rate: int) -> None:
        self.blocks.put((block, rate))

    def open(self, **settings: Any) -> Microphone:
        chosen = choose_device(sound_devices(), "input")
        return Microphone(chosen, self.take, self.sentences.put, **{"first_retry": 0.01, **settings})


def test_blocks_arrive_in_order_as_copies(portaudio: VirtualPortAudio) -> None:
    recorder = Recorder()
    microphone = recorder.open()
    (stream,) = portaudio.streams
    assert (stream.settings["blocksize"], stream.settings["channels"], stream.settings["device"]) == (960, 1, 0)
    memory = np.zeros(960, np.float32)
    for value in (1, 2):
        memory[:] = value
        stream.feed(memory)
    memory[:] = 9
    for value in (1, 2):
        block, rate = recorder.blocks.get(timeout=10)
        assert (block[0], block.size, rate) == (value, 960, 48_000)
    microphone.close()
    assert not stream.open


def test_a_rate_that_is_not_supported_is_replaced(portaudio: VirtualPortAudio) -> None:
    portaudio.rates = {44_100}
    recorder = Recorder()
    microphone = recorder.open()
    assert microphone.rate == 44_100
    assert portaudio.streams[-1].settings["blocksize"] == 882
    microphone.close()
    portaudio.rates = set()
    with pytest.raises(DeviceError, match=r"'Microphone' cannot be opened .*Invalid sample rate.* --device-in"):
        recorder.open()


def test_a_microphone_that_vanishes_is_named_and_opened_again(portaudio: VirtualPortAudio) -> None:
    recorder = Recorder()
    microphone = recorder.open()
    present, back = list(portaudio.devices), threading.Event()
    portaudio.opened = lambda stream: back.set()
    portaudio.devices = present[1:]
    portaudio.streams[0].vanish()
    assert recorder.sentences.get(timeout=10) == (
        "The microphone 'Microphone' is gone. The conversation waits until it is back."
    )
    assert not back.wait(0.1)
    portaudio.devices = present
    assert recorder.sentences.get(timeout=30) == "The microphone 'Microphone' is back."
    portaudio.streams[1].feed(np.ones(960, np.float32))
    assert recorder.blocks.get(timeout=10)[0][0] == 1
    microphone.close()


def test_a_callback_that_stops_is_noticed(portaudio: VirtualPortAudio) -> None:
    recorder = Recorder()
    microphone = recorder.open(watchdog=0.2)
    assert "is gone" in recorder.sentences.get(timeout=10)
    assert "is back" in recorder.sentences.get(timeout=30)
    assert not portaudio.streams[0].open
    microphone.close()


def test_a_process_that_is_starved_does_not_lose_its_microphone(portaudio: VirtualPortAudio) -> None:
    recorder = Recorder()
    now, step = [0.0], [5.0]

    def clock() -> float:
        now[0] += step[0]
        return now[0]

    # Each wait for a block seems to take 5 s instead of 10 ms.
    microphone = recorder.open(watchdog=0.2, clock=clock)
    time.sleep(0.5)
    assert recorder.sentences.empty()
    step[0] = 0.01
    assert "is gone" in recorder.sentences.get(timeout=10)
    microphone.close()


def test_played_follows_the_device_and_its_latency(portaudio: VirtualPortAudio) -> None:
    speaker = Loudspeaker(RATE, choose_device(sound_devices(), "output"))
    (stream,) = portaudio.streams
    assert (stream.settings["device"], stream.rate) == (1, RATE)
    stream.latency = 100 / RATE
    speaker.begin()
    speaker.write(np.ones(300, np.float32))
    played = []
    for _ in range(5):
        stream.pull(90)
        played.append(speaker.played)
    assert played == [0, 80, 170, 260, 300]
    speaker.write(np.ones(10, np.float32))
    speaker.begin()
    assert speaker.played == 0


def test_what_was_stopped_is_not_heard_in_the_next_reply(portaudio: VirtualPortAudio) -> None:
    speaker = Loudspeaker(RATE, choose_device(sound_devices(), "output"))
    speaker.begin()
    speaker.write(np.ones(300, np.float32))
    speaker.stop()
    speaker.begin()
    speaker.write(np.full(10, 0.5, np.float32))
    assert portaudio.streams[0].pull(20).tolist() == [0.5] * 10 + [0] * 10


def test_a_loudspeaker_of_another_rate_gets_resampled_speech(portaudio: VirtualPortAudio) -> None:
    portaudio.rates = {48_000}
    speaker = Loudspeaker(RATE, choose_device(sound_devices(), "output"))
    stream = portaudio.streams[-1]
    assert stream.rate == 48_000
    speaker.begin()
    tone = np.sin(np.arange(2400) * 2 * np.pi * 440 / RATE).astype(np.float32)
    for start in range(0, 2400, 240):
        speaker.write(tone[start : start + 240])
    heard = stream.pull(4000)
    np.testing.assert_allclose(heard[::2], tone[:2000], atol=1e-2)
    assert speaker.played == 2000
    stream.pull(4000)
    assert speaker.played == 2400
    portaudio.rates = set()
    with pytest.raises(DeviceError, match="no output device"):
        Loudspeaker(RATE, choose_device(sound_devices(), "output"))


def test_a_loudspeaker_that_vanishes_leaves_text_and_comes_back(portaudio: VirtualPortAudio) -> None:
    sentences: list[str] = []
    now = [0.0]
    speaker = LiveSpeaker(RATE, choose_device(sound_devices(), "output"), sentences.append, clock=lambda: now[0])
    speaker.begin()
    speaker.write(np.ones(100, np.float32))
    assert speaker.played == 0
    portaudio.streams[0].vanish()
    # What was written counts as heard, so that the microphone does not stay muted.
    assert speaker.played == 100
    speaker.write(np.ones(50, np.float32))
    assert speaker.played == 150
    assert sentences == ["The loudspeaker 'Loudspeaker' is gone. Replies are text until it is back."]
    speaker.begin()
    assert len(portaudio.streams) == 1
    now[0] = 2.5
    speaker.begin()
    assert sentences[1:] == ["The loudspeaker 'Loudspeaker' is back."]
    speaker.write(np.ones(100, np.float32))
    assert portaudio.streams[1].pull(200).sum() == 100
    assert speaker.played == 100
    speaker.close()
    assert not portaudio.streams[1].open
