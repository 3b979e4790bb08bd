"""The DiT's modulation of every layer, as tables over the time points of a solver.

The tables depend on the time points only. So the graph runs once per solver setting, and its weights (40 % of the DiT)
need not stay in memory.
"""

from __future__ import annotations

from math import log

import numpy as np
import torch
from numpy.typing import NDArray

from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import DiTConfig
from omni_export.graph.builder import GraphBuilder
from omni_quant.policy import formats
from omni_quant.precision import Precision

ROLE = "dit_time"

# shift, scale, gate of the attention; shift, scale, gate of the feed-forward.
MODULATIONS = 6
# scale, shift of the last norm.
FINAL_MODULATIONS = 2

# Constants of the reference's code that its config does not carry.
_TIME_SCALE = 1000.0
_TIME_BASE = 10_000.0
_SCALES = (1, 4)
_FINAL_SCALES = (0,)


def build(weights: Scope, config: DiTConfig, precision: Precision) -> GraphBuilder:
    """The graph `dit_time`.

    Input: `time` float32 [N] in [0, 1].
    Outputs: `modulation` float32 [N, layers, 6, hidden]; `final_modulation` float32 [N, 2, hidden]. Both hold 1 + scale
        in the place of a scale.

    Args:
        weights: the checkpoint's part below `dit.PREFIX`.
        config: the DiT's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.
    """
    g = GraphBuilder(ROLE, formats(ROLE, precision))
    embed = weights.scope("time_embed.time_mlp")
    size = embed("0.weight").shape[1]
    time = g.input("time", ["points"])
    # torch's exp: a frequency that differs in its last bit is off by 1e-4 after the 1000 radians of the time axis.
    steps = torch.exp(torch.arange(size // 2).float() * (-log(_TIME_BASE) / (size // 2 - 1))).numpy()
    scaled = g.op("Mul", [time, g.const(_TIME_SCALE)], "/time/scaled")
    column = g.op("Unsqueeze", [scaled, g.const([1])], "/time/column")
    angles = g.op("Mul", [column, g.const(steps, "/time/steps")], "/time/angles")
    waves = [g.op("Sin", [angles], "/time/sin"), g.op("Cos", [angles], "/time/cos")]
    x = g.op("Concat", waves, "/time/waves", axis=1)
    x = g.linear(x, embed("0.weight"), "/time/mlp.0", "time_embedding", bias=embed("0.bias"))
    x = g.silu(x, "/time/silu")
    x = g.linear(x, embed("2.weight"), "/time/mlp.2", "time_embedding", bias=embed("2.bias"))
    x = g.silu(x, "/modulation/silu")
    hidden = config.hidden_size
    layers = [
        _modulation(g, x, weights.scope(f"transformer_blocks.{layer}.attn_norm.linear"), f"/layers.{layer}", _SCALES)
        for layer in range(config.num_layers)
    ]
    table = g.op("Concat", layers, "/modulation", axis=1)
    table = g.op("Reshape", [table, g.const([-1, config.num_layers, MODULATIONS, hidden])], "/modulation/rows")
    g.output(table, "modulation", ["points", config.num_layers, MODULATIONS, hidden])
    final = _modulation(g, x, weights.scope("norm_out.linear"), "/norm_out", _FINAL_SCALES)
    final = g.op("Reshape", [final, g.const([-1, FINAL_MODULATIONS, hidden])], "/norm_out/rows")
    g.output(final, "final_modulation", ["points", FINAL_MODULATIONS, hidden])
    return g


def _modulation(g: GraphBuilder, x: str, weights: Scope, name: str, scales: tuple[int, ...]) -> str:
    """The linear layer of one adaptive norm. The 1 of 1 + scale is part of the bias, in the rows `scales`."""
    weight = weights("weight")
    rows, hidden = weight.shape

    def add_one(bias: NDArray[np.float32]) -> NDArray[np.float32]:
        shifted = bias.reshape(-1, hidden).copy()
        shifted[list(scales)] += 1
        return shifted.reshape(-1)

    bias = weights("bias", (rows,)).map(add_one)
    return g.linear(x, weight, name, "modulation", bias=bias)
