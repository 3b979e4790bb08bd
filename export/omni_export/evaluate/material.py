"""What a bundle is evaluated on: text, sounds and pictures, the user's or those that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError
from omni_edge.events import AudioClip, ImageFrame
from omni_edge.media import load_audio

_FOLDER = Path(__file__).parent
_TEXT, _SOUND = "text.txt", "question.wav"
_HEIGHT, _WIDTH = 168, 224
_LEAST = {"text_tokens": 2, "passage_tokens": 2, "reply_tokens": 1, "codec_tokens": 1, "seed": 0}


@dataclass(frozen=True)
class Material:
    """Text, sounds and pictures.

    Attributes:
        text: continuous text that the Thinker predicts token by token; "": none.
        sounds: each is a question; the Thinker and the Talker answer it.
        pictures: each is shown with `question`.
        question: what is asked about a picture.
    """

    text: str = ""
    sounds: tuple[AudioClip, ...] = ()
    pictures: tuple[ImageFrame, ...] = ()
    question: str = "What do you see?"


@dataclass(frozen=True)
class Limits:
    """How much is computed.

    Attributes:
        text_tokens: tokens of the text at most.
        passage_tokens: the text is cut into passages of this many tokens, each a context of its own.
        reply_tokens: text tokens of a reply at most.
        codec_tokens: codec tokens of a reply at most; 50 make a second.
        seed: of the codec tokens and of the DiT's noise.

    Raises:
        UsageError: a number is too small.
    """

    text_tokens: int = 1024
    passage_tokens: int = 1024
    reply_tokens: int = 24
    codec_tokens: int = 150
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise UsageError(f"{name} is {value}; it must be {least} or more.")


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: it cannot be read, is not UTF-8 or holds nothing but spaces.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}). Name a text file with --text.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text. Convert it, or name another file with --text.") from None
    if not text.strip():
        raise UsageError(f"{path} holds no text. Name another file with --text.")
    return text


def default_text() -> str:
    """Prose, dialogue and lists in several languages, some 1,500 words."""
    return (_FOLDER / _TEXT).read_text("utf-8")


def default_sound() -> AudioClip:
    """A spoken request in English, 1.6 seconds."""
    return load_audio(_FOLDER / _SOUND)


def default_picture() -> ImageFrame:
    """A drawn scene: a blue sky that grows paler, green ground, a yellow sun and a red house."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    pixels: NDArray[np.uint8] = np.empty((_HEIGHT, _WIDTH, 3), np.uint8)
    ground = rows > 0.7 * _HEIGHT
    pixels[..., 0] = 90 + rows // 2
    pixels[..., 1] = 150 + rows // 3
    pixels[..., 2] = 230
    pixels[ground] = (60, 140, 60)
    pixels[(rows - 40) ** 2 + (columns - 180) ** 2 < 24**2] = (250, 220, 60)
    wall = (rows > 80) & (rows < 130) & (columns > 50) & (columns < 120)
    pixels[wall] = (190, 50, 40)
    roof = (rows > 50) & (rows <= 80) & (np.abs(columns - 85) < (rows - 48) * 1.4)
    pixels[roof] = (90, 40, 30)
    pixels[(rows > 100) & (rows < 130) & (np.abs(columns - 85) < 9)] = (70, 50, 30)
    return ImageFrame(pixels)
