"""What goes into a session and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "context_full", "cancelled"]


@dataclass(frozen=True)
class PcmBlock:
    """A piece of a live sound.

    Attributes:
        samples: float32 [n] in [-1, 1], mono, or int16 [n].
        rate: samples per second; any rate, resampled as it comes.
        end: True with the last piece: the sound is complete.
    """

    samples: NDArray[np.float32] | NDArray[np.int16]
    rate: int
    end: bool = False


@dataclass(frozen=True)
class AudioClip:
    """A sound that is known whole: equal to the reference, which normalises a clip by its loudest mel value.

    Attributes:
        samples: float32 [n] in [-1, 1], mono, or int16 [n].
        rate: samples per second.
    """

    samples: NDArray[np.float32] | NDArray[np.int16]
    rate: int


@dataclass(frozen=True)
class ImageFrame:
    """A picture: uint8 [height, width, 3], RGB."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class VideoClip:
    """A video: its sampled frames and, where it has one, its sound.

    Attributes:
        frames: uint8 [n, height, width, 3], RGB, evenly spaced in time; n is even.
        fps: frames per second of `frames` (after sampling).
        sound: the sound that goes with it, interleaved with the frames by time; None for a silent video.
    """

    frames: NDArray[np.uint8]
    fps: float
    sound: AudioClip | None = None


@dataclass(frozen=True)
class CameraFrame:
    """A frame of a live video whose sound is the live sound: visible from the end of the sound so far on.

    Attributes:
        pixels: uint8 [height, width, 3], RGB.
    """

    pixels: NDArray[np.uint8]


Media = PcmBlock | AudioClip | ImageFrame | VideoClip | CameraFrame


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the reply's text."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class AudioChunk:
    """The next piece of the reply's speech, to be played right after the one before.

    Attributes:
        samples: float32 [n] in [-1, 1], mono.
        rate: samples per second.
        start: index of the first sample in the reply.
    """

    samples: NDArray[np.float32]
    rate: int
    start: int


@dataclass(frozen=True)
class Metrics:
    """Where the time of one reply went; seconds unless said otherwise. RTF = compute seconds / audio seconds.

    Attributes:
        ttft: end of the input -> first text token.
        ttfa: end of the input -> first playable sample; None without speech.
        prefill: computing the prompt's remaining positions in the Thinker.
        decode: the Thinker's steps.
        talker: the Talker's prefill and steps.
        dit: mel frames from codec tokens.
        bigvgan: samples from mel frames.
        total: wall time of the reply.
        audio: length of the speech.
        decode_rate: text tokens per second of decode time.
        codec_rate: codec tokens per second of Talker time.
        rtf: compute seconds of the whole reply / audio seconds; None without speech.
    """

    ttft: float = 0.0
    ttfa: float | None = None
    prefill: float = 0.0
    decode: float = 0.0
    talker: float = 0.0
    dit: float = 0.0
    bigvgan: float = 0.0
    total: float = 0.0
    audio: float = 0.0
    decode_rate: float | None = None
    codec_rate: float | None = None
    rtf: float | None = None


@dataclass(frozen=True)
class TurnDone:
    """The reply is complete.

    Attributes:
        text: all of it.
        token_ids: the generated text tokens, the closing one included where there was one.
        codec_tokens: the spoken codec tokens, stop tokens excluded.
        prompt_tokens: positions of the context that preceded the reply.
        finish_reason: 'stop' (the model closed the turn), 'length' (--max-new-tokens), 'context_full', 'cancelled'.
    """

    text: str
    token_ids: tuple[int, ...]
    codec_tokens: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    metrics: Metrics = field(default_factory=Metrics)


Event = TextDelta | AudioChunk | TurnDone
