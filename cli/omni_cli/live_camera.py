"""The camera of a live conversation: where it is not there, the conversation goes on, and it is opened again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_cli.live_display import CameraState
from omni_edge.errors import DeviceError, MediaError
from omni_edge.media.camera import CameraStream

# A camera that gives no picture for so long is gone, whatever the system says.
_SILENT_SECONDS = 2.0
_POLL_SECONDS = 0.05
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 8.0


def camera_source(text: str) -> int | Path:
    """The camera's number, or the video file in its place, that a user names.

    Raises:
        MediaError: there is no such file.
    """
    if text.isdecimal():
        return int(text)
    if not Path(text).is_file():
        raise MediaError(f"There is no video file {text}. Name one, or the number of a camera (omni-edge devices).")
    return Path(text)


class LiveCamera:
    """Takes pictures while it is switched on, on a thread of its own; at first it is off.

    Args:
        source: the camera's number, or a video file that is played in its place.
        fps: pictures per second that the model sees. Twice as many are taken, so that what it sees is not old.
        take: gets each picture, uint8 [height, width, 3], RGB.
        say: gets a sentence for the user when the camera is not there, and when it is back.
        first_retry: seconds before it is opened again; each later attempt waits twice as long, 8 s at most.

    Attributes:
        state: what it does.
    """

    def __init__(
        self,
        source: int | Path,
        fps: float,
        take: Callable[[NDArray[np.uint8]], None],
        say: Callable[[str], None],
        *,
        first_retry: float = _FIRST_RETRY_SECONDS,
    ) -> None:
        self._source, self._period, self._take, self._say = source, 0.5 / fps, take, say
        self._first_retry = first_retry
        self._name = f"camera {source}" if isinstance(source, int) else f"video {str(source)!r}"
        # Ends the present thread; one that was ended may still wait for its camera.
        self._off = threading.Event()
        self._off.set()
        self._thread: threading.Thread | None = None
        self.state = CameraState.OFF

    def switch(self) -> None:
        """On, or off where it is on."""
        if self._off.is_set():
            self._off = threading.Event()
            self.state = CameraState.ON
            before = self._thread
            self._thread = threading.Thread(target=self._run, args=(self._off, before), name="camera", daemon=True)
            self._thread.start()
        else:
            self.close()

    def close(self) -> None:
        """Switches it off."""
        self._off.set()
        self.state = CameraState.OFF

    def _run(self, off: threading.Event, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        pause = self._first_retry
        while not off.is_set():
            try:
                self._watch(off)
                return
            except DeviceError as error:
                if self.state is CameraState.ON:
                    self._set(off, CameraState.GONE, f"{error} Until it is there, nothing is seen; v switches it off.")
                    pause = self._first_retry
            except MediaError as error:
                self._set(off, CameraState.OFF, f"No camera: {error}")
                off.set()
            off.wait(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def _watch(self, off: threading.Event) -> None:
        """Hands pictures on until it is switched off, or the file ends.

        Raises:
            DeviceError: the camera does not open, or gives no more pictures.
            MediaError: the file cannot be read, or OpenCV is missing.
        """
        stream = CameraStream(self._source)
        try:
            last = due = time.monotonic()
            while not off.is_set():
                if stream.grab(off.wait):
                    last = time.monotonic()
                    if last >= due and (picture := stream.picture()) is not None and not off.is_set():
                        if self.state is CameraState.GONE:
                            self._set(off, CameraState.ON, f"The {self._name} is back.")
                        self._take(picture)
                        due = last + self._period
                elif stream.is_file:
                    self._set(off, CameraState.OFF, f"The {self._name} is over. v plays it again.")
                    off.set()
                elif time.monotonic() - last > _SILENT_SECONDS:
                    raise DeviceError(f"The {self._name} gives no pictures. Plug it in again.")
                else:
                    off.wait(_POLL_SECONDS)
        finally:
            stream.close()

    def _set(self, off: threading.Event, state: CameraState, sentence: str) -> None:
        """Changes the state, unless the camera was switched off meanwhile."""
        if not off.is_set():
            self.state = state
            self._say(sentence)
