"""Where a reply's speech goes: a loudspeaker, a folder of WAV files, or both."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omni_cli.sound_devices import SoundDevice, open_stream, portaudio
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.errors import DeviceError, UsageError
from omni_edge.media.wav import WavWriter

_POLL_SECONDS = 0.1
_REPLY_NAME = re.compile(r"reply-(\d+)\.wav")


class SpeechOut(Protocol):
    """A place for speech; one reply at a time."""

    def begin(self) -> None:
        """A reply starts."""

    def write(self, samples: NDArray[np.float32]) -> None:
        """Takes the next samples, float32 [n] in [-1, 1], without waiting for them to be heard."""

    def end(self) -> None:
        """The reply is complete: returns when the last sample is heard or written."""

    def stop(self) -> None:
        """Drops what is not heard yet; called from a signal handler."""


class WavFolder:
    """`reply-001.wav`, `reply-002.wav`, ... in a folder, which is created; numbers continue after those there."""

    def __init__(self, folder: Path, rate: int) -> None:
        self._folder, self._rate = folder, rate
        self._file: WavWriter | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be used ({error.strerror}). -o names a folder for WAV files.") from None
        numbers = (_REPLY_NAME.fullmatch(path.name) for path in folder.iterdir())
        self._count = max((int(found[1]) for found in numbers if found), default=0)

    def begin(self) -> None:
        self._count += 1
        self._file = WavWriter(self._folder / f"reply-{self._count:03d}.wav", self._rate)

    def write(self, samples: NDArray[np.float32]) -> None:
        if self._file:
            self._file.write(samples)

    def end(self) -> None:
        if self._file:
            self._file.close()

    def stop(self) -> None:
        """Nothing to drop: what was spoken stays in the file."""


class Loudspeaker:
    """An output device, fed by PortAudio's thread from a queue. It is a `SpeechSink` of a live conversation as well.

    Args:
        rate: samples per second of the speech. A device that does not take this rate gets resampled speech.
        device: which one; None: the default one.
        played: gets what the device plays, silence included: float32 [n] and its rate, on PortAudio's thread.

    Raises:
        DeviceError: sounddevice, PortAudio or a device is missing; later, from `write` and `end`: the device vanished.
    """

    def __init__(
        self,
        rate: int,
        device: SoundDevice | None = None,
        played: Callable[[NDArray[np.float32], int], None] | None = None,
    ) -> None:
        self._rate, self._tap = rate, played
        self._queue: deque[NDArray[np.float32]] = deque()
        self._lock = threading.Lock()
        self._quiet = threading.Event()
        self._quiet.set()
        self._gone = threading.Event()
        self._drop = threading.Event()
        self._resample = ResampleState()
        # Of this reply: samples written at the speech's rate, those given to PortAudio at the device's, and silence
        # behind the last of them.
        self._written = 0
        self._filled = 0
        self._silent = 0
        self._device_rate = rate
        self._stream, self._device_rate = self._open(portaudio(), rate, device)

    def _open(self, module: Any, rate: int, device: SoundDevice | None) -> tuple[Any, int]:
        chosen = {} if device is None else {"device": device.index}

        def open_at(attempt: int) -> Any:
            return module.OutputStream(
                samplerate=attempt,
                channels=1,
                dtype="float32",
                callback=self._fill,
                finished_callback=self._gone.set,
                **chosen,
            )

        try:
            return open_stream(open_at, [rate] if device is None else [rate, device.rate])
        except DeviceError as error:
            raise DeviceError(f"no output device ({error})") from None

    def begin(self) -> None:
        with self._lock:
            if self._drop.is_set():
                self._queue.clear()
            self._drop.clear()
            self._resample = ResampleState()
            self._written = self._filled = self._silent = 0

    def write(self, samples: NDArray[np.float32]) -> None:
        self._check()
        converted = resampler(self._rate, self._device_rate).step(samples, self._resample)
        with self._lock:
            self._written += samples.size
            if self._filled and self._silent and not self._queue:
                self._silent = 0
            if converted is not None:
                self._queue.append(converted)
                self._quiet.clear()

    def end(self) -> None:
        while not self._quiet.wait(_POLL_SECONDS):
            self._check()

    def stop(self) -> None:
        # Only a mark: a signal handler interrupts the very thread that may hold the lock.
        self._drop.set()

    @property
    def played(self) -> int:
        """Samples of this reply, at the speech's rate, that have left the device by its own latency."""
        latency = float(self._stream.latency)
        waiting = max(0, round(latency * self._device_rate) - self._silent)
        with self._lock:
            # The resampler holds a few milliseconds back, which follow with the next samples or not at all.
            if not self._queue and not waiting and self._silent:
                return self._written
            return max(0, self._filled - waiting) * self._rate // self._device_rate

    @property
    def gone(self) -> bool:
        """Whether the device vanished."""
        return self._gone.is_set()

    def close(self) -> None:
        """Gives the device back."""
        self._stream.close()

    def _check(self) -> None:
        if self._gone.is_set():
            raise DeviceError("the loudspeaker is gone; the conversation goes on in text")

    def _fill(self, out: NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        """PortAudio's callback: fills `out` [frames, 1]."""
        filled = 0
        with self._lock:
            if self._drop.is_set():
                self._queue.clear()
            while filled < frames and self._queue:
                block = self._queue.popleft()
                taken = block[: frames - filled]
                out[filled : filled + len(taken), 0] = taken
                filled += len(taken)
                if len(taken) < len(block):
                    self._queue.appendleft(block[len(taken) :])
            if not self._queue:
                self._quiet.set()
            self._filled += filled
            self._silent = frames - filled if filled else self._silent + frames
        out[filled:] = 0
        if self._tap is not None:
            self._tap(out[:, 0].copy(), self._device_rate)
