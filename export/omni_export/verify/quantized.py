"""The values of quantized matrices, for verification.

Nothing is shared with the exporter's reader: an error there would otherwise be on both sides of the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_AWQ_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


def quantization_config(folder: Path) -> dict[str, Any]:
    """What the checkpoint in `folder` states of its quantization; {} where it states nothing."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    thinker = config.get("thinker_config") or {}
    for section in (config, thinker, thinker.get("text_config") or {}):
        if section.get("quantization_config"):
            return dict(section["quantization_config"])
    for name in ("quantize_config.json", "quant_config.json", "quantization_config.json"):
        if (folder / name).is_file():
            return dict(json.loads((folder / name).read_text("utf-8")))
    return {}


def dequantize(config: dict[str, Any], tensor: Callable[[str], torch.Tensor | None]) -> torch.Tensor:
    """The values of one matrix, float32 [out, in].

    Args:
        config: see `quantization_config`.
        tensor: "qweight", "qzeros", "scales" or "g_idx" -> the module's tensor; None where it has none.
    """
    qweight, qzeros, scales = (_present(tensor(name), name) for name in ("qweight", "qzeros", "scales"))
    packing = str(config.get("packing_format") or config.get("backend") or "auto")
    method = str(config.get("quant_method") or config.get("method") or ("awq" if "w_bit" in config else "gptq"))
    outputs = scales.shape[1]
    bits = 32 * qzeros.shape[1] // outputs
    if method == "awq" or ("round" in method and "awq" in packing):
        shifts = torch.tensor(_AWQ_SHIFTS)
        codes, zeros = (_fields(words, shifts).flatten(1) for words in (qweight, qzeros))
    else:
        shifts = torch.arange(0, 32, bits)
        words = qzeros.long() & 0xFFFFFFFF
        if _stores_zeros_less_one(config, method, packing):
            words += sum(1 << int(shift) for shift in shifts)
        mask = (1 << bits) - 1
        codes = _fields(qweight, shifts, mask).permute(0, 2, 1).flatten(0, 1)
        zeros = _fields(words, shifts, mask).flatten(1)
    group = tensor("g_idx")
    if group is None:
        group = _groups(config, len(codes), len(scales))
    group = group.long()
    return ((codes - zeros[group]).float() * scales.float()[group]).T.contiguous()


def _present(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    if tensor is None:
        raise KeyError(name)
    return tensor


def _fields(words: torch.Tensor, shifts: torch.Tensor, mask: int = 15) -> torch.Tensor:
    """The numbers in each word: int64 [..., n] -> [..., n, 32 / bits]."""
    return (words.long()[..., None] >> shifts) & mask


def _stores_zeros_less_one(config: dict[str, Any], method: str, packing: str) -> bool:
    if "round" in method:
        return packing not in ("auto_round", "auto_round:gptqmodel")
    return str(config.get("checkpoint_format") or config.get("format") or "gptq") == "gptq"


def _groups(config: dict[str, Any], columns: int, groups: int) -> torch.Tensor:
    """The group of each column, in their order."""
    stated = int(config.get("group_size") or config.get("q_group_size") or -1)
    size = stated if stated > 0 and -(-columns // stated) == groups else -(-columns // groups)
    return torch.arange(columns) // size
