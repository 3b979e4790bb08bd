"""What calibration has finished, on the disk: the quantized matrices of each layer and the next layer's inputs.

Files are NumPy archives, whose checksums tell a damaged one. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_export.calibration.sequences import Sequences
from omni_export.checkpoint.lazy_tensor import Array
from omni_quant.blockwise import BlockwiseWeight

_INPUTS = "inputs.npz"
_DAMAGED = (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError)


class Results:
    """The folder of an unfinished calibration.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    # -- the inputs --------------------------------------------------------------------------------------------

    def sequences(self) -> Sequences | None:
        """The sequences of an earlier run; None where there are none."""
        found = self._read(_INPUTS)
        if found is None:
            return None
        try:
            return Sequences(found["embeds"], found["positions"], tuple(found["lengths"].tolist()))
        except KeyError:
            return None

    def keep_sequences(self, sequences: Sequences) -> None:
        """Begins a calibration of these sequences; what there is of another one is removed."""
        for path in self._folder.iterdir():
            path.unlink()
        self._write(
            _INPUTS,
            {
                "embeds": sequences.embeds,
                "positions": sequences.positions,
                "lengths": np.asarray(sequences.lengths, np.int64),
            },
        )

    # -- layers ------------------------------------------------------------------------------------------------

    def finished(self) -> tuple[int, Array | None]:
        """The number of finished layers, and what goes into the next: float32 [tokens, hidden]; None for none."""
        stored = sorted((int(path.stem.split("-")[1]) for path in self._folder.glob("hidden-*.npz")), reverse=True)
        for count in stored:
            hidden = self._read(f"hidden-{count}.npz")
            if hidden is not None and "hidden" in hidden and all(map(self._intact, range(count))):
                return count, hidden["hidden"]
        return 0, None

    def _intact(self, layer: int) -> bool:
        try:
            with zipfile.ZipFile(self._folder / _layer_name(layer)) as archive:
                return archive.testzip() is None
        except _DAMAGED:
            return False

    def keep_layer(self, layer: int, matrices: Mapping[str, BlockwiseWeight], hidden: Array | None) -> None:
        """Keeps a finished layer.

        Args:
            layer: its index; the head's is the number of layers.
            matrices: name -> quantized matrix.
            hidden: float32 [tokens, hidden], inputs of the next layer; None behind the last.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, matrix in matrices.items():
            arrays |= {f"{name}:packed": matrix.packed, f"{name}:scales": matrix.scales}
            arrays[f"{name}:sizes"] = np.array([matrix.columns, matrix.bits, matrix.block_size])
            if matrix.zero_points is not None:
                arrays[f"{name}:zero_points"] = matrix.zero_points
        self._write(_layer_name(layer), arrays)
        if hidden is not None:
            self._write(f"hidden-{layer + 1}.npz", {"hidden": hidden})
            (self._folder / f"hidden-{layer}.npz").unlink(missing_ok=True)

    def matrix(self, layer: int, name: str) -> BlockwiseWeight:
        """A matrix of a finished layer."""
        with np.load(self._folder / _layer_name(layer), allow_pickle=False) as stored:
            columns, bits, block_size = stored[f"{name}:sizes"].tolist()
            zeros = f"{name}:zero_points"
            return BlockwiseWeight(
                stored[f"{name}:packed"],
                stored[f"{name}:scales"],
                columns,
                bits,
                block_size,
                stored.get(zeros),
            )

    def names(self, layer: int) -> list[str]:
        """Names of the matrices of a finished layer."""
        with zipfile.ZipFile(self._folder / _layer_name(layer)) as archive:
            return [name.removesuffix(":packed.npy") for name in archive.namelist() if name.endswith(":packed.npy")]

    def _read(self, name: str) -> dict[str, NDArray[Any]] | None:
        try:
            with np.load(self._folder / name, allow_pickle=False) as stored:
                return dict(stored)
        except _DAMAGED:
            return None

    def _write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        draft = self._folder / f"{name}.draft"
        with draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes keyword `allow_pickle` for one of them
        draft.replace(self._folder / name)


def _layer_name(layer: int) -> str:
    return f"layer-{layer}.npz"
