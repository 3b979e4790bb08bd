"""The loudspeaker of a live conversation: where it vanishes, the conversation goes on, and it is opened again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from omni_cli.sound_devices import SoundDevice
from omni_cli.speech_out import Loudspeaker
from omni_edge.errors import DeviceError
from omni_edge.live.playback import InstantSink

_RETRY_SECONDS = 2.0


class LiveSpeaker:
    """A `SpeechSink` that never fails. While the device is gone, speech counts as heard at once.

    Args:
        rate: samples per second of the speech.
        device: the loudspeaker.
        say: gets a sentence for the user when the device vanishes and when it is back.
        played: gets what the device plays, see `Loudspeaker`.
        clock: seconds.

    Raises:
        DeviceError: it cannot be opened.
    """

    def __init__(
        self,
        rate: int,
        device: SoundDevice,
        say: Callable[[str], None],
        played: Callable[[NDArray[np.float32], int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate, self._device, self._say, self._tap, self._clock = rate, device, say, played, clock
        self._speaker: Loudspeaker | None = Loudspeaker(rate, device, played)
        self._instead = InstantSink()
        self._retry_at = 0.0
        # Guards the device, which several threads may find gone.
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The device's."""
        return self._device.name

    def check(self) -> None:
        """Between replies: says where the device is gone, and opens it where it is back."""
        with self._lock:
            if self._present() is not None or self._clock() < self._retry_at:
                return
            self._retry_at = self._clock() + _RETRY_SECONDS
            try:
                self._speaker = Loudspeaker(self._rate, self._device, self._tap)
                self._say(f"The loudspeaker {self.name!r} is back.")
            except DeviceError:
                pass

    def begin(self) -> None:
        self.check()
        self._instead.begin()
        if self._speaker is not None:
            self._speaker.begin()

    def write(self, samples: NDArray[np.float32]) -> None:
        self._instead.write(samples)
        if self._speaker is not None:
            try:
                self._speaker.write(samples)
            except DeviceError:
                self._present()

    def stop(self) -> None:
        if self._speaker is not None:
            self._speaker.stop()

    @property
    def played(self) -> int:
        speaker = self._present()
        return self._instead.played if speaker is None else speaker.played

    def close(self) -> None:
        """Gives the device back."""
        if self._speaker is not None:
            self._speaker.close()

    def _present(self) -> Loudspeaker | None:
        """The device; None where it is gone."""
        with self._lock:
            if self._speaker is not None and self._speaker.gone:
                self._speaker.close()
                self._speaker = None
                self._retry_at = self._clock() + _RETRY_SECONDS
                self._say(f"The loudspeaker {self.name!r} is gone. Replies are text until it is back.")
            return self._speaker
