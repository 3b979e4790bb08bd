"""The frames of a video that the model sees, chosen by time, upright, in the model's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import VisionSection
from omni_edge.errors import MediaError
from omni_edge.media.container import (
    LARGEST_FRAME_PIXELS,
    Decoding,
    by_preference,
    check_length,
    decodable,
    is_broadcast,
    open_container,
)
from omni_edge.media.source import Source
from omni_edge.vision.image_processor import sample_moments, video_size
from omni_edge.vision.resize import resize

_LARGEST_BROADCAST_GAP_SECONDS = 10.0
# A film may start with junk that no decoder takes; twice as many plans as that has never been needed.
_MOST_PLANS = 3


@dataclass(frozen=True)
class VideoTrack:
    """Decoded frames.

    Attributes:
        frames: uint8 [n, H, W, 3], RGB.
        fps: frames per second of `frames`.
        start: time of the file's first frame in seconds.
    """

    frames: NDArray[np.uint8]
    fps: float
    start: float


@dataclass(frozen=True)
class Survey:
    """What a film holds, read without decoding it.

    Attributes:
        times: float64 [n], ascending: the time of each frame in seconds; all 0 where the file has no time stamps.
        fps: frames per second by the container, or None.
        sound_seconds: from the first to the last packet of the sound track; 0 without one.
    """

    times: NDArray[np.float64]
    fps: float | None
    sound_seconds: float


def survey(source: Source) -> Survey:
    """Reads all packets of a film.

    Raises:
        MediaError: no video, frames larger than those of an 8K film, cut off, damaged, or PyAV is not installed.
    """
    with open_container(source) as container:
        stream = _video_stream(container, source)
        sounds = by_preference(list(container.streams.audio))[:1]
        video: list[float | None] = []
        sound: list[float] = []
        for packet in container.demux([stream, *sounds]):
            if packet.size:
                time = _time(packet)
                if packet.stream.index == stream.index:
                    video.append(time)
                elif time is not None:
                    sound.append(time)
        rate = stream.average_rate or stream.guessed_rate
        times = _ascending(video, container)
        if not len(times):
            raise MediaError(f"{source.name} has a video track without a single frame. Copy it again, or convert it.")
        fps = float(rate) if rate else None
        seconds = float(times[-1] - times[0]) or (len(times) / fps if fps else 0.0)
        check_length(container, stream, source, seconds + (seconds / max(len(times) - 1, 1)))
        straight = _ascending(list(sound), container)
        return Survey(times, fps, float(straight[-1] - straight[0]) if len(straight) else 0.0)


def decode_frames(source: Source, found: Survey, section: VisionSection) -> VideoTrack:
    """Decodes a film, keeping the frames that the model sees.

    Raises:
        MediaError: no frame can be decoded, or sides that are too different.
    """
    times = found.times
    for _ in range(_MOST_PLANS):
        indices, fps = sample_moments(times, found.fps, section)
        frames, decoded = _decode(source, indices, section)
        again, fps = sample_moments(decoded, found.fps, section)
        if np.array_equal(again, indices):
            return VideoTrack(frames, fps, float(decoded[0]))
        # Packets and frames differ where the file hides some (edit lists, damaged packets): frames are what counts.
        times = decoded
    raise MediaError(f"{source.name} gives other frames at each decoding: it is damaged. Copy it again, or convert it.")


def _decode(
    source: Source, indices: NDArray[np.int64], section: VisionSection
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The frames at `indices` in the model's size, and the times of all frames in seconds."""
    frames: NDArray[np.uint8] | None = None
    times: list[float | None] = []
    with open_container(source) as container:
        stream = _video_stream(container, source)
        stream.thread_type = "AUTO"
        for index, frame in enumerate(Decoding(container, stream, source)):
            times.append(frame.time)
            wanted = slice(*np.searchsorted(indices, (index, index + 1)))
            if wanted.start == wanted.stop:
                continue
            picture = _upright(frame.to_ndarray(format="rgb24"), frame)
            if frames is None:
                size = video_size(len(indices), picture.shape[0], picture.shape[1], section)
                frames = np.zeros((len(indices), *size, picture.shape[2]), np.uint8)
            frames[wanted] = resize(picture, *frames.shape[1:3])
        if frames is None or not times:
            raise MediaError(
                f"{source.name} has a video track, but no frame of it can be decoded. Copy it again, or convert it."
            )
        return frames, _ascending(times, container)


def _video_stream(container: Any, source: Source) -> Any:
    """The default stream that moves: a music file's cover picture is a video stream too."""
    import av  # noqa: PLC0415

    still = av.stream.Disposition.attached_pic
    streams = by_preference([stream for stream in container.streams.video if not stream.disposition & still])
    if not streams:
        raise MediaError(f"{source.name} holds no video. Name another file, or use --audio for its sound.")
    stream = decodable(streams[0], source)
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > LARGEST_FRAME_PIXELS:
        raise MediaError(
            f"{source.name} has frames of {width} x {height} pixels, and {LARGEST_FRAME_PIXELS / 1e6:.0f} million is "
            "the most. Make it smaller, for example with ffmpeg -vf scale=1280:-2."
        )
    # For frames that grow within the stream.
    stream.codec_context.options = {"max_pixels": str(LARGEST_FRAME_PIXELS)}
    return stream


def _time(packet: Any) -> float | None:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return None if stamp is None or packet.time_base is None else float(stamp * packet.time_base)


def _ascending(times: list[float | None], container: Any) -> NDArray[np.float64]:
    """Times in order, float64 [n]; all 0 where one is missing. A broadcast's jumps become one mean frame."""
    if any(time is None for time in times):
        return np.zeros(len(times))
    stamps = np.array(times, np.float64)
    if is_broadcast(container) and len(stamps) > 1:
        steps = np.diff(stamps)
        jumps = np.abs(steps) > _LARGEST_BROADCAST_GAP_SECONDS
        if jumps.any():
            steps[jumps] = np.median(np.abs(steps[~jumps])) if not jumps.all() else 0.0
            stamps = stamps[0] + np.concatenate([[0.0], np.cumsum(steps)])
    return np.sort(stamps)


def _upright(picture: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """The picture [H, W, 3] turned and mirrored as the display matrix says, to the nearest quarter turn.

    The matrix is nine integers in rows of three. A stored point (x, y) appears at (a x + c y, b x + d y), with a and b
    in the first row and c and d in the second.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    values = np.frombuffer(bytes(matrix)[:36], np.int32)
    if len(values) < 9:
        return picture
    a, b, c, d = (int(value) for value in values[[0, 1, 3, 4]])
    if abs(a) + abs(d) < abs(b) + abs(c):
        picture = picture.transpose(1, 0, 2)
        left, up = c < 0, b < 0
    else:
        left, up = a < 0, d < 0
    return picture[:: -1 if up else 1, :: -1 if left else 1]
