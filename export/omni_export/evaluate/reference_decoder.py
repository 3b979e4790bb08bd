"""A decoder of the reference in float32, in bounded memory: its layers are read one after the other.

A pass over all sequences takes one layer at a time, so a decoder of any size costs one layer, the hidden states and the
caches. Layers that fit into `RESIDENT_BYTES` together stay in memory from pass to pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

from omni_export.verify.weights import ReferenceWeights

Array = NDArray[np.float32]

RESIDENT_BYTES = 1_500_000_000
# Rows of a head that are read at a time, and positions whose logits are in memory at a time.
_HEAD_ROWS = 8192
_HEAD_POSITIONS = 32


@dataclass
class ReferenceState:
    """What the decoder keeps of one sequence.

    Attributes:
        cache: keys and values of every layer.
        length: positions in it.
    """

    cache: DynamicCache = field(default_factory=DynamicCache)
    length: int = 0


@dataclass(frozen=True)
class ReferenceInput:
    """Positions that a sequence is continued by.

    Attributes:
        embeds: float32 [n, hidden].
        positions: int64 [3, n].
        state: is updated.
    """

    embeds: Array
    positions: NDArray[np.int64]
    state: ReferenceState


class ReferenceDecoder:
    """Layers and norm of a decoder.

    Args:
        weights: the checkpoint's tensors.
        prefix: of the decoder's names, "thinker.model" or "talker.model".
        config: the reference's configuration of it.
        head: the name of the matrix that makes logits of hidden states.
    """

    def __init__(self, weights: ReferenceWeights, prefix: str, config: Any, head: str) -> None:
        self._weights = weights
        self._prefix = prefix
        self._config = copy.deepcopy(config)
        self._config._attn_implementation = "eager"
        self._rotary = modeling.Qwen2_5OmniRotaryEmbedding(self._config)
        self._norm = modeling.Qwen2_5OmniRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._norm.load_state_dict({"weight": weights.tensor(f"{prefix}.norm.weight")})
        self._head = head
        self._head_pieces: dict[int, torch.Tensor] = {}
        layer = self._empty_layer(0)
        self._layer_bytes = 4 * sum(parameter.numel() for parameter in layer.parameters())
        self._layers: dict[int, Any] = {}

    def step(self, inputs: list[ReferenceInput]) -> list[Array]:
        """Continues each sequence; returns the hidden states behind the norm, float32 [n, hidden] each."""
        with torch.no_grad():
            hidden = [torch.from_numpy(item.embeds)[None] for item in inputs]
            rotary = [
                self._rotary(states, torch.from_numpy(item.positions)[:, None])
                for states, item in zip(hidden, inputs, strict=True)
            ]
            masks = [_mask(item.positions.shape[1], item.state.length) for item in inputs]
            for index in range(self._config.num_hidden_layers):
                layer = self._layer(index)
                for number, item in enumerate(inputs):
                    hidden[number] = layer(
                        hidden[number],
                        attention_mask=masks[number],
                        position_embeddings=rotary[number],
                        cache=item.state.cache,
                        use_cache=True,
                    )
            for item in inputs:
                item.state.length += item.positions.shape[1]
            return [self._norm(states)[0].numpy() for states in hidden]

    def logits(self, hidden: Array) -> Iterator[Array]:
        """The logits, float32 [vocabulary], of each of the hidden states [n, hidden], in order."""
        with torch.no_grad():
            for start in range(0, len(hidden), _HEAD_POSITIONS):
                states = torch.from_numpy(hidden[start : start + _HEAD_POSITIONS])
                yield from torch.cat([states @ piece.T for piece in self._pieces()], dim=1).numpy()

    def _pieces(self) -> Iterator[torch.Tensor]:
        rows = self._config.vocab_size
        resident = 4 * rows * self._config.hidden_size <= RESIDENT_BYTES // 3
        for start in range(0, rows, _HEAD_ROWS):
            piece = self._head_pieces.get(start)
            if piece is None:
                piece = self._weights.rows(self._head, slice(start, min(rows, start + _HEAD_ROWS)))
                if resident:
                    self._head_pieces[start] = piece
            yield piece

    def _layer(self, index: int) -> Any:
        if index in self._layers:
            return self._layers[index]
        layer = self._empty_layer(index)
        prefix = f"{self._prefix}.layers.{index}"
        state = {name: self._weights.tensor(f"{prefix}.{name}") for name in layer.state_dict()}
        layer.load_state_dict(state, assign=True)
        if self._layer_bytes * self._config.num_hidden_layers <= RESIDENT_BYTES:
            self._layers[index] = layer
        return layer

    def _empty_layer(self, index: int) -> Any:
        with torch.device("meta"):
            return modeling.Qwen2_5OmniDecoderLayer(self._config, index).eval()


def _mask(count: int, past: int) -> torch.Tensor | None:
    """What is added to the attention of `count` positions behind `past` ones, float32 [1, 1, count, past + count]."""
    if count == 1:
        return None
    later = torch.ones(count, past + count, dtype=torch.bool).triu(past + 1)
    return torch.zeros(later.shape).masked_fill(later, torch.finfo(torch.float32).min)[None, None]
