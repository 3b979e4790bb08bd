"""Batched forward passes over the reference's own modules, for training on few cores.

The reference runs audio blocks and vision windows one by one, and has masks that a right-padded causal batch does not
need. These functions use the same weights and give the same numbers (tests/nano/model), several times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Audio blocks of one length, rounded up to a multiple of this many mel frames, form a batch.
_LENGTH_STEP = 40


@dataclass(frozen=True)
class AudioStates:
    """The audio encoder's outputs for several sounds.

    Attributes:
        embeds: [tokens, hidden]; one sound after the other.
        middle: [frames, d_model]; states before the second half of the layers, 50 a second, for auxiliary losses.
        tokens, frames: rows of `embeds` and of `middle` for each sound.
    """

    embeds: Tensor
    middle: Tensor
    tokens: list[int]
    frames: list[int]


def encode_audio(tower: Any, mels: list[Tensor]) -> AudioStates:
    """Runs the audio encoder on whole sounds.

    Args:
        tower: the reference's `Qwen2_5OmniAudioEncoder`.
        mels: float [128, n] each, normalised log-mel.
    """
    block = 2 * tower.n_window
    groups: dict[int, list[tuple[int, int, Tensor]]] = {}
    for sound, mel in enumerate(mels):
        for index, piece in enumerate(mel.split(block, dim=1)):
            size = -(-piece.shape[1] // _LENGTH_STEP) * _LENGTH_STEP
            groups.setdefault(size, []).append((sound, index, piece))
    parts: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for size, members in groups.items():
        lengths = torch.tensor([piece.shape[1] for _, _, piece in members])
        batch = torch.zeros(len(members), mels[0].shape[0], size, dtype=tower.conv1.weight.dtype)
        for row, (_, _, piece) in enumerate(members):
            batch[row, :, : piece.shape[1]] = piece
        embeds, middle = _encode_audio_blocks(tower, batch, lengths)
        for row, (sound, index, piece) in enumerate(members):
            half = (piece.shape[1] - 1) // 2 + 1
            parts[sound, index] = embeds[row, : half // 2], middle[row, :half]
    order = sorted(parts)
    tokens, frames = [0] * len(mels), [0] * len(mels)
    for sound, index in order:
        tokens[sound] += parts[sound, index][0].shape[0]
        frames[sound] += parts[sound, index][1].shape[0]
    return AudioStates(
        torch.cat([parts[key][0] for key in order]), torch.cat([parts[key][1] for key in order]), tokens, frames
    )


def _encode_audio_blocks(tower: Any, batch: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks [n, 128, size] of `lengths` frames: embeds [n, size / 4, hidden] and middle states [n, size / 2, d]."""
    full = bool((lengths == batch.shape[2]).all())
    hidden = functional.gelu(tower.conv1(batch))
    if not full:
        hidden = hidden * (torch.arange(batch.shape[2]) < lengths[:, None])[:, None].to(hidden.dtype)
    hidden = functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    hidden = hidden + tower.positional_embedding.positional_embedding[: hidden.shape[1]].to(hidden.dtype)
    mask = None
    if not full:
        mask = _bias((torch.arange(hidden.shape[1]) < ((lengths - 1) // 2 + 1)[:, None])[:, None, None], hidden.dtype)
    middle = hidden
    for index, layer in enumerate(tower.layers):
        if index == len(tower.layers) // 2:
            middle = hidden
        attention = layer.self_attn
        normed = layer.self_attn_layer_norm(hidden)
        query, key, value = (
            _heads(projection(normed), attention.num_heads)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = _attend(query, key, value, mask)
        hidden = hidden + attention.out_proj(_flat(mixed))
        hidden = hidden + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(hidden))))
    pooled = (hidden[:, 0::2] + hidden[:, 1::2]) / 2
    return tower.proj(tower.ln_post(pooled)), middle


def encode_vision(visual: Any, patches: Tensor, height: int, width: int) -> Tensor:
    """The vision encoder on temporal patches of one size.

    Args:
        visual: the reference's `Qwen2_5OmniVisionEncoder`.
        patches: float [n, height * width, 1176], laid out by merge group.
        height, width: in patches of 14 pixels.

    Returns:
        [n, height * width / 4, hidden].
    """
    config = visual.config
    weight = visual.patch_embed.proj.weight
    hidden = patches.to(weight.dtype) @ weight.flatten(1).T
    rows, columns, windows = _places(height, width, visual.spatial_merge_size, visual.window_size // visual.patch_size)
    cos, sin = _vision_rotary(visual, rows, columns, hidden.dtype)
    mask = None if bool((windows == windows[0]).all()) else _bias(windows[:, None] == windows[None, :], hidden.dtype)
    for index, layer in enumerate(visual.blocks):
        attention = layer.attn
        normed = _rms(hidden, layer.norm1)
        q, k, v = (_heads(part(normed), config.num_heads) for part in (attention.q, attention.k, attention.v))
        local = None if index in config.fullatt_block_indexes else mask
        mixed = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, local)
        hidden = hidden + attention.proj(_flat(mixed))
        hidden = hidden + _gated(layer.mlp, _rms(hidden, layer.norm2))
    merger = visual.merger
    merged = _rms(hidden, merger.ln_q).reshape(hidden.shape[0], -1, merger.hidden_size)
    result: Tensor = merger.mlp(merged)
    return result


def _places(height: int, width: int, merge: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and window number of every patch, in the layout by merge group."""

    def grouped(grid: Tensor) -> Tensor:
        return grid.reshape(height // merge, merge, width // merge, merge).transpose(1, 2).flatten()

    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    windows = rows // window * width + columns // window
    return grouped(rows), grouped(columns), grouped(windows)


def _vision_rotary(visual: Any, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angles = torch.cat([place[:, None] * visual.rotary_pos_emb.inv_freq.float() for place in (rows, columns)], -1)
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotary_tables(model: Any, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, L, head_dim] of a decoder for TMRoPE ids [3, B, L]."""
    rotary = model.rotary_emb
    angles = positions[..., None].float() * rotary.inv_freq.float()
    parts = [part[index % 3] for index, part in enumerate(angles.split(rotary.mrope_section, dim=-1))]
    mixed = torch.cat(parts, -1)
    mixed = torch.cat([mixed, mixed], -1)[:, None]
    return mixed.cos().to(dtype), mixed.sin().to(dtype)


def decode(model: Any, embeds: Tensor, positions: Tensor) -> Tensor:
    """A decoder (the Thinker's text model or the Talker's) on a right-padded batch, after the final norm.

    Args:
        model: the reference's `Qwen2_5OmniThinkerTextModel` or `Qwen2_5OmniTalkerModel`.
        embeds: [B, L, hidden]; padding on the right needs no mask, since no earlier position attends to it.
        positions: int [3, B, L].
    """
    cos, sin = rotary_tables(model, positions, embeds.dtype)
    mask = _bias(torch.ones(embeds.shape[1], embeds.shape[1], dtype=torch.bool).tril(), embeds.dtype)
    hidden = embeds
    for layer in model.layers:
        attention = layer.self_attn
        normed = _rms(hidden, layer.input_layernorm)
        q = _rotate(_heads(attention.q_proj(normed), attention.num_heads), cos, sin)
        k = _rotate(_heads(attention.k_proj(normed), attention.num_key_value_heads), cos, sin)
        v = _heads(attention.v_proj(normed), attention.num_key_value_heads)
        groups = attention.num_key_value_groups
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = _attend(q, k, v, mask)
        hidden = hidden + attention.o_proj(_flat(mixed))
        hidden = hidden + _gated(layer.mlp, _rms(hidden, layer.post_attention_layernorm))
    return _rms(hidden, model.norm)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention by matrix products: at these lengths several times as fast in bfloat16 as torch's kernel on a CPU."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    attended: Tensor = (scores if bias is None else scores + bias).softmax(-1) @ v
    return attended


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf"))


def _rms(hidden: Tensor, norm: Any) -> Tensor:
    normed: Tensor = functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
    return normed


def _gated(mlp: Any, hidden: Tensor) -> Tensor:
    result: Tensor = mlp.down_proj(functional.silu(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))
    return result


def _heads(hidden: Tensor, count: int) -> Tensor:
    heads: Tensor = hidden.unflatten(-1, (count, -1)).transpose(1, 2)
    return heads


def _flat(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    rotated: Tensor = heads * cos + torch.cat([-second, first], -1) * sin
    return rotated
