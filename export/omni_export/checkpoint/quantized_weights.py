"""The quantized matrices of a checkpoint, by the names of their modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import JsonObject, read_json
from omni_export.checkpoint.quantized_config import Packing, QuantizedConfig, parse_quantized_config
from omni_export.checkpoint.quantized_matrix import (
    G_IDX,
    QWEIGHT,
    QZEROS,
    SCALES,
    QuantizedMatrix,
    count_rounded,
    open_matrix,
)
from omni_export.checkpoint.stored_tensor import StoredTensor
from omni_export.checkpoint.weight_files import Weights

_CONFIG_KEY, _COMPRESSED_KEY = "quantization_config", "compression_config"
# Files of the tools beside config.json, which counts first.
_CONFIG_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json")
_PARTS = (QWEIGHT, QZEROS, SCALES, G_IDX)
_SUPPORTED = re.compile(
    r"(thinker|talker)\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)|thinker\.lm_head"
)


class QuantizedWeights:
    """The matrices that a checkpoint stores quantized.

    Attributes:
        config: what the checkpoint says of them.

    Args:
        folder: the checkpoint's, for messages.
        config: see above.
        weights: all of the checkpoint's tensors.

    Raises:
        CheckpointError: a module is quantized that must not be, or its tensors are incomplete.
    """

    def __init__(self, folder: Path, config: QuantizedConfig, weights: Weights) -> None:
        self.config = config
        self._folder = folder
        self._modules: dict[str, dict[str, StoredTensor]] = {}
        self._stored_names: dict[str, str] = {}
        for name, (file, stored) in weights.items():
            module, _, part = name.rpartition(".")
            if part in _PARTS and f"{module}.{QWEIGHT}" in weights:
                self._modules.setdefault(module, {})[part] = file.stored(stored)
                self._stored_names[module] = stored.rpartition(".")[0]
            elif part in (QZEROS, G_IDX):
                raise CheckpointError(f"{folder} has {name} and no {module}.{QWEIGHT}. Download the checkpoint again.")
        if not self._modules:
            raise CheckpointError(
                f"{folder} states that it is quantized ({config.method}), and has no packed matrix (.{QWEIGHT}). "
                "Download it again, or remove the statement if the weights are bf16."
            )
        for module in self._modules:
            self._check(module, weights)

    def _check(self, module: str, weights: Weights) -> None:
        if not _SUPPORTED.fullmatch(module):
            raise CheckpointError(
                f"{self._folder} has quantized {module}; supported are the matrices of the Thinker's and the Talker's "
                "layers and the Thinker's lm_head. Export the bf16 checkpoint that it was made from."
            )
        if f"{module}.weight" in weights:
            raise CheckpointError(
                f"{self._folder} has {module} twice, quantized and as {module}.weight. Save the checkpoint again."
            )
        if self.config.format(self._stored_names[module], module) is None:
            raise CheckpointError(
                f"{self._folder} has quantized {module}, and its quantization config says that it is not. "
                "Download the checkpoint again."
            )

    def __contains__(self, module: str) -> bool:
        return module in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def matrix(self, module: str) -> QuantizedMatrix:
        """The matrix of `module`; its groups and zero points are read.

        Raises:
            CheckpointError: a tensor is missing, or does not fit the others or the format.
        """
        tensors = self._modules[module]
        packed = self.config.format(self._stored_names[module], module)
        if packed is None:
            raise KeyError(module)
        if packed.packing is Packing.INPUT and G_IDX not in tensors and self._has_g_idx():
            raise CheckpointError(
                f"{self._folder} has no tensor {module}.{G_IDX}, and other matrices have theirs. "
                "Download the checkpoint again."
            )
        return open_matrix(module, tensors, packed, zeros_wrap=self.config.zeros_wrap)

    def notes(self, *, kept: bool) -> list[str]:
        """What becomes of the matrices in a bundle, in sentences: they are `kept` as they are, or float32 values."""
        found = f"{self._folder} has {len(self)} matrices that are quantized already ({self.config})"
        if not kept:
            return [f"{found}: the bundle has their values in float32."]
        notes = [f"{found}: they are kept as they are, and the precision asked for applies to the rest."]
        stored = [tensors[SCALES] for tensors in self._modules.values()]
        if rounded := sum(count_rounded(scales) for scales in stored if scales.dtype != "F16"):
            notes.append(
                f"{rounded} scales of these matrices are no float16 numbers and were rounded to them: their weights "
                "change by 0.05 % or less."
            )
        return notes

    def _has_g_idx(self) -> bool:
        return any(G_IDX in tensors for tensors in self._modules.values())


def find_quantized_config(folder: Path, config: JsonObject) -> QuantizedConfig | None:
    """What config.json, or else a file beside it, says of quantized matrices; None: nothing.

    Args:
        folder: the checkpoint's.
        config: its config.json.

    Raises:
        CheckpointError: the form of quantization is not supported.
    """
    thinker = config.optional_section("thinker_config")
    for section in (config, thinker, thinker.optional_section("text_config")):
        if _COMPRESSED_KEY in section:
            raise CheckpointError(
                f"{folder} is quantized by compressed-tensors ({section.named(_COMPRESSED_KEY)}), which is not read. "
                "Export the bf16 checkpoint that it was made from."
            )
        if _CONFIG_KEY in section:
            return parse_quantized_config(section.section(_CONFIG_KEY))
    for name in _CONFIG_FILES:
        if (folder / name).exists():
            return parse_quantized_config(read_json(folder / name))
    return None
