"""Media files as session input: sound and video through PyAV (FFmpeg), pictures through OpenCV, both optional.

Sound keeps the rate it is stored at: the ear converts it, so that a file and a microphone take the same path. (The
reference resamples files with librosa; the two differ by what two good low-pass filters differ by near 8 kHz.)
Decoding is bounded: sound stops at a longest duration, video frames are reduced to the model's size one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.bundle.manifest import VisionSection
from omni_edge.errors import MediaError
from omni_edge.events import AudioClip, ImageFrame, VideoClip
from omni_edge.media.wav import check_complete, read_wave
from omni_edge.vision.image_processor import sample_frames, video_size
from omni_edge.vision.resize import resize

# Half an hour is more than any context of this family of models holds. The session knows its own, smaller limit; this
# one keeps a wrong file (a day of radio) from filling the memory before the session sees it.
LONGEST_SOUND_SECONDS = 1800.0
# A stream that ends before this part of what its container declares was cut off.
_COMPLETE_PART = 0.9
# Containers that declare no length: FFmpeg guesses one from the first bit rates it sees.
_GUESSED_LENGTH = frozenset({"mp3", "aac"})
# FFmpeg reads any text as a terminal recording.
_NO_MEDIA = frozenset({"tty"})
_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG"
_JPEG_MARK, _JPEG_SCAN, _JPEG_END = 0xFF, 0xDA, b"\xff\xd9"


def load_audio(path: Path | str, *, longest: float = LONGEST_SOUND_SECONDS) -> AudioClip:
    """A sound file (wav, flac, mp3, ogg, m4a, a video's sound track, ...) as mono samples at its own rate.

    Channels are averaged. Without PyAV, PCM WAV files still load.

    Args:
        path: the file.
        longest: seconds; a longer sound is refused while it is being decoded.

    Raises:
        MediaError: no such file, empty, damaged or cut off, no sound in it, longer than `longest`, or PyAV is needed
            and not installed.
    """
    file = _existing(path)
    check_complete(file, _COMPLETE_PART)
    try:
        import av  # noqa: F401, PLC0415
    except ImportError:
        samples, rate = read_wave(file, longest)
    else:
        with _container(file) as container:
            samples, rate, _ = _decode_sound(container, file, longest)
    return AudioClip(validate_pcm(samples), validate_rate(rate))


def load_image(path: Path | str) -> ImageFrame:
    """A picture file (jpeg, png, webp, tiff, bmp, ...) as RGB.

    JPEG orientation is applied, 16-bit and grey pictures become 8-bit RGB, transparency is laid over white (as in
    qwen-omni-utils, and with the same rounding).

    Raises:
        MediaError: no such file, empty, damaged or cut off, no picture, or OpenCV is not installed.
    """
    file = _existing(path)
    try:
        import cv2  # noqa: PLC0415
    except ImportError:
        raise MediaError(f"Reading {file.name} needs OpenCV. Install it: pip install 'omni-edge[media]'") from None
    data = file.read_bytes()
    if not _picture_complete(data):
        raise MediaError(f"{file} is cut off: the picture has no end. Copy it again.")
    encoded = np.frombuffer(data, np.uint8)
    try:
        # Only a decode that leaves the file as it is shows transparency. JPEG has none, and large pictures are JPEG.
        raw = None if data.startswith(_JPEG_START) else cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if raw is not None and raw.ndim == 3 and raw.shape[2] == 4 and raw.dtype in (np.uint8, np.uint16):
            return ImageFrame(_over_white(raw))
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise MediaError(f"{file} cannot be decoded as a picture ({str(error).strip()[:120]}).") from None
    if pixels is None:
        raise MediaError(f"{file} is no picture that OpenCV can read. Convert it to JPEG or PNG.")
    return ImageFrame(np.ascontiguousarray(pixels[..., ::-1]))


def load_video(
    path: Path | str, section: VisionSection, *, sound: bool = True, longest: float = LONGEST_SOUND_SECONDS
) -> VideoClip:
    """A video file (mp4, mov, webm, mkv, gif, ...): the frames that the model sees, and the sound track.

    The frames are chosen by `picture.sample_frames` and already have the size of `picture.video_size`, so that a long
    film never lies in memory. The sound starts where the first frame does: an earlier start is cut, a later one
    preceded by silence.

    Args:
        path: the file.
        section: the manifest's, for the frame rate and the pixel budget.
        sound: load the sound track where there is one.
        longest: seconds of sound; see `load_audio`.

    Raises:
        MediaError: no such file, empty, damaged or cut off, no video in it, its sound longer than `longest`, or PyAV
            is not installed.
    """
    file = _existing(path)
    with _container(file) as container:
        total, fps = _survey(container, file)
    indices, sampled_fps = sample_frames(total, fps, section)
    frames, decoded, start = _decode_frames(file, indices, section)
    if decoded != total:
        # Packets and frames differ where the file hides some (edit lists, damaged packets): count what can be seen.
        indices, sampled_fps = sample_frames(decoded, fps, section)
        frames, _, start = _decode_frames(file, indices, section)
    clip = None
    if sound:
        with _container(file) as container:
            if container.streams.audio:
                samples, rate, sound_start = _decode_sound(container, file, longest)
                shift = round((sound_start - start) * rate)
                aligned = np.concatenate([np.zeros(max(shift, 0), np.float32), samples[max(-shift, 0) :]])
                clip = AudioClip(validate_pcm(aligned), validate_rate(rate)) if aligned.size else None
    return VideoClip(frames, sampled_fps, clip)


def _existing(path: Path | str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise MediaError(f"There is no file {file}. Check the path.")
    if not file.stat().st_size:
        raise MediaError(f"{file} is empty (0 bytes). Copy or record it again.")
    return file


@contextmanager
def _container(file: Path) -> Iterator[Any]:
    """The opened file; what FFmpeg raises meanwhile becomes a MediaError."""
    try:
        import av  # noqa: PLC0415
    except ImportError:
        raise MediaError(f"Reading {file.name} needs PyAV. Install it: pip install 'omni-edge[media]'") from None
    try:
        with av.open(str(file), metadata_errors="ignore") as container:
            if container.format.name in _NO_MEDIA:
                raise MediaError(f"{file} is text, not a sound or video.")
            yield container
    except (av.FFmpegError, ValueError) as error:  # ValueError: the format changes within a stream
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{file} cannot be decoded ({reason}): it is no sound or video, or it is damaged or cut "
            "off. Copy it again, or convert it."
        ) from None


def _decode_sound(container: Any, file: Path, longest: float) -> tuple[NDArray[np.float32], int, float]:
    """Mono samples, their rate and the time of the first in seconds."""
    import av  # noqa: PLC0415

    if not container.streams.audio:
        raise MediaError(f"{file} holds no sound.")
    stream = _decodable(container.streams.audio[0], file)
    planar = av.AudioResampler(format="fltp")
    parts: list[NDArray[np.float32]] = []
    start: float | None = None
    rate = count = 0
    for frame in container.decode(stream):
        if start is None:
            start, rate = frame.time or 0.0, frame.sample_rate
        for piece in planar.resample(frame):
            parts.append(piece.to_ndarray().mean(axis=0, dtype=np.float32))
            count += parts[-1].size
        if count > longest * rate:
            raise MediaError(f"{file} holds more than {longest:.0f} s of sound. Cut out the part that matters.")
    if not count:
        raise MediaError(f"{file} has a sound track without a single sample.")
    _check_length(container, stream, file, count / rate)
    return np.concatenate(parts), rate, start or 0.0


def _survey(container: Any, file: Path) -> tuple[int, float]:
    """Number of frames (counted, not decoded) and frames per second of the file's first real video stream."""
    stream = _video_stream(container, file)
    total = sum(1 for packet in container.demux(stream) if packet.size)
    rate = stream.average_rate or stream.guessed_rate
    if not total or not rate:
        raise MediaError(f"{file} has a video track without a single frame, or without a frame rate.")
    _check_length(container, stream, file, total / float(rate))
    return total, float(rate)


def _decode_frames(
    file: Path, indices: NDArray[np.int64], section: VisionSection
) -> tuple[NDArray[np.uint8], int, float]:
    """The frames at `indices` in the model's size, how many frames there are, and the time of the first in seconds."""
    frames: NDArray[np.uint8] | None = None
    start, count = 0.0, 0
    with _container(file) as container:
        stream = _video_stream(container, file)
        stream.thread_type = "AUTO"
        for count, frame in enumerate(container.decode(stream), 1):
            wanted = np.flatnonzero(indices == count - 1)
            if count == 1:
                start = frame.time or 0.0
            if not wanted.size:
                continue
            # The display matrix of a telephone held upright.
            picture = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            if frames is None:
                size = video_size(len(indices), picture.shape[0], picture.shape[1], section)
                frames = np.empty((len(indices), *size, picture.shape[2]), np.uint8)
            frames[wanted] = resize(picture, *frames.shape[1:3])
    if frames is None:
        raise MediaError(f"{file} has a video track, but no frame of it can be decoded. Copy it again, or convert it.")
    return frames, count, start


def _video_stream(container: Any, file: Path) -> Any:
    """The first stream that moves: a music file's cover picture is a video stream too."""
    import av  # noqa: PLC0415

    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise MediaError(f"{file} holds no video.")
    return _decodable(streams[0], file)


def _decodable(stream: Any, file: Path) -> Any:
    if stream.codec_context is None:
        raise MediaError(
            f"{file} uses a codec that this build of FFmpeg lacks. Convert it, for example to FLAC or MP4."
        )
    return stream


def _check_length(container: Any, stream: Any, file: Path, seconds: float) -> None:
    """Refuses a stream that is much shorter than its container declares."""
    if stream.duration is None or container.format.name in _GUESSED_LENGTH:
        return
    declared = float(stream.duration * stream.time_base)
    if seconds < _COMPLETE_PART * declared:
        raise MediaError(f"{file} is cut off: it declares {declared:.1f} s and holds {seconds:.1f} s. Copy it again.")


def _picture_complete(data: bytes) -> bool:
    """False for a JPEG or PNG without its end: OpenCV would fill the missing part with grey."""
    if data.startswith(_PNG_START):
        return b"IEND" in data
    if not data.startswith(_JPEG_START):
        return True
    # The end is searched behind the first scan: a thumbnail in the header has an end of its own.
    position = 2
    while position + 4 <= len(data) and data[position] == _JPEG_MARK and data[position + 1] != _JPEG_SCAN:
        filler = data[position + 1] == _JPEG_MARK
        position += 1 if filler else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.find(_JPEG_END, position) >= 0


def _over_white(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """BGRA of 8 or 16 bits over white, as RGB."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    alpha = pixels[..., 3].astype(np.uint16)
    white = 255 * (255 - alpha) + 128
    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    for channel in range(3):
        blended = pixels[..., 2 - channel] * alpha + white
        # Division by 255, rounded, in 16 bits.
        result[..., channel] = (blended + (blended >> 8)) >> 8
    return result
