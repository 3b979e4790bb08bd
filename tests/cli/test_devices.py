"""`omni-edge devices`, with virtual devices in PortAudio's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from omni_cli.sound_devices import choose_device, sound_devices
from omni_edge.errors import DeviceError, MediaError, UsageError
from omni_edge.media.camera import Camera, cameras
from support.commands import run_edge
from support.portaudio import PortAudioError, VirtualPortAudio, device

DEVICES = [
    device("Built-in Microphone", inputs=2),
    device("Built-in Loudspeaker", outputs=2, rate=44_100.0),
    device("USB Headset", inputs=1, outputs=2, rate=16_000.0),
]


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> VirtualPortAudio:
    module = VirtualPortAudio(list(DEVICES))
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr("omni_cli.commands.devices.cameras", lambda: [Camera(0, "Webcam", 1280, 720, 30.0)])
    return module


def test_everything_is_listed_with_its_rate(portaudio: VirtualPortAudio) -> None:
    result = run_edge("devices")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["microphone", "0", "Built-in", "Microphone", "48000", "Hz", "2", "ch", "default"],
        ["microphone", "2", "USB", "Headset", "16000", "Hz", "1", "ch"],
        ["loudspeaker", "1", "Built-in", "Loudspeaker", "44100", "Hz", "2", "ch", "default"],
        ["loudspeaker", "2", "USB", "Headset", "16000", "Hz", "2", "ch"],
        ["camera", "0", "Webcam", "30", "fps", "1280", "x", "720"],
    ]
    listed = json.loads(run_edge("devices", "--json").stdout)
    assert [each["name"] for each in listed["loudspeakers"]] == ["Built-in Loudspeaker", "USB Headset"]
    assert listed["cameras"][0]["fps"] == 30


def test_without_sound_it_lists_cameras_and_exits_with_5(
    portaudio: VirtualPortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    portaudio.devices = []
    result = run_edge("devices")
    assert result.exit_code == 5
    assert "Webcam" in result.stdout
    assert "error: There is no microphone and no loudspeaker. Plug one in" in result.stderr
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = run_edge("devices")
    assert result.exit_code == 5
    assert "pip install 'omni-edge[chat]'" in result.stderr


def test_a_broken_sound_server_and_missing_opencv_are_named(
    portaudio: VirtualPortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise PortAudioError("Error initializing PortAudio")

    def no_opencv() -> None:
        raise MediaError("Cameras need OpenCV.")

    monkeypatch.setattr(portaudio, "query_devices", fail)
    monkeypatch.setattr("omni_cli.commands.devices.cameras", no_opencv)
    result = run_edge("devices")
    assert result.exit_code == 5
    assert "No cameras: Cameras need OpenCV." in result.stderr
    assert "error: The system's sound cannot be used (Error initializing PortAudio)." in result.stderr


def test_a_device_is_chosen_by_number_or_name(portaudio: VirtualPortAudio) -> None:
    present = sound_devices()
    assert choose_device(present, "input").name == "Built-in Microphone"
    for name in ("2", "USB Headset", "headset"):
        assert choose_device(present, "input", name).index == 2
    assert choose_device(present, "output", "headset").headphones
    assert not choose_device(present, "output").headphones
    with pytest.raises(DeviceError, match=r"no microphone 'Studio'. Present: 'Built-in Microphone', 'USB Headset'"):
        choose_device([each for each in present if each.index != 1], "input", "Studio")
    with pytest.raises(UsageError, match="Several devices match 'e': 1 'Built-in Loudspeaker', 2 'USB Headset'"):
        choose_device(present, "output", "e")
    with pytest.raises(DeviceError, match=r"There is no loudspeaker\. Plug one in"):
        choose_device([], "output")


def test_only_what_the_system_lists_is_opened_as_a_camera(tmp_path: Path) -> None:
    for name in ("video7", "v4l-subdev0"):
        (tmp_path / name).mkdir()
    # No such device: it is tried and does not open.
    assert cameras(tmp_path) == []
