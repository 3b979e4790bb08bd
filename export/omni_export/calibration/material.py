"""What a calibration shows to the Thinker: the package's own set, or the files of a folder.

A text file holds documents, separated by lines of three dashes. A document that begins with `user:` is a conversation:
each line that begins with `user:` or `assistant:` opens a turn. Any other document is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

import numpy as np

from omni_edge.errors import MediaError
from omni_edge.events import AudioClip, ImageFrame
from omni_edge.media import load_audio, load_image
from omni_export.calibration import made_media

BUILT_IN, NONE = "built-in", "none"
TEXT_SUFFIXES = (".txt", ".md")
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_TURN = re.compile(r"^(user|assistant):[ \t]*", re.MULTILINE)
_SOUND_SECONDS = 30.0
# Files of a folder that are read: more than a calibration has room for.
_MOST_TEXTS, _MOST_SOUNDS, _MOST_PICTURES = 64, 12, 12
_MOST_TEXT_BYTES = 1 << 17
_LEAST_CHARACTERS = 200
# A longer document is several samples, a longer turn ends here.
_MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class Turn:
    """A part of a sample: `role` "user" or "assistant", or "" for text outside of a conversation."""

    role: str
    items: tuple[str | AudioClip | ImageFrame, ...]


@dataclass(frozen=True)
class Sample:
    """A document or a conversation; at least one turn."""

    turns: tuple[Turn, ...]


def built_in_samples() -> list[Sample]:
    """The package's own set: texts in several languages that were written for it, and media that are made."""
    media = [
        _shown(made_media.drawing(1), "What is in this picture?", "Three houses under a blue sky, with the sun above."),
        _shown(made_media.speech_like(1), "", "I could not make out any words. Could you say that again?"),
        _shown(made_media.chart(2), "Describe the chart.", "It is a bar chart with six bars of different colours."),
        _shown(made_media.music_like(2), "What do you hear?", "A few chords, played slowly, over a quiet hiss."),
        _shown(made_media.texture(3), "这是什么？", "这是一张由深浅两种颜色组成的抽象纹理图。"),
        _shown(made_media.speech_like(3), "Antworte kurz.", "Das habe ich leider nicht verstanden."),
    ]
    folder = files("omni_export.calibration") / "texts"
    texts = [
        documents(path.read_text("utf-8")) for path in sorted(folder.iterdir(), key=str) if path.name.endswith(".txt")
    ]
    return list(_in_turn([media, *texts]))


def folder_files(folder: Path) -> list[Path]:
    """The files of a folder, and of those in it, that calibration can use, by name.

    Raises:
        MediaError: there is no such folder, or it holds no such file.
    """
    suffixes = (*TEXT_SUFFIXES, *SOUND_SUFFIXES, *PICTURE_SUFFIXES)
    if not folder.is_dir():
        raise MediaError(f"--calibration {folder} is no folder. Name a folder with files of {', '.join(suffixes)}.")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and _is(path, suffixes))
    if not found:
        raise _nothing(folder)
    return found


def folder_samples(folder: Path) -> list[Sample]:
    """The samples of a folder's text, sound and picture files, in an order that depends on their names alone.

    Raises:
        MediaError: there is no such folder, it holds nothing to calibrate with, or a file cannot be read.
    """
    found = folder_files(folder)
    mixed = [found[index] for index in np.random.default_rng(0).permutation(len(found))]
    kinds = ((TEXT_SUFFIXES, _MOST_TEXTS), (SOUND_SUFFIXES, _MOST_SOUNDS), (PICTURE_SUFFIXES, _MOST_PICTURES))
    chosen = {path for suffixes, most in kinds for path in [path for path in mixed if _is(path, suffixes)][:most]}
    samples = list(_in_turn([_file_samples(path) for path in mixed if path in chosen]))
    if not samples:
        raise _nothing(folder)
    items = [item for sample in samples for turn in sample.turns for item in turn.items]
    characters = sum(len(item) for item in items if isinstance(item, str))
    if characters < _LEAST_CHARACTERS and all(isinstance(item, str) for item in items):
        raise MediaError(
            f"--calibration {folder} holds too little: {characters} characters of text. Put {_LEAST_CHARACTERS} or "
            "more there; a few pages are better."
        )
    return samples


def _nothing(folder: Path) -> MediaError:
    suffixes = ", ".join((*TEXT_SUFFIXES, *SOUND_SUFFIXES, *PICTURE_SUFFIXES))
    return MediaError(f"--calibration {folder} holds nothing to calibrate with. Put files of {suffixes} there.")


def _is(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes


def _file_samples(path: Path) -> list[Sample]:
    if _is(path, SOUND_SUFFIXES):
        clip = load_audio(path)
        return [_shown(AudioClip(clip.samples[: int(_SOUND_SECONDS * clip.rate)], clip.rate))]
    if _is(path, PICTURE_SUFFIXES):
        return [_shown(load_image(path))]
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_TEXT_BYTES)
        # A longer file may be cut within a character.
        text = content.decode("utf-8", "ignore" if len(content) == _MOST_TEXT_BYTES else "strict")
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror}). Remove it from the calibration folder.") from None
    except UnicodeDecodeError:
        raise MediaError(f"{path} is not UTF-8 text. Convert it, or remove it from the calibration folder.") from None
    return documents(text)


def documents(text: str) -> list[Sample]:
    """The documents of a text file, as the module's docstring has it."""
    parts = [part.strip() for part in re.split(r"^---[ \t]*$", text, flags=re.MULTILINE)]
    return [sample for part in parts if part for sample in _document(part)]


def _document(text: str) -> Iterator[Sample]:
    if not _TURN.match(text):
        for start in range(0, len(text), _MOST_CHARACTERS):
            yield Sample((Turn("", (text[start : start + _MOST_CHARACTERS],)),))
        return
    pieces = _TURN.split(text)[1:]
    said = zip(pieces[::2], pieces[1::2], strict=True)
    yield Sample(tuple(Turn(role, (words.strip()[:_MOST_CHARACTERS],)) for role, words in said))


def _shown(item: AudioClip | ImageFrame, question: str = "", answer: str = "") -> Sample:
    """A user's turn with a sound or a picture, and what was answered."""
    user = Turn("user", (item, question) if question else (item,))
    return Sample((user, Turn("assistant", (answer,))) if answer else (user,))


def _in_turn(lists: Iterable[list[Sample]]) -> Iterator[Sample]:
    """The first of each list, then the second of each: what is cut off at the end comes from all of them."""
    for row in zip_longest(*lists):
        yield from (sample for sample in row if sample is not None)
