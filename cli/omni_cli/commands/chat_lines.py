"""Lines of a chat: turns, commands, and the file names in them."""

from __future__ import annotations

import mimetypes
import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omni_cli.media import KINDS
from omni_edge.errors import UsageError

# A path or a sentence may begin with a slash as well; a command is one word of letters.
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?\s*", re.DOTALL)


def split_command(line: str) -> tuple[str, str] | None:
    """The name and the argument of a command, or None where the line is text or a file's path."""
    found = _COMMAND.fullmatch(line)
    if found is None or _existing(line.strip()):
        return None
    return f"/{found[1]}", (found[2] or "").strip()


def dropped_file(line: str) -> tuple[str, Path] | None:
    """(kind, path) where the whole line is the path of a media file, as terminals write a file that is dropped."""
    if not line.strip() or not line.lstrip().startswith(("/", "'", '"', "file:", "\\")):
        return None
    try:
        path = file_argument(line.strip())
    except UsageError:
        return None
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return (kind, path) if kind in KINDS and path.is_file() else None


def file_argument(text: str) -> Path:
    """The path that a user wrote: plain, quoted, with escaped spaces, as a file: address, or with a leading ~.

    Raises:
        UsageError: no system has a file of such a name.
    """
    if "\0" in text:
        raise UsageError("A file name cannot contain a null character. Write the name again.")
    if plain := _existing(text):
        return plain
    if text.startswith("file:"):
        return Path(unquote(urlsplit(text).path))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif os.name != "nt":
        try:
            words = shlex.split(text)
        except ValueError:
            words = []
        # More than one word: spaces that nobody has escaped, so the text is the name as it stands.
        text = words[0] if len(words) == 1 else text
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{text} needs a home folder, which this user does not have. Write the whole path.") from None


def _existing(text: str) -> Path | None:
    try:
        path = Path(text)
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None
