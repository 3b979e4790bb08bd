"""Which files of a checkpoint hold its weights, in the order in which transformers looks for them."""

from __future__ import annotations

import re
from pathlib import Path

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import read_json
from omni_export.checkpoint.safetensors_file import SafetensorsFile

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_ADAPTER_NAME = "adapter_config.json"
_TORCH_NAMES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# What transformers 5 calls the Thinker's parts in memory, and what files call them.
_MODULE_NAMES = {
    "thinker.model.language_model.": "thinker.model.",
    "thinker.model.audio_tower.": "thinker.audio_tower.",
    "thinker.model.visual.": "thinker.visual.",
}
_PARTS = ("thinker.", "talker.", "token2wav.")
# Tensors of compressed-tensors and bitsandbytes.
_UNREADABLE = re.compile(r"\.(weight_packed|weight_scale|absmax|quant_map)$")

Weights = dict[str, tuple[SafetensorsFile, str]]
"""Tensor name in the published layout -> its file, and its name there."""


def find_weights(folder: Path) -> Weights:
    """The checkpoint's tensors: `model.safetensors`, else the shards that the index names, as transformers has it.

    Raises:
        CheckpointError: there are none, a file is damaged, or they are quantized in a form that is not read.
    """
    if (folder / _ADAPTER_NAME).exists():
        raise CheckpointError(
            f"{folder} has {_ADAPTER_NAME}: a PEFT adapter, which is not applied here. Merge it into its base model "
            f"(peft: merge_and_unload, then save_pretrained) and export the result, or move {_ADAPTER_NAME} away to "
            "export the base model alone."
        )
    if (folder / WEIGHTS_NAME).is_file():
        file = SafetensorsFile(folder / WEIGHTS_NAME)
        weights = _published_names(folder, dict.fromkeys(file.entries, file))
    elif (folder / INDEX_NAME).is_file():
        weights = _published_names(folder, _sharded(folder))
    else:
        raise _missing(folder)
    if unreadable := next((name for name in weights if _UNREADABLE.search(name)), None):
        raise CheckpointError(
            f"{folder} is quantized already, in a form that is not read (it has {unreadable}). Export the bf16 "
            "checkpoint that it was made from, or one of GPTQ, AWQ or AutoRound."
        )
    return weights


def _missing(folder: Path) -> CheckpointError:
    if any((folder / name).exists() for name in _TORCH_NAMES):
        return CheckpointError(
            f"{folder} holds pickled weights ({_TORCH_NAMES[0]}), which are not read. Save them as safetensors "
            "(transformers: from_pretrained, then save_pretrained) and export the result."
        )
    return CheckpointError(
        f"{folder / WEIGHTS_NAME} is missing, and so is {INDEX_NAME}. Give the folder of a complete checkpoint."
    )


def _sharded(folder: Path) -> dict[str, SafetensorsFile]:
    index = read_json(folder / INDEX_NAME)
    placed = index.section("weight_map").raw
    for tensor, shard in placed.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard:
            raise CheckpointError(
                f"{INDEX_NAME}: weight_map.{tensor} must be the name of a file beside it, not {shard!r}. "
                "Download it again."
            )
    shards = {name: SafetensorsFile(folder / name) for name in sorted(set(placed.values()))}
    for tensor, shard in placed.items():
        if tensor not in shards[shard].entries:
            raise CheckpointError(
                f"{shard} lacks {tensor}, which {INDEX_NAME} places there. Download the checkpoint again."
            )
    return {tensor: shards[shard] for tensor, shard in placed.items()}


def _published_names(folder: Path, files: dict[str, SafetensorsFile]) -> Weights:
    weights: Weights = {}
    for stored, file in files.items():
        name = _published_name(stored)
        if name in weights:
            raise CheckpointError(
                f"{folder} has {name} twice, as {weights[name][1]} and as {stored}. Save the checkpoint again."
            )
        weights[name] = (file, stored)
    return weights


def _published_name(stored: str) -> str:
    """A tensor's name in the published layout; a Thinker that was saved alone has no prefix."""
    name = stored if stored.startswith(_PARTS) else f"thinker.{stored}"
    for there, here in _MODULE_NAMES.items():
        if name.startswith(there):
            return here + name.removeprefix(there)
    return name
