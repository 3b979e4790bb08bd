"""Where speech goes, with PortAudio replaced at its door."""

from __future__ import annotations

import sys
import threading
import types
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_cli.speech_out import Loudspeaker, WavFolder
from omni_edge.errors import DeviceError, UsageError

RATE = 24_000


class PortAudio(types.ModuleType):
    """Stands for `sounddevice`: one stream whose callback the test calls."""

    class PortAudioError(Exception):
        pass

    def __init__(self, present: bool = True) -> None:
        super().__init__("sounddevice")
        self.present = present
        self.fill: Callable[..., None]
        self.finished: Callable[[], None]

    def OutputStream(self, **settings: Any) -> PortAudio:  # noqa: N802 -- sounddevice's name
        if not self.present:
            raise self.PortAudioError("Error querying device -1")
        assert (settings["samplerate"], settings["channels"], settings["dtype"]) == (RATE, 1, "float32")
        self.fill, self.finished = settings["callback"], settings["finished_callback"]
        return self

    def start(self) -> None:
        pass

    def pull(self, frames: int) -> list[float]:
        out = np.full((frames, 1), np.nan, np.float32)
        self.fill(out, frames, None, None)
        return out[:, 0].tolist()


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> PortAudio:
    module = PortAudio()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_blocks_are_played_in_order_and_silence_follows(portaudio: PortAudio) -> None:
    speaker = Loudspeaker(RATE)
    speaker.begin()
    speaker.write(np.array([1, 2, 3], np.float32))
    speaker.write(np.array([4, 5], np.float32))
    assert portaudio.pull(2) == [1, 2]
    assert portaudio.pull(2) == [3, 4]
    assert portaudio.pull(3) == [5, 0, 0]
    assert portaudio.pull(2) == [0, 0]


def test_end_waits_until_the_last_sample_is_taken(portaudio: PortAudio) -> None:
    speaker = Loudspeaker(RATE)
    speaker.write(np.ones(10, np.float32))
    waiting = threading.Thread(target=speaker.end)
    waiting.start()
    portaudio.pull(9)
    waiting.join(0.3)
    assert waiting.is_alive()
    portaudio.pull(1)
    waiting.join(10)
    assert not waiting.is_alive()


def test_stop_drops_what_is_not_heard_and_the_next_reply_is_heard(portaudio: PortAudio) -> None:
    speaker = Loudspeaker(RATE)
    speaker.write(np.ones(10, np.float32))
    speaker.stop()
    assert portaudio.pull(4) == [0, 0, 0, 0]
    speaker.end()
    speaker.begin()
    speaker.write(np.array([7], np.float32))
    assert portaudio.pull(2) == [7, 0]


def test_a_device_that_vanishes_is_a_device_error(portaudio: PortAudio) -> None:
    speaker = Loudspeaker(RATE)
    speaker.write(np.ones(10, np.float32))
    portaudio.finished()
    with pytest.raises(DeviceError, match="gone"):
        speaker.end()
    with pytest.raises(DeviceError, match="gone"):
        speaker.write(np.ones(1, np.float32))


def test_no_device_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio(present=False))
    with pytest.raises(DeviceError, match="no output device"):
        Loudspeaker(RATE)


def test_no_sounddevice_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DeviceError, match=r"pip install 'omni-edge\[chat\]'"):
        Loudspeaker(RATE)


def test_a_folder_gets_one_file_per_reply(tmp_path: Path) -> None:
    folder = WavFolder(tmp_path / "new" / "folder", RATE)
    for length in (3, 5):
        folder.begin()
        folder.write(np.zeros(length, np.float32))
        folder.end()
    names = ["reply-001.wav", "reply-002.wav"]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == names
    for name, length in zip(names, (3, 5), strict=True):
        with wave.open(str(tmp_path / "new" / "folder" / name)) as file:
            assert (file.getframerate(), file.getnframes()) == (RATE, length)


def test_a_file_in_the_folders_place_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        WavFolder(tmp_path / "taken", RATE)
