"""The file of a conversation that was put away. docs/bundle.md describes the format for readers in other languages.

A prefix, a JSON header, the used parts of the caches, and a SHA-256 over all of it. The file appears under its name
only when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import parse
from omni_edge.conversation.settings import SessionSettings
from omni_edge.errors import BundleError, ConversationError, ResourceError, UsageError

MAGIC = b"OMNICONV"
FORMAT_VERSION = 1
# Magic, format version, bytes of the header, bytes of the whole file.
_PREFIX = struct.Struct("<8sIIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size
_PARTIAL_SUFFIX = ".partial"
_READ_BYTES = 4 << 20
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_DTYPES = ("<f4", "<i8", "|i1")


@dataclass(frozen=True)
class ArrayEntry:
    """An array of the file; dtype as numpy spells it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Everything in the file that is no array.

    Attributes:
        bundle: SHA-256 (hex) of the bundle's `bundle.json`.
        settings: those of the conversation, defaults filled in.
        reply_starts: offset of the first token of each reply.
        reply_stops: offset behind the last token of each reply that another turn follows.
        turn_open: whether the user's turn has begun.
        text: pushed text that is not tokenized yet.
        next_id, highest_id: the TMRoPE ids behind all other positions, see `Positions`.
        replies_evicted: replies that left the context; the next reply's random streams are named by all before it.
    """

    bundle: str
    settings: SessionSettings
    reply_starts: tuple[int, ...]
    reply_stops: tuple[int, ...]
    turn_open: bool
    text: str
    next_id: int
    highest_id: int
    replies_evicted: int = 0


@dataclass(frozen=True)
class _FileHeader:
    conversation: Header
    arrays: tuple[ArrayEntry, ...]


def write(path: Path, header: Header, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes a conversation: the whole file, or none.

    Raises:
        ResourceError: the disk is full.
        UsageError: the file cannot be written.
    """
    entries = tuple(ArrayEntry(name, _dtype(array), array.shape) for name, array in arrays.items())
    text = json.dumps(asdict(_FileHeader(header, entries))).encode()
    total = _PREFIX.size + len(text) + sum(array.nbytes for array in arrays.values()) + _DIGEST_BYTES
    prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(text), total)
    pieces = chain([prefix, text], (np.ascontiguousarray(item, _dtype(item)).tobytes() for item in arrays.values()))
    partial = path.with_name(path.name + _PARTIAL_SUFFIX)
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        _remove(partial)
        if error.errno in _DISK_FULL:
            raise ResourceError(
                f"The disk is full: the conversation needs {total / 1e6:.0f} MB in {path.parent}. Free some space, or "
                "save elsewhere."
            ) from error
        raise UsageError(f"{path} cannot be written ({error.strerror}). Choose another name.") from error
    except BaseException:
        _remove(partial)
        raise


def _dtype(array: NDArray[Any]) -> str:
    return array.dtype.newbyteorder("<").str


def _remove(partial: Path) -> None:
    # The error that led here says more than one that a partial file stays.
    with suppress(OSError):
        partial.unlink(missing_ok=True)


class SavedFile:
    """A conversation in a file, checked and ready to be read.

    Args:
        path: the file.
        bundle: SHA-256 (hex) of the `bundle.json` that it has to belong to.

    Raises:
        ConversationError: the file is missing, no conversation, damaged, of another format version or another bundle.
    """

    def __init__(self, path: Path, bundle: str) -> None:
        self._path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                prefix = file.read(_PREFIX.size)
                header_bytes = self._check_prefix(prefix, size)
                self._check_digest(prefix, size)
                raw = file.read(header_bytes)
        except OSError as error:
            raise ConversationError(f"{path} cannot be read ({error.strerror}). Check the name.") from None
        parsed = self._parse(raw)
        self.header = parsed.conversation
        if self.header.bundle != bundle:
            raise ConversationError(
                f"The conversation {path} was held with another bundle. Load the bundle that it was saved with."
            )
        self._places = self._layout(parsed.arrays, _PREFIX.size + header_bytes, size - _DIGEST_BYTES)

    def _check_prefix(self, prefix: bytes, size: int) -> int:
        """The header's length."""
        if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
            raise ConversationError(f"{self._path} is not a saved conversation. Name a file that omni-edge saved.")
        _, version, header_bytes, total = _PREFIX.unpack(prefix)
        if version != FORMAT_VERSION:
            raise ConversationError(
                f"The conversation {self._path} has format version {version}; this version reads {FORMAT_VERSION}. "
                "Open it with the version that saved it."
            )
        if size != total or header_bytes > size - _PREFIX.size - _DIGEST_BYTES:
            raise ConversationError(
                f"The conversation {self._path} has {size} bytes instead of {total}. Copy it again, completely."
            )
        return int(header_bytes)

    def _check_digest(self, prefix: bytes, size: int) -> None:
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            left = size - _DIGEST_BYTES
            while left and (piece := file.read(min(left, _READ_BYTES))):
                digest.update(piece)
                left -= len(piece)
            if digest.digest() != file.read():
                raise ConversationError(
                    f"The conversation {self._path} is damaged: its SHA-256 differs. Copy it again, or start a new one."
                )

    def _parse(self, raw: bytes) -> _FileHeader:
        try:
            return parse(_FileHeader, json.loads(raw), "header")
        except (ValueError, BundleError, UsageError) as error:
            reason = str(error).removeprefix("bundle.json: ")
            raise self.unusable(f"its header is not valid ({reason})") from None

    def _layout(self, entries: tuple[ArrayEntry, ...], start: int, stop: int) -> dict[str, tuple[ArrayEntry, int]]:
        """Array name -> entry and place in the file."""
        places: dict[str, tuple[ArrayEntry, int]] = {}
        for entry in entries:
            if entry.dtype not in _DTYPES or min(entry.shape, default=0) < 0:
                raise self.unusable(f"the array {entry.name} has dtype {entry.dtype} and shape {list(entry.shape)}")
            places[entry.name] = entry, start
            start += prod(entry.shape) * np.dtype(entry.dtype).itemsize
        if start != stop or len(places) != len(entries):
            raise self.unusable("its arrays do not fill it")
        return places

    def unusable(self, reason: str) -> ConversationError:
        """The error of a file that is whole but cannot be continued."""
        return ConversationError(f"The conversation {self._path} cannot be used: {reason}. Start a new one.")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def count(self, name: str, axis: int = 0) -> int:
        """Length of an array along an axis."""
        if name not in self._places or len(self._places[name][0].shape) <= axis:
            raise self.unusable(f"it lacks the array {name}")
        return self._places[name][0].shape[axis]

    def read(self, name: str, target: NDArray[Any]) -> None:
        """Reads an array into `target`, whose shape and dtype it must have.

        Raises:
            ConversationError: it has another one, or values that are no numbers.
        """
        if name not in self._places:
            raise self.unusable(f"it lacks the array {name}")
        entry, start = self._places[name]
        if entry.shape != target.shape or entry.dtype != _dtype(target):
            raise self.unusable(
                f"the array {name} is {entry.dtype} {list(entry.shape)}, not {_dtype(target)} {list(target.shape)}"
            )
        values = np.fromfile(self._path, entry.dtype, prod(entry.shape), offset=start).reshape(entry.shape)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise self.unusable(f"the array {name} holds values that are no numbers")
        target[...] = values

    def integers(self, name: str, shape: tuple[int, ...], low: int, high: int) -> NDArray[np.int64]:
        """An int64 array of a shape, with values from `low` to below `high`.

        Raises:
            ConversationError: it has another shape, or other values.
        """
        values = np.zeros(shape, np.int64)
        self.read(name, values)
        if values.size and not low <= int(values.min()) <= int(values.max()) < high:
            raise self.unusable(f"the array {name} holds values outside of {low} to {high - 1}")
        return values


def named(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays with `prefix` before their names."""
    return ((f"{prefix}.{name}", array) for name, array in arrays.items())
