"""A tensor of a file in the dtype in which it is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read as it is, whenever it is needed.

    Attributes:
        name: in the file.
        dtype: as safetensors spells it, such as F16 or I32.
        shape: known without reading.
        load: the whole tensor; bfloat16 as float32.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]]
