"""Cameras, as OpenCV opens them, and video files in their place."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import DeviceError, MediaError
from omni_edge.media.quiet import quiet, silent_log

# Where the system does not list its cameras, these numbers are tried; OpenCV stops at gaps as well.
_TRIED = 4
_LINUX_CAMERAS = Path("/sys/class/video4linux")
# The model sees a live video in fewer pixels; many of its pictures may have to wait in memory.
_LARGEST_PIXELS = 640 * 480


@dataclass(frozen=True)
class Camera:
    """A camera that can be opened.

    Attributes:
        index: OpenCV's number.
        name: its name, or "camera" where the system says none.
        width, height: pixels of its pictures.
        fps: pictures per second.
    """

    index: int
    name: str
    width: int
    height: int
    fps: float


def cameras(listed: Path = _LINUX_CAMERAS) -> list[Camera]:
    """All cameras that open now; each is opened for a moment.

    Args:
        listed: the folder in which Linux lists its cameras.

    Raises:
        MediaError: OpenCV is not installed.
    """
    cv2 = _opencv()
    found = []
    for index, name in _candidates(listed).items():
        with quiet(), silent_log(cv2):
            capture = cv2.VideoCapture(index)
            if capture.isOpened():
                width, height = (
                    int(capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
                )
                found.append(Camera(index, name, width, height, float(capture.get(cv2.CAP_PROP_FPS))))
            capture.release()
    return found


class CameraStream:
    """An open camera, or a video file that is played in its place at its own pace. One thread.

    Args:
        source: the camera's number, or the file.
        clock: seconds.

    Raises:
        DeviceError: the camera does not open.
        MediaError: OpenCV is not installed, or the file is missing or no video.
    """

    def __init__(self, source: int | Path, clock: Callable[[], float] = time.monotonic) -> None:
        cv2 = self._cv2 = _opencv()
        self._clock = clock
        self._file = source if isinstance(source, Path) else None
        if self._file is not None and not self._file.is_file():
            raise MediaError(f"{source} does not exist. Name a video file, or the number of a camera.")
        with quiet(), silent_log(cv2):
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            if self._file is not None:
                raise MediaError(f"{source} is no video that OpenCV can read. Convert it, for example with ffmpeg.")
            raise DeviceError(
                f"The camera {source} cannot be opened. Close other programs that use it, allow this program to use it "
                "in the system's settings, or name another one: 'omni-edge devices' lists them."
            )
        self._began: float | None = None
        self._count = 0

    @property
    def is_file(self) -> bool:
        """Whether it ends."""
        return self._file is not None

    def grab(self, wait: Callable[[float], object] = time.sleep) -> bool:
        """Waits for the next picture; False: there is none. A camera that gives none returns after 10 s.

        Args:
            wait: waits for seconds, until the time of a file's picture.
        """
        cv2 = self._cv2
        with quiet(), silent_log(cv2):
            if not self._capture.grab():
                return False
        if self._file is not None:
            now = self._clock()
            self._began = now if self._began is None else self._began
            wait(max(0.0, self._began + self._seconds() - now))
        self._count += 1
        return True

    def picture(self) -> NDArray[np.uint8] | None:
        """What was grabbed, uint8 [height, width, 3], RGB, made smaller where it is large; None: it is damaged."""
        cv2 = self._cv2
        with quiet(), silent_log(cv2):
            taken, picture = self._capture.retrieve()
        if not taken:
            return None
        factor = (_LARGEST_PIXELS / (picture.shape[0] * picture.shape[1])) ** 0.5
        if factor < 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        """Gives the camera back."""
        self._capture.release()

    def _seconds(self) -> float:
        """The time of the file's present picture; by its number where the file has no times."""
        rate = self._capture.get(self._cv2.CAP_PROP_FPS)
        stamp = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        return float(stamp if stamp > 0 or rate <= 0 else self._count / rate)


def _opencv() -> Any:
    try:
        import cv2  # noqa: PLC0415 -- an extra
    except ImportError:
        raise MediaError("Cameras need OpenCV. Install it: pip install 'omni-edge[media]'") from None
    return cv2


def _candidates(listed: Path) -> dict[int, str]:
    """Numbers to try, and names."""
    if not listed.parent.is_dir():
        return dict.fromkeys(range(_TRIED), "camera")
    names = {}
    for folder in sorted(listed.glob("video*")):
        if number := re.fullmatch(r"video(\d+)", folder.name):
            try:
                names[int(number[1])] = (folder / "name").read_text("utf-8", "replace").strip() or "camera"
            except OSError:
                names[int(number[1])] = "camera"
    return dict(sorted(names.items()))
