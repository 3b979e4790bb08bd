"""Reads `.safetensors` files: 8-byte little-endian header length, JSON header, then the raw tensors.

They are parsed here because numpy has no bfloat16, because a damaged file must give a message rather than a traceback,
and because tensors are read a few rows at a time (pages of a memory map would count as this process's memory).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import refuse_lfs_pointer, unreadable
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.checkpoint.stored_tensor import StoredTensor

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_INTEGERS: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_LENGTH_BYTES = 8
# The limit of the format's own library.
_MAX_HEADER_BYTES = 100_000_000


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class _Entry:
    """A tensor in the header: dtype, shape, and the bytes [begin, end) after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """One `.safetensors` file; only its header is kept in memory.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated, damaged or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                beginning = file.read(_LENGTH_BYTES)
                length = int.from_bytes(beginning, "little")
                refuse_lfs_pointer(path, beginning + file.peek()[:64] if size else b"")
                header = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is missing. Download the checkpoint again, or copy the shard here."
            ) from None
        except OSError as error:
            raise unreadable(path, error) from None
        if size < _LENGTH_BYTES:
            raise self._truncated(f"it has {size} bytes")
        if length > size - _LENGTH_BYTES:
            raise self._truncated(f"its header claims {length} bytes and the file has {size}")
        self._start = _LENGTH_BYTES + length
        self.entries = self._parse(header)
        end = max((entry.end for entry in self.entries.values()), default=0)
        if self._start + end > size:
            raise self._truncated(f"it should have {self._start + end} bytes and has {size}")

    def _truncated(self, detail: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is truncated: {detail}. Download it again.")

    def _parse(self, header: bytes) -> dict[str, _Entry]:
        try:
            raw = json.loads(header)
            json.dumps(raw, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            raise CheckpointError(f"{self.path} is not a safetensors file. Download it again.")
        return {name: self._entry(name, entry) for name, entry in raw.items() if name != "__metadata__"}

    def _entry(self, name: str, raw: Any) -> _Entry:
        try:
            begin, end = raw["data_offsets"]
            entry = _Entry(raw["dtype"], tuple(raw["shape"]), begin, end)
        except (KeyError, TypeError, ValueError):
            raise self._damaged(name, "it must have 'dtype', 'shape' and two 'data_offsets'") from None
        numbers = (*entry.shape, begin, end)
        if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(entry.dtype, str):
            raise self._damaged(name, "shape and offsets must be integers from 0")
        dtype = _DTYPES.get(entry.dtype) or _INTEGERS.get(entry.dtype)
        if dtype is not None and math.prod(entry.shape) * dtype.itemsize != end - begin:
            raise self._damaged(
                name, f"{entry.dtype} values of shape {list(entry.shape)} do not take {end - begin} bytes"
            )
        return entry

    def _damaged(self, name: str, detail: str) -> CheckpointError:
        return CheckpointError(f"{self.path} has a damaged header: {name}: {detail}. Download it again.")

    def tensor(self, name: str) -> LazyTensor:
        """The tensor `name`, converted to float32 when it is loaded.

        Raises:
            CheckpointError: its dtype is no floating-point type that can be read, or it is a single number.
        """
        entry = self.entries[name]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(
                f"{name} in {self.path.name} has dtype {entry.dtype}; readable are {', '.join(_DTYPES)}. "
                "Export the original bf16 checkpoint, not a quantized one."
            )
        if not entry.shape:
            raise self._damaged(name, "it has no dimension")
        row_shape = entry.shape[1:]
        row_values = math.prod(row_shape)

        def read(first: int, last: int) -> NDArray[np.float32]:
            raw = self._values(name, dtype, first * row_values, (last - first) * row_values)
            return np.asarray(raw, np.float32).reshape(last - first, *row_shape)

        return LazyTensor(name, entry.shape, read)

    def stored(self, name: str) -> StoredTensor:
        """The tensor `name` as it is stored.

        Raises:
            CheckpointError: when it is loaded, if its dtype cannot be read.
        """
        entry = self.entries[name]

        def load() -> NDArray[Any]:
            dtype = _DTYPES.get(entry.dtype) or _INTEGERS.get(entry.dtype)
            if dtype is None:
                raise self._damaged(name, f"dtype {entry.dtype} cannot be read")
            return self._values(name, dtype, 0, math.prod(entry.shape)).reshape(entry.shape)

        return StoredTensor(name, entry.dtype, entry.shape, load)

    def _values(self, name: str, dtype: np.dtype[Any], first: int, count: int) -> NDArray[Any]:
        """`count` values of tensor `name` from value `first` on; bfloat16 as float32."""
        entry = self.entries[name]
        try:
            raw = np.fromfile(self.path, dtype, count, offset=self._start + entry.begin + first * dtype.itemsize)
        except OSError as error:
            raise unreadable(self.path, error) from None
        if raw.size != count:
            raise self._truncated(f"{name} ends early")
        return bfloat16_to_float32(raw) if entry.dtype == "BF16" else raw
