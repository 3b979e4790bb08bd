"""The camera of a live conversation: a video file in its place, and one that fails, by an OpenCV of the test's own."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np
import pytest

from omni_cli import live_camera
from omni_cli.live_camera import LiveCamera, camera_source
from omni_cli.live_display import CameraState
from omni_edge.errors import MediaError
from omni_edge.media.camera import CameraStream

CLIP = Path(__file__).parents[1] / "data" / "clip.mp4"


class Seen:
    """Takes a camera's pictures and sentences."""

    def __init__(self) -> None:
        self.pictures: SimpleQueue[np.ndarray] = SimpleQueue()
        self.sentences: SimpleQueue[str] = SimpleQueue()

    def camera(self, source: int | Path, fps: float = 100) -> LiveCamera:
        return LiveCamera(source, fps, self.pictures.put, self.sentences.put, first_retry=0.01)


class Capture:
    """Stands for `cv2.VideoCapture`: a camera that the test plugs in and out."""

    present = threading.Event()
    gives = threading.Event()

    def __init__(self, source: int) -> None:
        assert source == 2
        self._open = self.present.is_set()

    def isOpened(self) -> bool:  # noqa: N802 -- OpenCV's name
        return self._open

    def grab(self) -> bool:
        time.sleep(0.005)
        return self.present.is_set() and self.gives.is_set()

    def retrieve(self) -> tuple[bool, Any]:
        # Blue, as OpenCV orders the channels.
        return True, np.broadcast_to(np.array([255, 0, 0], np.uint8), (960, 1280, 3))

    def release(self) -> None:
        self._open = False


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> type[Capture]:
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(live_camera, "_SILENT_SECONDS", 0.05)
    Capture.present.set()
    Capture.gives.set()
    return Capture


def test_a_video_plays_at_its_own_pace_and_ends() -> None:
    now = [0.0]
    stream = CameraStream(CLIP, clock=lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    times = []
    while stream.grab(wait):
        times.append(now[0])
    assert times == pytest.approx([number / 10 for number in range(30)])


def test_pictures_come_as_often_as_the_model_sees_them_and_v_plays_a_video_again() -> None:
    seen = Seen()
    camera = seen.camera(CLIP, fps=2)
    assert camera.state is CameraState.OFF
    for _ in range(2):
        camera.switch()
        assert camera.state is CameraState.ON
        pictures = [seen.pictures.get(timeout=10) for _ in range(3)]
        assert [picture.shape for picture in pictures] == [(120, 160, 3)] * 3
        camera.switch()
        assert camera.state is CameraState.OFF
    capture = cv2.VideoCapture(str(CLIP))
    frame = capture.read()[1][..., ::-1]
    np.testing.assert_array_equal(pictures[0], frame)
    assert seen.sentences.empty()


def test_a_camera_that_vanishes_is_named_once_and_opened_again(plugged: type[Capture]) -> None:
    seen = Seen()
    camera = seen.camera(2)
    camera.switch()
    picture = seen.pictures.get(timeout=10)
    # Made smaller, and blue.
    assert picture.shape == (480, 640, 3)
    assert picture[0, 0].tolist() == [0, 0, 255]
    plugged.present.clear()
    assert seen.sentences.get(timeout=10) == (
        "The camera 2 gives no pictures. Plug it in again. Until it is there, nothing is seen; v switches it off."
    )
    assert camera.state is CameraState.GONE
    plugged.present.set()
    assert seen.sentences.get(timeout=10) == "The camera 2 is back."
    assert camera.state is CameraState.ON
    camera.close()


def test_a_camera_that_does_not_open_or_gives_nothing_can_be_switched_off(plugged: type[Capture]) -> None:
    seen = Seen()
    camera = seen.camera(2)
    plugged.present.clear()
    camera.switch()
    assert "The camera 2 cannot be opened. Close other programs" in seen.sentences.get(timeout=10)
    # It opens now, but gives nothing: it was named.
    plugged.gives.clear()
    plugged.present.set()
    time.sleep(0.15)
    camera.switch()
    assert camera.state is CameraState.OFF
    assert seen.sentences.empty()
    plugged.gives.set()
    camera.switch()
    assert seen.pictures.get(timeout=10).any()
    camera.close()


def test_what_is_no_camera_is_named(tmp_path: Path) -> None:
    assert camera_source("3") == 3
    assert camera_source(str(CLIP)) == CLIP
    with pytest.raises(MediaError, match=r"There is no video file .*none\.mp4"):
        camera_source(str(tmp_path / "none.mp4"))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    seen = Seen()
    camera = seen.camera(text)
    camera.switch()
    assert "No camera: " in (said := seen.sentences.get(timeout=10))
    assert "is no video that OpenCV can read" in said
    assert camera.state is CameraState.OFF
