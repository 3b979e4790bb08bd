"""A checkpoint's weights as the formats' own library reads them, for verification.

Nothing here is shared with the exporter's reader: an error there, in the choice of files or in a tensor's bytes, would
otherwise be on both sides of the comparison and stay unseen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from omni_edge.errors import CheckpointError
from omni_export.verify.quantized import dequantize, quantization_config

_THINKER = "thinker."
# A module's name in the published layout, and in the memory of transformers 5.
_RENAMED = (
    ("thinker.model.", "thinker.model.language_model."),
    ("thinker.audio_tower.", "thinker.model.audio_tower."),
    ("thinker.visual.", "thinker.model.visual."),
)


class ReferenceWeights:
    """The tensors of the safetensors files in `folder`, by their names in the published layout.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._files = self._find()
            self._quantization = quantization_config(folder)
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            raise self._unreadable(error) from None

    def _find(self) -> dict[str, Path]:
        whole = self._folder / SAFE_WEIGHTS_NAME
        if whole.is_file():
            with safe_open(whole, "pt") as file:
                return dict.fromkeys(file.keys(), whole)
        index = json.loads((self._folder / SAFE_WEIGHTS_INDEX_NAME).read_text("utf-8"))
        return {name: self._folder / shard for name, shard in index["weight_map"].items()}

    def _unreadable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"The weights in {self._folder} cannot be read ({error}). Download them again.")

    def __contains__(self, name: str) -> bool:
        return self._stored_name(name) is not None or self._quantized_module(name) is not None

    def _stored_name(self, name: str) -> str | None:
        """The name under which a file holds the tensor `name`."""
        return next((stored for stored in _stored_names(name) if stored in self._files), None)

    def _quantized_module(self, name: str) -> str | None:
        """The module in the files whose quantized matrix is `name`."""
        modules = (stored.removesuffix(".weight") for stored in _stored_names(name))
        return next((module for module in modules if f"{module}.qweight" in self._files), None)

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor `name`, float32."""
        return self.rows(name, slice(None))

    def rows(self, name: str, chosen: slice | Sequence[int]) -> torch.Tensor:
        """The rows `chosen` of `name`, float32 [rows, ...]; only they are read, but all of a quantized matrix."""
        stored = self._stored_name(name)
        if stored is None:
            module = self._quantized_module(name)
            if module is None:
                raise CheckpointError(f"The checkpoint {self._folder} has no tensor {name}.")
            return self._dequantized(module)[chosen]
        try:
            with safe_open(self._files[stored], "pt") as file:
                tensor = file.get_slice(stored)
                if isinstance(chosen, slice):
                    return torch.as_tensor(tensor[chosen]).float()
                return torch.cat([tensor[row : row + 1] for row in chosen]).float()
        except (OSError, SafetensorError) as error:
            raise self._unreadable(error) from None

    def _dequantized(self, module: str) -> torch.Tensor:
        def tensor(part: str) -> torch.Tensor | None:
            stored = f"{module}.{part}"
            if stored not in self._files:
                return None
            with safe_open(self._files[stored], "pt") as file:
                return torch.as_tensor(file.get_tensor(stored))

        try:
            return dequantize(self._quantization, tensor)
        except (OSError, SafetensorError, KeyError) as error:
            raise self._unreadable(error) from None


def _stored_names(name: str) -> Iterator[str]:
    """The names under which a file may hold the tensor `name`."""
    names = [name, *(there + name.removeprefix(here) for here, there in _RENAMED if name.startswith(here))]
    for each in names:
        yield each
        if each.startswith(_THINKER):
            yield each.removeprefix(_THINKER)
