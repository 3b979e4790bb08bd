"""Microphones and loudspeakers: PortAudio, which is loaded when the first one is asked for."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from omni_edge.errors import DeviceError, UsageError

Direction = Literal["input", "output"]
# PortAudio may not be initialized again while another thread opens a device.
_lock = threading.RLock()
# Words in the name of a device whose sound does not reach the microphone.
_HEADPHONES = ("headphone", "headset", "earphone", "earbud", "airpod", "kopfhörer")


@dataclass(frozen=True)
class SoundDevice:
    """A microphone or a loudspeaker.

    Attributes:
        index: PortAudio's number.
        name: its name.
        direction: "input": a microphone; "output": a loudspeaker.
        channels: at most.
        rate: samples per second that it prefers.
        default: whether it is used where none is named.
    """

    index: int
    name: str
    direction: Direction
    channels: int
    rate: int
    default: bool

    @property
    def headphones(self) -> bool:
        """Whether its name says that no loudspeaker's sound reaches the microphone."""
        return any(word in self.name.lower() for word in _HEADPHONES)


def portaudio() -> Any:
    """The module sounddevice.

    Raises:
        DeviceError: it or PortAudio is missing.
    """
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise DeviceError("sounddevice is not installed: pip install 'omni-edge[chat]'") from None
    except OSError as error:
        raise DeviceError(f"{error}; on Debian: apt install libportaudio2") from None


def sound_devices(*, refresh: bool = False) -> list[SoundDevice]:
    """All microphones and loudspeakers; a headset is one of each.

    Args:
        refresh: look for devices that came or went; this closes the streams that are open.

    Raises:
        DeviceError: sounddevice or PortAudio is missing, or the system has no sound.
    """
    module = portaudio()
    try:
        with _lock:
            if refresh:
                # PortAudio lists the devices once, when it is initialized.
                module._terminate()
                module._initialize()
            listed = module.query_devices()
            defaults = {"input": module.default.device[0], "output": module.default.device[1]}
    except module.PortAudioError as error:
        raise DeviceError(f"The system's sound cannot be used ({error}). Check that its sound server runs.") from None
    directions: tuple[Direction, Direction] = ("input", "output")
    return [
        SoundDevice(
            index=index,
            name=str(device["name"]),
            direction=direction,
            channels=int(device[f"max_{direction}_channels"]),
            rate=round(device["default_samplerate"]),
            default=index == defaults[direction],
        )
        for direction in directions
        for index, device in enumerate(listed)
        if device[f"max_{direction}_channels"] > 0
    ]


def choose_device(devices: list[SoundDevice], direction: Direction, wanted: str | None = None) -> SoundDevice:
    """The device that `wanted` names by its number or a part of its name; None: the default one.

    Raises:
        DeviceError: there is none.
        UsageError: several have such a name.
    """
    kind = "microphone" if direction == "input" else "loudspeaker"
    present = [device for device in devices if device.direction == direction]
    if wanted is None:
        chosen = [device for device in present if device.default] or present
        if not chosen:
            raise DeviceError(f"There is no {kind}. Plug one in; 'omni-edge devices' lists what there is.")
        return chosen[0]
    found = [device for device in present if wanted in (str(device.index), device.name)]
    found = found or [device for device in present if wanted.lower() in device.name.lower()]
    if not found:
        names = ", ".join(f"{device.name!r}" for device in present) or "none"
        raise DeviceError(f"There is no {kind} {wanted!r}. Present: {names}. 'omni-edge devices' lists them.")
    if len(found) > 1:
        names = ", ".join(f"{device.index} {device.name!r}" for device in found)
        raise UsageError(f"Several devices match {wanted!r}: {names}. Name one by its number.")
    return found[0]


def open_stream(open_at: Callable[[int], Any], rates: Iterable[int]) -> tuple[Any, int]:
    """A started stream at the first of the rates that its device takes, and that rate.

    Args:
        open_at: makes the stream at a rate.
        rates: samples per second, the best first.

    Raises:
        DeviceError: none of them; the message is PortAudio's.
    """
    failure = ""
    for rate in dict.fromkeys(rates):
        stream, message = _attempt(open_at, rate)
        if stream is not None:
            return stream, rate
        failure = failure or message
        if "sample rate" not in message.lower():
            break
    raise DeviceError(failure)


def _attempt(open_at: Callable[[int], Any], rate: int) -> tuple[Any, str]:
    """The started stream, or None and what PortAudio says."""
    try:
        with _lock:
            stream = open_at(rate)
            stream.start()
    except portaudio().PortAudioError as error:
        return None, str(error)
    return stream, ""
