"""Cameras, as OpenCV opens them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from omni_edge.errors import MediaError
from omni_edge.media.quiet import quiet

# Where the system does not list its cameras, these numbers are tried; OpenCV stops at gaps as well.
_TRIED = 4
_LINUX_CAMERAS = Path("/sys/class/video4linux")


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
    try:
        import cv2  # noqa: PLC0415 -- an extra
    except ImportError:
        raise MediaError("Cameras need OpenCV. Install it: pip install 'omni-edge[media]'") from None
    found = []
    for index, name in _candidates(listed).items():
        with quiet():
            capture = cv2.VideoCapture(index)
            if capture.isOpened():
                width, height = (
                    int(capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
                )
                found.append(Camera(index, name, width, height, float(capture.get(cv2.CAP_PROP_FPS))))
            capture.release()
    return found


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
