"""The matrices of a decoder's layers as the bundle stores them: stacked, and padded to the cache's head width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import DecoderConfig
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.models.decoder_layer import LayerSizes

# GroupQueryAttention rotates heads whose halves are multiples of 8 values wide (onnxruntime 1.32).
_HALF_HEAD_MULTIPLE = 8


def padded_head_dim(config: DecoderConfig) -> int:
    """The cache's head width: `head_dim` with each rotary half padded to the attention kernel's multiple."""
    half = config.head_dim // 2
    return 2 * (-(-half // _HALF_HEAD_MULTIPLE) * _HALF_HEAD_MULTIPLE)


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer, in the order of the operator's inputs.

    Attributes:
        qkv: [(heads + 2 * kv_heads) * head_dim, hidden], rows of Q, K and V.
        qkv_bias: [(heads + 2 * kv_heads) * head_dim].
        out: [hidden, heads * head_dim].
        middle_norm: [hidden], of the norm behind attention.
        gate_up: [2 * intermediate, hidden], gate's rows followed by up's.
        down: [hidden, intermediate].
        next_norm: [hidden], of the next layer's first norm, or of the final norm.
    """

    qkv: LazyTensor
    qkv_bias: LazyTensor
    out: LazyTensor
    middle_norm: LazyTensor
    gate_up: LazyTensor
    down: LazyTensor
    next_norm: LazyTensor

    @property
    def matrices(self) -> tuple[LazyTensor, ...]:
        """The matrices in the order of `decoder_layer.MATRICES`."""
        return self.qkv, self.out, self.gate_up, self.down

    @property
    def are_quantized(self) -> bool:
        """Whether the checkpoint has quantized one of the matrices already."""
        return any(matrix.quantized or matrix.parts for matrix in self.matrices)


class DecoderWeights:
    """The layers' weights of one decoder.

    Args:
        weights: the checkpoint's part that holds `layers`.
        config: the decoder's sizes.

    Attributes:
        sizes: of a layer, as stored.
    """

    def __init__(self, weights: Scope, config: DecoderConfig) -> None:
        self._weights = weights
        self.config = config
        self.head_dim = padded_head_dim(config)
        self.sizes = LayerSizes(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=self.head_dim,
            scale=config.head_dim**-0.5,
            epsilon=config.rms_norm_eps,
        )

    @property
    def first_norm(self) -> LazyTensor:
        """The weight of the first layer's first norm, [hidden]."""
        return self._norm("layers.0.input_layernorm")

    def layer(self, index: int) -> LayerWeights:
        """The weights of layer `index`."""
        sizes = self.sizes
        attention, mlp = (self._weights.scope(f"layers.{index}.{part}") for part in ("self_attn", "mlp"))
        qkv, bias = self._qkv(attention)
        wide = (sizes.intermediate, sizes.hidden)
        last = index == self.config.num_layers - 1
        return LayerWeights(
            qkv=qkv,
            qkv_bias=bias,
            out=self._pad_columns(attention("o_proj.weight", (sizes.hidden, sizes.heads * self.config.head_dim))),
            middle_norm=self._norm(f"layers.{index}.post_attention_layernorm"),
            gate_up=LazyTensor.stack([mlp(f"{name}_proj.weight", wide) for name in ("gate", "up")]),
            down=mlp("down_proj.weight", sizes.down),
            next_norm=self._norm("norm" if last else f"layers.{index + 1}.input_layernorm"),
        )

    def _norm(self, name: str) -> LazyTensor:
        return self._weights(f"{name}.weight", (self.config.hidden_size,))

    def _qkv(self, weights: Scope) -> tuple[LazyTensor, LazyTensor]:
        """Stacked weight and bias of Q, K and V, padded to the cache's head width."""
        config = self.config
        heads, kv_heads = config.num_heads, config.num_kv_heads
        parts = []
        for name, count, rotated in (("q_proj", heads, True), ("k_proj", kv_heads, True), ("v_proj", kv_heads, False)):
            rows = count * config.head_dim
            weight, bias = weights(f"{name}.weight", (rows, config.hidden_size)), weights(f"{name}.bias", (rows,))
            parts.append((self._pad_rows(weight, rotated), self._pad_rows(bias, rotated)))
        return LazyTensor.stack([weight for weight, _ in parts]), LazyTensor.stack([bias for _, bias in parts])

    def _pad_rows(self, tensor: LazyTensor, rotated: bool) -> LazyTensor:
        """Adds zero rows up to the cache's head width: after each rotary half, or after a head that is not rotated."""
        if self.head_dim == self.config.head_dim:
            return tensor
        heads = tensor.shape[0] // self.config.head_dim
        return tensor.spread_rows(self._places(heads, halves=rotated), heads * self.head_dim)

    def _pad_columns(self, tensor: LazyTensor) -> LazyTensor:
        """Adds zero columns after each head, up to the cache's head width."""
        if self.head_dim == self.config.head_dim:
            return tensor
        heads = self.config.num_heads
        return tensor.spread_columns(self._places(heads, halves=False), heads * self.head_dim)

    def _places(self, heads: int, *, halves: bool) -> NDArray[np.intp]:
        """The place of each value of `heads` heads among as many padded ones."""
        pieces = heads * (2 if halves else 1)
        size, padded = heads * self.config.head_dim // pieces, heads * self.head_dim // pieces
        return (np.arange(pieces)[:, None] * padded + np.arange(size)).reshape(-1)
