"""Media files as session input: sound and video through PyAV (FFmpeg), pictures through OpenCV, both optional.

Sound keeps the rate it is stored at: the front end converts it, so that a file and a microphone take the same path.
(The reference resamples files with librosa; the two differ by what two good low-pass filters differ by near 8 kHz.)
Decoding is bounded: sound stops at a longest duration, video frames are reduced to the model's size one by one, and
pictures are refused by the size in their header.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.bundle.manifest import VisionSection
from omni_edge.errors import MediaError
from omni_edge.events import AudioClip, ImageFrame, VideoClip
from omni_edge.media.container import COMPLETE_PART
from omni_edge.media.picture import decode_picture
from omni_edge.media.sound_track import decode_sound
from omni_edge.media.source import open_source
from omni_edge.media.video_track import decode_frames, survey
from omni_edge.media.wav import check_complete, read_layout, read_wave

# Half an hour is more than any context of this family of models holds. The session has its own, smaller limit; this
# one keeps a wrong file (a day of radio) from filling the memory first.
LONGEST_SOUND_SECONDS = 1800.0
_WITHOUT_SOUND = ", or leave the sound out with --no-audio-in-video (sound=False)"


def load_audio(origin: Path | str | IO[bytes], *, longest: float = LONGEST_SOUND_SECONDS) -> AudioClip:
    """A sound file (wav, flac, mp3, ogg, m4a, a video's sound track, ...) as mono samples at its own rate.

    Channels are averaged. A gap in the time stamps becomes silence. Of several tracks the default one counts. A rate
    that changes within the file is converted to the first. Without PyAV, PCM WAV files still load.

    Args:
        origin: a file, or a binary stream such as `sys.stdin.buffer`; pipes are copied to the disk first.
        longest: seconds; a longer sound is refused while it is being decoded.

    Raises:
        MediaError: no such file, not readable, empty, damaged or cut off, no sound in it, longer than `longest`, or
            PyAV is needed and not installed.
    """
    with open_source(origin) as source:
        check_complete(source, COMPLETE_PART)
        if read_layout(source.file) or not _has_pyav():
            samples, rate = read_wave(source.file, longest, source.name)
        else:
            track = decode_sound(source, longest)
            if track is None:
                raise MediaError(f"{source.name} holds no sound. Name another file.")
            if not track.samples.size:
                raise MediaError(f"{source.name} has a sound track without a single sample. Record it again.")
            samples, rate = track.samples, track.rate
    return AudioClip(validate_pcm(samples), validate_rate(rate))


def _has_pyav() -> bool:
    try:
        import av  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def load_image(origin: Path | str | IO[bytes]) -> ImageFrame:
    """A picture file (jpeg, png, webp, tiff, bmp, gif, ...) as RGB.

    The orientation in the metadata is applied, 16-bit and grey pictures become 8-bit RGB, transparency is laid over
    white (as in qwen-omni-utils, and with the same rounding). An animation shows its first frame.

    Args:
        origin: a file, or a binary stream.

    Raises:
        MediaError: no such file, not readable, empty, damaged or cut off, no picture, too large, or OpenCV is not
            installed.
    """
    with open_source(origin) as source:
        return ImageFrame(decode_picture(source))


def load_video(
    origin: Path | str | IO[bytes],
    section: VisionSection,
    *,
    sound: bool = True,
    longest: float = LONGEST_SOUND_SECONDS,
) -> VideoClip:
    """A video file (mp4, mov, webm, mkv, gif, ...): the frames that the model sees, and the sound track.

    The frames are chosen by `image_processor.sample_moments` and already have the size of `image_processor.video_size`,
    so that a long film never lies in memory. The sound starts where the first frame does: an earlier start is cut, a
    later one preceded by silence. A sound track that holds no sample counts as none.

    Args:
        origin: a file, or a binary stream; pipes are copied to the disk first.
        section: the manifest's, for the frame rate and the pixel budget.
        sound: load the sound track where there is one.
        longest: seconds of sound; a longer one is refused before a frame is decoded.

    Raises:
        MediaError: no such file, not readable, empty, damaged or cut off, no video in it, its frames too large, its
            sound longer than `longest`, or PyAV is not installed.
    """
    with open_source(origin) as source:
        found = survey(source)
        track = None
        if sound:
            if found.sound_seconds > longest:
                raise MediaError(
                    f"{source.name} has {found.sound_seconds:.0f} s of sound, and {longest:.0f} s is the most. "
                    f"Cut out the part that matters{_WITHOUT_SOUND}."
                )
            track = decode_sound(source, longest, _WITHOUT_SOUND)
        film = decode_frames(source, found, section)
    clip = None
    if track is not None and track.samples.size:
        shift = round((track.start - film.start) * track.rate)
        if shift > longest * track.rate:
            raise MediaError(
                f"The sound of {source.name} starts {track.start - film.start:.0f} s after its pictures: its time "
                f"stamps are wrong. Convert it{_WITHOUT_SOUND}."
            )
        aligned = np.concatenate([np.zeros(max(shift, 0), np.float32), track.samples[max(-shift, 0) :]])
        clip = AudioClip(validate_pcm(aligned), validate_rate(track.rate)) if aligned.size else None
    return VideoClip(film.frames, film.fps, clip)
