"""Pictures and videos to the vision encoder's patches, equal to transformers' `Qwen2VLImageProcessorPil`.

Video frames follow qwen-omni-utils, the preprocessing that Qwen2.5-Omni is published with: every frame has a pixel
budget of its own, which shrinks when a long video would spend more than the whole video's budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import VisionSection
from omni_edge.errors import MediaError, UsageError
from omni_edge.vision.resize import resize

_MAX_RATIO = 200
# A long video's frames shrink no further than to this multiple of the smallest budget (qwen-omni-utils).
_VIDEO_HEADROOM = 1.05
# What a picture and a video may take of a context: one part in so many.
_PICTURE_PART, _VIDEO_PART = 4, 2
# Time stamps within half a frame of an even spacing are a constant rate.
_JITTER_FRAMES = 0.5
_LONGEST_LAST_FRAME_SECONDS = 1.0
# Containers round time stamps to a millisecond.
_ROUNDING_SECONDS = 0.001
_RGB = 3
_LEVELS = 256


@dataclass(frozen=True)
class VisionPatches:
    """What the vision encoder takes.

    Attributes:
        patches: float32 [T, P, C * temporal_patch * patch * patch], normalised; the P = h * w patches of one temporal
            patch are laid out by merge group: the merge_size x merge_size patches of one token lie next to each other.
        grid: (t, h, w), in patches.
        seconds_per_grid: seconds between two temporal patches; 0 for a still picture.
    """

    patches: NDArray[np.float32]
    grid: tuple[int, int, int]
    seconds_per_grid: float


def within_context(section: VisionSection, positions: int, max_pixels: int | None = None) -> VisionSection:
    """`section` with budgets that leave room in a context of `positions` positions.

    The published budget lets a picture take 16384 positions, more than a small machine's context holds and minutes of
    prefill: a photograph is scaled down to a quarter of the context, a video to a half.

    Args:
        section: the bundle's.
        positions: the context's capacity.
        max_pixels: of a picture, instead of the quarter; at most the bundle's own budget counts.

    Raises:
        UsageError: `max_pixels` is less than the smallest picture has.
    """
    if max_pixels is not None and max_pixels < section.min_pixels:
        raise UsageError(f"A picture has {section.min_pixels} pixels at least; --max-pixels {max_pixels} is too small.")
    per_token = (section.patch_size * section.merge_size) ** 2
    picture = positions * per_token // _PICTURE_PART if max_pixels is None else max_pixels
    return replace(
        section,
        max_pixels=max(section.min_pixels, min(section.max_pixels, picture)),
        video_total_pixels=min(section.video_total_pixels, positions * per_token // _VIDEO_PART),
    )


class ImageProcessor:
    """Resizing, normalisation and patches by the rules of one manifest; immutable."""

    def __init__(self, section: VisionSection) -> None:
        self._section = section
        levels = np.arange(_LEVELS, dtype=np.float64)[None, :] / (_LEVELS - 1)
        mean, std = np.array(section.mean)[:, None], np.array(section.std)[:, None]
        self._normalized = ((levels - mean) / std).astype(np.float32)

    def image(self, pixels: NDArray[np.uint8]) -> VisionPatches:
        """A still picture: one temporal patch, whose two moments are the same.

        Args:
            pixels: uint8 [H, W, 3], RGB.

        Raises:
            MediaError: no such array, an empty one, or sides too different.
        """
        checked = _checked(pixels, ("height", "width"))
        section = self._section
        height, width = smart_resize(
            checked.shape[0], checked.shape[1], section, section.min_pixels, section.max_pixels
        )
        resized = resize(checked, height, width)
        return self._patches(np.broadcast_to(resized, (section.temporal_patch_size, *resized.shape)), 0.0)

    def video(self, frames: NDArray[np.uint8], fps: float) -> VisionPatches:
        """A video's frames; the last is repeated where a temporal patch is not full.

        Args:
            frames: uint8 [n, H, W, 3], RGB, evenly spaced in time.
            fps: frames per second of `frames`, after sampling.

        Raises:
            MediaError: no such array, an empty one, sides too different, or no positive finite `fps`.
        """
        checked = _checked(frames, ("frames", "height", "width"))
        if not (math.isfinite(fps) and fps > 0.0):
            raise MediaError(f"A video needs a positive number of frames per second, not {fps!r}. State the real one.")
        section = self._section
        height, width = video_size(len(checked), checked.shape[1], checked.shape[2], section)
        missing = -len(checked) % section.temporal_patch_size
        resized = np.empty((len(checked) + missing, height, width, _RGB), np.uint8)
        for index, frame in enumerate(checked):
            resized[index] = resize(frame, height, width)
        resized[len(checked) :] = resized[len(checked) - 1]
        return self._patches(resized, section.temporal_patch_size / fps)

    def live_frame(
        self, pixels: NDArray[np.uint8], frames: int, size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """A frame of a live video in the size that a video of `frames` frames is brought to.

        Args:
            pixels: uint8 [H, W, 3], RGB.
            frames: the number of frames that the pixel budget of a whole video is meant for.
            size: height and width of the frames before it; None: it is the first one.

        Returns:
            uint8 [height, width, 3], for `live_patches`.

        Raises:
            MediaError: no such array, an empty one, or sides too different.
        """
        checked = _checked(pixels, ("height", "width"))
        if size is None:
            size = video_size(frames, checked.shape[0], checked.shape[1], self._section)
        return resize(checked, *size)

    def live_patches(self, frames: NDArray[np.uint8], fps: float) -> VisionPatches:
        """Frames of `live_frame`, uint8 [n, height, width, 3] with n whole temporal patches, `fps` a second."""
        return self._patches(frames, self._section.temporal_patch_size / fps)

    def _patches(self, frames: NDArray[np.uint8], seconds_per_grid: float) -> VisionPatches:
        section = self._section
        size, merge, temporal = section.patch_size, section.merge_size, section.temporal_patch_size
        count, height, width, channels = frames.shape
        t, h, w = count // temporal, height // size, width // size
        groups = frames.reshape(t, temporal, h // merge, merge, size, w // merge, merge, size, channels)
        ordered = groups.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
        patches = np.empty(ordered.shape, np.float32)
        for channel, table in enumerate(self._normalized):
            patches[:, :, :, :, :, channel] = table[ordered[:, :, :, :, :, channel]]
        return VisionPatches(patches.reshape(t, h * w, -1), (t, h, w), seconds_per_grid)


def smart_resize(
    height: int, width: int, section: VisionSection, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """The size a picture is brought to: sides that are whole merge groups, pixels within the bounds, ratio kept.

    Source: `smart_resize` of transformers' Qwen2-VL image processor, its rounding included.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if max(height, width) > _MAX_RATIO * min(height, width):
        raise MediaError(
            f"A picture of {width} x {height} pixels is too long and thin: one side may be at most {_MAX_RATIO} times "
            "the other. Crop it."
        )
    factor = section.patch_size * section.merge_size
    # Python's round, half to even, is part of the rule.
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def video_size(frames: int, height: int, width: int, section: VisionSection) -> tuple[int, int]:
    """The size that the frames of a video of `frames` frames are brought to (source: `fetch_video`, qwen-omni-utils).

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    share = section.video_total_pixels / frames * section.temporal_patch_size
    most = max(min(section.video_max_pixels, share), int(section.video_min_pixels * _VIDEO_HEADROOM))
    return smart_resize(height, width, section, section.video_min_pixels, most)


def sample_frames(total: int, fps: float, section: VisionSection) -> tuple[NDArray[np.int64], float]:
    """Which frames of a video the model sees (source: `smart_nframes` and its callers, qwen-omni-utils).

    Args:
        total: frames of the video, at least 1.
        fps: the video's frames per second.

    Returns:
        int64 [n], ascending, n a multiple of the temporal patch, and the frames per second that this amounts to. A
        video of fewer frames than a temporal patch, which the source refuses, shows its last frame again.
    """
    factor = section.temporal_patch_size
    if total < factor:
        indices = np.minimum(np.arange(factor), total - 1)
        return indices, factor / total * fps
    least = math.ceil(section.video_min_frames / factor) * factor
    most = math.floor(min(section.video_max_frames, total) / factor) * factor
    count = math.floor(min(max(total / fps * section.video_fps, least), most) / factor) * factor
    indices = np.rint(np.linspace(0, total - 1, count)).astype(np.int64)
    return indices, count / total * fps


def sample_moments(
    times: NDArray[np.float64], fps: float | None, section: VisionSection
) -> tuple[NDArray[np.int64], float]:
    """Which frames of a video the model sees, by their time stamps.

    A constant frame rate gives what `sample_frames` gives. Where the rate varies, the source takes frames by their
    number, and a fast passage fills the whole selection; here every moment shows the frame that is visible then.

    Args:
        times: float64 [n], n at least 1, ascending: the time of each frame in seconds.
        fps: frames per second by the container, or None where it states none.
        section: the manifest's.

    Returns:
        int64 [m], ascending, and the frames per second that this amounts to; a frame may appear several times.

    Raises:
        MediaError: neither time stamps nor `fps` give the frames a duration.
    """
    total = len(times)
    since = times - times[0]
    if total > 1 and since[-1] > 0.0:
        mean = (total - 1) / float(since[-1])
        # Rounded time stamps move the mean a little, and a little less than 25 would give a picture less.
        for rate in (fps, round(mean, 2), mean):
            if rate and np.abs(since - np.arange(total) / rate).max() <= _JITTER_FRAMES / rate:
                return sample_frames(total, rate, section)
    else:
        if not fps:
            raise MediaError(
                "The video states neither times nor a rate for its frames. Convert it, for example to MP4."
            )
        return sample_frames(total, fps, section)
    # Nothing states how long the last frame is visible.
    length = float(since[-1] + min(since[-1] - since[-2], _LONGEST_LAST_FRAME_SECONDS))
    factor = section.temporal_patch_size
    least = math.ceil(section.video_min_frames / factor) * factor
    most = math.floor(section.video_max_frames / factor) * factor
    count = math.floor(min(max(length * section.video_fps, least), most) / factor) * factor
    moments = np.arange(count) * (length / count)
    return np.searchsorted(since, moments + _ROUNDING_SECONDS, side="right") - 1, count / length


def _checked(pixels: NDArray[Any], sides: tuple[str, ...]) -> NDArray[np.uint8]:
    """The array, once it is sure to be uint8 [*sides, 3] and not empty."""
    array = np.asarray(pixels)
    wanted = f"uint8 [{', '.join(sides)}, 3], RGB"
    if array.dtype != np.uint8 or array.ndim != len(sides) + 1 or array.shape[-1] != _RGB:
        raise MediaError(f"Pixels must be {wanted}, not {array.dtype} {list(array.shape)}. Convert them first.")
    if not array.size:
        raise MediaError(f"The picture is empty: pixels must be {wanted}, each side at least 1.")
    return array
