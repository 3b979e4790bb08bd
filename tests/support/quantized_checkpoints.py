"""Quantized checkpoints in the published layouts, packed here after the formats' descriptions.

`tests/data/quantized` has what other programs make of such matrices; tests hold this packing against it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

Arrays = dict[str, NDArray[Any]]
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PROJECTIONS = (*_PROJECTIONS, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
# The column of eight neighbours that AWQ puts at each place of an int32.
_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Scheme:
    """A way of quantizing a checkpoint.

    Attributes:
        layout: "gptq", "gptq_v2" or "awq".
        config: `quantization_config`.
        group_size: weights that share a scale.
        bits: of a code.
        act_order: the columns of a group are scattered.
        symmetric: zero points are half the range.
        g_idx: is stored.
    """

    layout: str
    config: Mapping[str, Any]
    group_size: int = 32
    bits: int = 4
    act_order: bool = False
    symmetric: bool = False
    g_idx: bool = True


def _gptq(**config: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, **config}


_META = {"quantizer": ["gptqmodel:7.7.0"]}
SCHEMES = {
    "gptq": Scheme("gptq", _gptq(), symmetric=True),
    "gptq_act_order": Scheme("gptq", _gptq(desc_act=True, sym=False, meta=_META), act_order=True),
    "gptq_v2": Scheme("gptq_v2", _gptq(checkpoint_format="gptq_v2", sym=False, lm_head=False, pack_dtype="int32")),
    "gptq_8_bits": Scheme("gptq", _gptq(bits=8), bits=8, symmetric=True),
    "awq": Scheme(
        "awq",
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
        | {"modules_to_not_convert": ["visual"]},
        g_idx=False,
    ),
    "auto_round_gptq": Scheme(
        "gptq",
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32}
        | {"sym": True, "data_type": "int", "block_name_to_quantize": "thinker.model.layers"},
        symmetric=True,
        g_idx=False,
    ),
    "auto_round": Scheme(
        "gptq_v2",
        {"quant_method": "auto-round", "packing_format": "auto_round", "bits": 4, "group_size": 32, "sym": False},
        g_idx=False,
    ),
}


@dataclass
class QuantizedCheckpoint:
    """A checkpoint and what was put into it.

    Attributes:
        path: of the quantized checkpoint.
        plain: of one with the same values in float32.
        matrices: module -> codes [out, in], zeros and scales [out, groups], group [in].
    """

    path: Path
    plain: Path
    matrices: dict[str, Arrays] = field(default_factory=dict)


def pack_int32(numbers: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Numbers [..., n] of `bits` bits in int32 [..., n * bits / 32], the first in the lowest bits."""
    words = numbers.astype(np.uint32).reshape(*numbers.shape[:-1], -1, 32 // bits)
    shifted = words << np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(shifted, axis=-1).view(np.int32)


def pack(layout: str, matrix: Arrays, bits: int = 4) -> Arrays:
    """The tensors of `matrix` in a layout."""
    codes, zeros = matrix["codes"].T, matrix["zeros"].T
    if layout == "awq":
        order = np.arange(codes.shape[1]).reshape(-1, 8)[:, _AWQ_COLUMNS].reshape(-1)
        qweight, qzeros = pack_int32(codes[:, order], bits), pack_int32(zeros[:, order], bits)
    else:
        qweight, qzeros = pack_int32(codes.T, bits).T, pack_int32(zeros, bits)
        if layout == "gptq":
            ones = sum(1 << place for place in range(0, 32, bits))
            qzeros = (qzeros.view(np.uint32) - np.uint32(ones)).view(np.int32)
    tensors = {"qweight": qweight, "qzeros": qzeros, "scales": matrix["scales"].T, "g_idx": matrix["group"]}
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def values(matrix: Arrays) -> NDArray[np.float32]:
    """(code - zero) * scale, float32 [out, in]."""
    group = matrix["group"]
    steps = matrix["codes"].astype(np.float32) - matrix["zeros"][:, group]
    return np.asarray(steps * matrix["scales"][:, group].astype(np.float32))


def round_to_grid(weight: NDArray[np.float32], scheme: Scheme, seed: int) -> Arrays:
    """Rounds `weight` [out, in] to the nearest values of a grid with float16 scales."""
    columns = weight.shape[1]
    group = np.arange(columns) // scheme.group_size
    if scheme.act_order:
        group = np.random.default_rng(seed).permutation(group)
    groups = int(group.max()) + 1
    top = (1 << scheme.bits) - 1
    low = np.stack([weight[:, group == index].min(1) for index in range(groups)], 1).clip(max=0)
    high = np.stack([weight[:, group == index].max(1) for index in range(groups)], 1).clip(min=0)
    if scheme.symmetric:
        high = np.maximum(high, -low)
        low = -high
    scales = ((high - low) / top).clip(min=1e-4).astype(np.float16)
    zeros = np.rint(-low / scales).clip(0, top)
    if scheme.symmetric:
        zeros[:] = 1 << (scheme.bits - 1)
    codes = np.rint(weight / scales[:, group].astype(np.float32) + zeros[:, group]).clip(0, top)
    return {
        "codes": codes.astype(np.uint8),
        "zeros": zeros.astype(np.uint8),
        "scales": scales,
        "group": group.astype(np.int32),
    }


def quantize_checkpoint(source: Path, folder: Path, scheme: Scheme) -> QuantizedCheckpoint:
    """Quantizes the Thinker's layers of the checkpoint `source` (one file) into `folder`/quantized.

    `folder`/plain has the same values in float32.
    """
    result = QuantizedCheckpoint(folder / "quantized", folder / "plain")
    shutil.copytree(source, result.path)
    shutil.copytree(source, result.plain)
    tensors = load_file(source / "model.safetensors")
    plain = dict(tensors)
    for name in sorted(tensors):
        module = name.removesuffix(".weight")
        if not (name.startswith("thinker.model.") and ".layers." in name and module.endswith(PROJECTIONS)):
            continue
        # Matrices that share their input share the order of its columns, as their calibration is the same.
        seed = sum(map(ord, module.rpartition(".")[0])) + module.endswith(("o_proj", "down_proj"))
        matrix = round_to_grid(tensors.pop(name).float().numpy(), scheme, seed)
        packed = pack(scheme.layout, matrix, scheme.bits)
        if not scheme.g_idx:
            del packed["g_idx"]
        tensors |= {f"{module}.{part}": torch.from_numpy(array) for part, array in packed.items()}
        plain[name] = torch.from_numpy(values(matrix))
        result.matrices[module.replace("thinker.model.language_model.", "thinker.model.")] = matrix
    save_file(tensors, result.path / "model.safetensors")
    save_file(plain, result.plain / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = dict(scheme.config)
    (result.path / "config.json").write_text(json.dumps(config))
    return result
