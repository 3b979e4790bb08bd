"""Makes `tests/data/quantized/*.npz`: small matrices that other programs packed and took apart again.

The test environment needs none of these programs. To repeat it, in an environment of its own (torch 2.13):

    pip install gptqmodel==7.7.0 autoawq==0.2.9 auto-round==0.16.1
    python tests/support/quantized_golden.py tests/data/quantized

Each file has the matrix (codes [out, in], zeros and scales [out, groups], group [in]), the tensors of the format
(qweight, qzeros, g_idx where there is one; scales are transposed), and the values [out, in] that the program reads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

OUTPUTS, INPUTS, GROUP = 32, 96, 32
Arrays = dict[str, np.ndarray[Any, Any]]


def matrix(bits: int, *, symmetric: bool, act_order: bool, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    groups = INPUTS // GROUP
    zeros = random.integers(0, 1 << bits, (OUTPUTS, groups))
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    group = np.arange(INPUTS) // GROUP
    return {
        "codes": random.integers(0, 1 << bits, (OUTPUTS, INPUTS)).astype(np.uint8),
        "zeros": zeros.astype(np.uint8),
        "scales": random.uniform(1e-3, 3e-2, (OUTPUTS, groups)).astype(np.float16),
        "group": (random.permutation(group) if act_order else group).astype(np.int32),
    }


def linear(given: Arrays) -> torch.nn.Linear:
    """The layer that packing takes: its weights are on the grid of the matrix."""
    column = given["group"]
    values = given["codes"].astype(np.float32) - given["zeros"][:, column]
    layer = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
    layer.weight.data = torch.from_numpy(values * given["scales"][:, column].astype(np.float32))
    return layer


def parameters(given: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(given["scales"]).float(), torch.from_numpy(given["zeros"]).float()


def gptqmodel(given: Arrays, bits: int, *, first_version: bool) -> Arrays:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module

    layer = TorchLinear(bits=bits, group_size=GROUP, sym=False, desc_act=True, in_features=INPUTS, out_features=OUTPUTS)
    layer.pack_original(linear(given), *parameters(given), torch.from_numpy(given["group"]))
    if first_version:
        config = SimpleNamespace(bits=bits, pack_dtype=torch.int32)
        convert_gptq_v2_to_v1_format_module(layer, quantize_config=config)
    stored = {name: getattr(layer, name).numpy().copy() for name in ("qweight", "qzeros", "g_idx")}
    if first_version:
        convert_gptq_v1_to_v2_format_module(layer, bits=bits, pack_dtype=torch.int32)
    # In float16, as the program computes, each value would be rounded once more.
    layer.scales = layer.scales.float()
    layer.post_init()
    return {**given, **stored, "values": layer.dequantize_weight().T.contiguous().numpy()}


def autoawq(given: Arrays) -> Arrays:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    scales, zeros = (tensor.T.contiguous() for tensor in parameters(given))
    layer = WQLinear_GEMM.from_linear(linear(given), 4, GROUP, scales=scales, zeros=zeros)
    values = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, GROUP)
    stored = {name: getattr(layer, name).numpy() for name in ("qweight", "qzeros")}
    return {**given, **stored, "values": values.T.contiguous().numpy()}


def auto_round(given: Arrays, *, first_version: bool) -> Arrays:
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    module = qlinear_torch_zp if first_version else qlinear_torch
    layer = module.QuantLinear(4, GROUP, INPUTS, OUTPUTS, bias=False)
    layer.device = "cpu"
    layer.pack(linear(given), *parameters(given), None, device="cpu")
    stored = {name: getattr(layer, name).numpy().copy() for name in ("qweight", "qzeros")}
    layer.scales = layer.scales.float()
    return {**given, **stored, "values": layer(torch.eye(INPUTS)).T.contiguous().numpy()}


def main(folder: Path) -> None:
    scattered = matrix(4, symmetric=False, act_order=True, seed=1)
    asymmetric = matrix(4, symmetric=False, act_order=False, seed=2)
    symmetric = matrix(4, symmetric=True, act_order=False, seed=3)
    octets = matrix(8, symmetric=True, act_order=True, seed=4)
    files = {
        "gptq_v2_act_order": gptqmodel(scattered, 4, first_version=False),
        "gptq_act_order": gptqmodel(scattered, 4, first_version=True),
        "gptq_8_bits": gptqmodel(octets, 8, first_version=True),
        "awq": autoawq(asymmetric),
        "auto_round_gptq": auto_round(symmetric, first_version=True),
        "auto_round": auto_round(asymmetric, first_version=False),
    }
    for name, arrays in files.items():
        np.savez_compressed(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
