"""Virtual devices: a module in sounddevice's place, whose streams the test feeds and drains."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PortAudioError(Exception):
    """sounddevice's."""


class Stream:
    """An open device; `feed` and `pull` are what PortAudio's thread does."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.rate = int(settings["samplerate"])
        self.latency = 0.0
        self.open = True

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        self.open = False

    def vanish(self) -> None:
        """The device is unplugged."""
        self.open = False
        self.settings["finished_callback"]()

    def feed(self, samples: NDArray[np.float32]) -> None:
        """The microphone records float32 [n]."""
        self.settings["callback"](samples[:, None], samples.size, None, None)

    def pull(self, frames: int) -> NDArray[np.float32]:
        """The loudspeaker plays float32 [frames]."""
        out = np.full((frames, 1), np.nan, np.float32)
        self.settings["callback"](out, frames, None, None)
        return out[:, 0]


def device(name: str, inputs: int = 0, outputs: int = 0, rate: float = 48_000.0) -> dict[str, Any]:
    """An entry of sounddevice's list."""
    return {
        "name": name,
        "max_input_channels": inputs,
        "max_output_channels": outputs,
        "default_samplerate": rate,
    }


class VirtualPortAudio(types.ModuleType):
    """Stands for `sounddevice`.

    Attributes:
        devices: the list; a test may change it.
        rates: samples per second that devices take; None: all.
        streams: those opened so far, in order.
        opened: called with each new stream.
    """

    PortAudioError = PortAudioError

    def __init__(self, devices: list[dict[str, Any]]) -> None:
        super().__init__("sounddevice")
        self.devices = devices
        self.default = types.SimpleNamespace(device=(0, 1))
        self.rates: set[int] | None = None
        self.streams: list[Stream] = []
        self.opened: Callable[[Stream], None] = lambda stream: None

    def query_devices(self) -> list[dict[str, Any]]:
        return self.devices

    def _terminate(self) -> None:
        pass

    def _initialize(self) -> None:
        pass

    def InputStream(self, **settings: Any) -> Stream:  # noqa: N802 -- sounddevice's name
        return self._open("max_input_channels", settings)

    def OutputStream(self, **settings: Any) -> Stream:  # noqa: N802 -- sounddevice's name
        return self._open("max_output_channels", settings)

    def _open(self, channels: str, settings: dict[str, Any]) -> Stream:
        index = settings.get("device")
        present = [entry for entry in self.devices if entry[channels]]
        if not present or (index is not None and not (index < len(self.devices) and self.devices[index][channels])):
            raise PortAudioError("Error querying device -1")
        if self.rates is not None and settings["samplerate"] not in self.rates:
            raise PortAudioError("Error opening stream: Invalid sample rate [PaErrorCode -9997]")
        stream = Stream(settings)
        self.streams.append(stream)
        self.opened(stream)
        return stream
