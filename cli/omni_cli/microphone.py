"""A microphone: PortAudio's blocks, handed on from a thread of their own; a device that vanishes is opened again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_cli.sound_devices import SoundDevice, choose_device, open_stream, portaudio, sound_devices
from omni_edge.errors import DeviceError, UsageError

_BLOCK_SECONDS = 0.02
# A callback that stays away this long has stopped, whatever PortAudio says. The time counts in steps that end on time:
# where the process is starved, its callback is starved too.
_WATCHDOG_SECONDS, _WATCHDOG_STEPS = 2.0, 20
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 8.0
# Tried where a device does not take the rate that it says it prefers.
_OTHER_RATES = (48_000, 44_100, 16_000)


class Microphone:
    """Records until `close`.

    Args:
        device: what is recorded from.
        take: gets each block, float32 [n], and its rate, on this microphone's thread.
        say: gets a sentence for the user when the device vanishes and when it is back, on that thread too.
        watchdog: seconds without a block after which the device counts as gone, those in which this process does not
            run left out.
        first_retry: seconds before the first attempt to open it again; each later one takes twice as long, 8 s at most.
        clock: seconds.

    Raises:
        DeviceError: it cannot be opened.
    """

    def __init__(
        self,
        device: SoundDevice,
        take: Callable[[NDArray[np.float32], int], None],
        say: Callable[[str], None],
        *,
        watchdog: float = _WATCHDOG_SECONDS,
        first_retry: float = _FIRST_RETRY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._take, self._say, self._clock = device, take, say, clock
        self._watchdog, self._first_retry = watchdog, first_retry
        self._blocks: SimpleQueue[NDArray[np.float32] | None] = SimpleQueue()
        self._closed = threading.Event()
        self._stream, self.rate = self._open(device)
        self._thread = threading.Thread(target=self._run, name="microphone", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The device's."""
        return self._device.name

    def close(self) -> None:
        """Ends recording."""
        self._closed.set()
        self._blocks.put(None)
        self._thread.join()

    def _open(self, device: SoundDevice) -> tuple[Any, int]:
        module = portaudio()

        def open_at(rate: int) -> Any:
            return module.InputStream(
                samplerate=rate,
                device=device.index,
                channels=1,
                dtype="float32",
                blocksize=round(_BLOCK_SECONDS * rate),
                callback=self._recorded,
                finished_callback=lambda: self._blocks.put(None),
            )

        try:
            return open_stream(open_at, (device.rate, *_OTHER_RATES))
        except DeviceError as error:
            raise DeviceError(
                f"The microphone {device.name!r} cannot be opened ({error}). Close other programs that record, allow "
                "this program to use it in the system's settings, or name another one with --device-in."
            ) from None

    def _recorded(self, block: NDArray[np.float32], frames: int, times: Any, status: Any) -> None:
        """PortAudio's callback: `block` [frames, 1] is its own memory."""
        self._blocks.put(block[:, 0].copy())

    def _run(self) -> None:
        while not self._closed.is_set():
            if (block := self._next()) is not None:
                self._take(block, self.rate)
            elif not self._closed.is_set():
                self._reopen()
        self._stream.close()

    def _next(self) -> NDArray[np.float32] | None:
        """The next block; None: the device has stopped."""
        step, on_time = self._watchdog / _WATCHDOG_STEPS, 0
        while on_time < _WATCHDOG_STEPS:
            began = self._clock()
            try:
                return self._blocks.get(timeout=step)
            except Empty:
                on_time += self._clock() - began < 2 * step
        return None

    def _reopen(self) -> None:
        """Waits until the device is there again, or another one where none was chosen by name."""
        self._stream.close()
        self._say(f"The microphone {self.name!r} is gone. The conversation waits until it is back.")
        pause, refresh = self._first_retry, False
        while not self._closed.wait(pause):
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
            try:
                devices = sound_devices(refresh=refresh)
                # Looking for new devices closes the loudspeaker, so it comes after a try without.
                refresh = not refresh
                try:
                    device = choose_device(devices, "input", self._device.name)
                except (DeviceError, UsageError):
                    if not self._device.default:
                        raise
                    device = choose_device(devices, "input")
                stream, rate = self._open(device)
            except (DeviceError, UsageError):
                continue
            while not self._blocks.empty():
                self._blocks.get_nowait()
            self._device, self._stream, self.rate = device, stream, rate
            self._say(f"The microphone {self.name!r} is back.")
            return
