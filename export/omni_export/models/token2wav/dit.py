"""token2wav's first half: the flow-matching DiT, codec tokens to mel (reference: `Qwen2_5OmniToken2WavDiTModel`).

The graph is one evaluation of the velocity. The modulation by time comes from another graph, see `dit_time`.

Blocks are a batch, see `dit_blocks`. Several runs may follow each other along an utterance, and each block passes each
layer once. Positions count from the first block that a query sees. Rotary embedding is relative, so an utterance may
have any length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_edge.bundle.manifest import Token2WavSection
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import BigVGANConfig, DiTConfig
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav.bigvgan import Reach, samples_per_frame
from omni_export.models.token2wav.dit_blocks import Blocks
from omni_export.models.token2wav.dit_operators import block_attention, gated_norm, gelu_tanh, window_attention
from omni_export.models.token2wav.dit_time import FINAL_MODULATIONS, MODULATIONS
from omni_quant.policy import formats
from omni_quant.precision import Precision

ROLE = "dit"
PREFIX = "token2wav.code2wav_dit_model"

# Constants of the reference's code that its config does not carry.
SAMPLE_RATE = 24_000
_NORM_EPSILON = 1e-6


def section(dit: DiTConfig, bigvgan: BigVGANConfig) -> Token2WavSection:
    """The manifest's section of the vocoder."""
    reach = Reach.from_config(bigvgan)
    return Token2WavSection(
        sample_rate=SAMPLE_RATE,
        mel_dim=dit.mel_dim,
        samples_per_frame=samples_per_frame(bigvgan),
        frames_per_codec=dit.repeats,
        block_frames=dit.block_size,
        look_backward_layers=len(set(dit.look_backward_layers)),
        look_ahead_layers=len(set(dit.look_ahead_layers)),
        hidden_size=dit.hidden_size,
        attention_size=dit.num_heads * dit.head_dim,
        codec_limit=dit.num_embeds + 1,
        reach_frames=reach.frames,
        reach_samples=reach.levels,
    )


def build(weights: Scope, config: DiTConfig, precision: Precision) -> GraphBuilder:
    """The graph `dit`: one evaluation of the velocity over whole blocks, for G rows of guidance.

    The input has B blocks. A block passes a look-ahead layer together with the next block. So each such layer can hold
    the last block back (`hold` 1) and continue with it in the next run, where it is one of H = 1 `held` blocks. At the
    start of an utterance H is 0; where nothing follows, `hold` is 0. The output has V = B + (H - hold) * look-ahead
    layers blocks.

    Inputs:
        mel: float32 [G, B * block, mel], the noised mel.
        codec: int64 [G, B * block / repeats]; the unconditional row is all 0.
        speaker: float32 [G, hidden], rows of the speakers file.
        modulation, final_modulation: of this time point, float32 [layers, 6, hidden] and [2, hidden].
        left_keys, left_values: float32 [look-backward layers, G, block, inner], of the block before, in each layer.
        left_valid: bool [1]; False at the start of the utterance.
        held: float32 [look-ahead layers, G, H, block, hidden].
        frames: int64 [1], how many of the B * block frames exist; the rest is padding.
        hold: int64 [1], blocks that each look-ahead layer holds back, 0 or 1; V must not be 0.
        keep: int64 [1], the block whose keys and values are outputs, counted from each layer's end: -1 is the last.

    Outputs:
        velocity: float32 [G, V * block, mel].
        keys, values: float32 [look-backward layers, G, block, inner].
        next_held: float32 [look-ahead layers, G, hold, block, hidden].

    Args:
        weights: the checkpoint's part below `PREFIX`.
        config: the DiT's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.

    Raises:
        CheckpointError: blocks do not hold whole codec tokens, or no layer looks back.
    """
    _check(config)
    return _Dit(weights, config, precision).build()


def _check(config: DiTConfig) -> None:
    if config.block_size % config.repeats:
        raise CheckpointError(
            f"dit_config.block_size is {config.block_size}; it must be a multiple of repeats ({config.repeats})."
        )
    for name, layers in (
        ("look_backward_layers", config.look_backward_layers),
        ("look_ahead_layers", config.look_ahead_layers),
    ):
        if not layers or min(layers) < 0 or max(layers) >= config.num_layers:
            raise CheckpointError(
                f"dit_config.{name} is {list(layers)}; it must name layers below {config.num_layers}."
            )


@dataclass(frozen=True)
class GatedDelta:
    """A sum that the next norm computes: gate * delta is still to be added to the values."""

    delta: str
    gate: str


class _Dit:
    """The `dit` graph under construction."""

    def __init__(self, weights: Scope, config: DiTConfig, precision: Precision) -> None:
        self.weights = weights
        self.config = config
        self.g = GraphBuilder(ROLE, formats(ROLE, precision))
        self.inner = config.num_heads * config.head_dim
        self.backward = sorted(set(config.look_backward_layers))
        self.ahead = sorted(set(config.look_ahead_layers))
        self.keys: list[str] = []
        self.values: list[str] = []
        self.held: list[str] = []

    def build(self) -> GraphBuilder:
        g, c = self.g, self.config
        cached = len(self.backward)
        mel = g.input("mel", ["rows", "frames", c.mel_dim])
        codec = g.input("codec", ["rows", "codecs"], "int64")
        speaker = g.input("speaker", ["rows", c.hidden_size])
        modulation = g.input("modulation", [c.num_layers, MODULATIONS, c.hidden_size])
        final = g.input("final_modulation", [FINAL_MODULATIONS, c.hidden_size])
        for name in ("left_keys", "left_values"):
            g.input(name, [cached, "rows", c.block_size, self.inner])
        g.input("left_valid", [1], "bool")
        g.input("held", [len(self.ahead), "rows", "held_blocks", c.block_size, c.hidden_size])
        for name in ("frames", "hold", "keep"):
            g.input(name, [1], "int64")

        self.rows = g.op("Shape", [mel], "/rows", start=0, end=1)
        self._rotary_tables()
        length = g.op("Shape", [mel], "/length", start=1, end=2)
        self.blocks = Blocks.from_input(g, self.rows, c.block_size, length, "frames", "left_valid")
        x = self._embed(mel, codec, speaker)
        rows = self._rows(modulation, c.num_layers * MODULATIONS, "/modulation")
        added: GatedDelta | None = None
        for layer in range(c.num_layers):
            x, added = self._layer(x, added, rows[layer * MODULATIONS :], layer)
        scale, shift = self._rows(final, FINAL_MODULATIONS, "/final_modulation")
        _, x = self._norm(x, added, scale, shift, "/norm_out")
        out = self.weights.scope("proj_out")
        x = g.linear(x, out("weight", (c.mel_dim, c.hidden_size)), "/proj_out", "output", bias=out("bias"))
        shape = g.op("Concat", [self.rows, g.const([-1, c.mel_dim])], "/velocity/shape", axis=0)
        g.output(g.op("Reshape", [x, shape], "/velocity"), "velocity", ["rows", "velocities", c.mel_dim])
        for name, blocks in (("keys", self.keys), ("values", self.values)):
            g.output(g.op("Concat", blocks, f"/{name}", axis=0), name, [cached, "rows", c.block_size, self.inner])
        held = g.op("Concat", self.held, "/held", axis=0)
        g.output(held, "next_held", [len(self.ahead), "rows", "next_held_blocks", c.block_size, c.hidden_size])
        return g

    # -- the edges of the network --------------------------------------------------------------------------------

    def _embed(self, mel: str, codec: str, speaker: str) -> str:
        """The first layer's input [G * blocks, block, hidden]; the codec's share is computed once per token."""
        g, c = self.g, self.config
        project = self.weights.scope("input_embed.proj")("weight")
        codec_start = c.mel_dim + c.enc_dim

        def columns(start: int, size: int) -> LazyTensor:
            return project.map(lambda w: np.ascontiguousarray(w[:, start : start + size]), (project.shape[0], size))

        embedding = self.weights("text_embed.codec_embed.weight", (c.num_embeds + 1, c.emb_dim))
        code = g.embedding(codec, embedding, "/codec/embed", "input")
        code = g.linear(code, columns(codec_start, c.emb_dim), "/codec/proj", "input")
        constant = g.op("Unsqueeze", [speaker, g.const([1])], "/codec/speaker")
        code = g.op("Add", [code, constant], "/codec")
        code = g.op("Unsqueeze", [code, g.const([2])], "/codec/column")
        x = g.linear(mel, columns(0, c.mel_dim), "/mel/proj", "input")
        shape = g.op("Concat", [self.rows, g.const([-1, c.repeats, c.hidden_size])], "/mel/per_codec/shape", axis=0)
        x = g.op("Reshape", [x, shape], "/mel/per_codec")
        x = g.op("Add", [x, code], "/embed")
        return g.op("Reshape", [x, g.const([-1, c.block_size, c.hidden_size])], "/embed/blocks")

    def _rotary_tables(self) -> None:
        """Makes cos and sin for the positions of three blocks, the widest window."""
        c = self.config
        frequencies = c.rope_theta ** (-np.arange(0, c.head_dim, 2, dtype=np.float64) / c.head_dim)
        angles = np.arange(3 * c.block_size)[:, None] * frequencies
        self.cos = self.g.const(np.cos(angles).astype(np.float32), "/rotary/cos")
        self.sin = self.g.const(np.sin(angles).astype(np.float32), "/rotary/sin")

    # -- a layer -------------------------------------------------------------------------------------------------

    def _rows(self, table: str, count: int, name: str) -> list[str]:
        """The `count` rows of a table [..., hidden], each [1, hidden]."""
        flat = self.g.op("Reshape", [table, self.g.const([-1, self.config.hidden_size])], name)
        rows = [f"{name}/{index}" for index in range(count)]
        self.g.op("Split", [flat], name, outputs=rows, axis=0, num_outputs=count)
        return rows

    def _norm(self, x: str, added: GatedDelta | None, scale: str, shift: str, name: str) -> tuple[str, str]:
        """The sum of `x` and `added`, and its norm."""
        if added:
            inputs = [x, added.delta, added.gate, scale, shift]
            x, normed = self.g.call(gated_norm(), inputs, name, epsilon=_NORM_EPSILON)
            return x, normed
        return x, self.g.op("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=_NORM_EPSILON)

    def _layer(self, x: str, added: GatedDelta | None, modulation: list[str], layer: int) -> tuple[str, GatedDelta]:
        """One layer (reference: `DiTDecoderLayer`).

        Args:
            x: [G * blocks, block, hidden].
            added: the sum that the previous layer left to this one.
            modulation: rows, this layer's first.
            layer: its index.

        Returns:
            x, and the sum that is left to the next layer.
        """
        g = self.g
        name = f"/layers.{layer}"
        weights = self.weights.scope(f"transformer_blocks.{layer}")
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation[:MODULATIONS]
        if layer in self.ahead:
            x, added = self._join(x, added, self.ahead.index(layer), f"{name}/held"), None
        x, normed = self._norm(x, added, scale, shift, f"{name}/attn_norm")
        attended = self._attention(normed, weights.scope("attn"), layer, f"{name}/attn")
        if layer in self.ahead:
            x = self.blocks.advance(x, self.config.hidden_size, f"{name}/going")
            self.blocks = self.blocks.after_layer()
        x, normed = self._norm(x, GatedDelta(attended, gate), mlp_scale, mlp_shift, f"{name}/ff_norm")
        feed = weights.scope("ff.ff")
        y = self._linear(normed, [feed.scope("0")], f"{name}/ff.0")
        (y,) = g.call(gelu_tanh(), [y], f"{name}/ff")
        return x, GatedDelta(self._linear(y, [feed.scope("3")], f"{name}/ff.3"), mlp_gate)

    def _join(self, x: str, added: GatedDelta | None, index: int, name: str) -> str:
        """The held blocks of look-ahead layer number `index`, followed by the blocks of `x` + `added`."""
        g, width = self.g, self.config.hidden_size
        if added:
            x = g.op("Add", [x, g.op("Mul", [added.delta, added.gate], f"{name}/gate")], f"{name}/sum")
        # The layer's input is held. Q, K and V of this block are computed again, 2 % of an evaluation: holding them
        # would need four times the memory.
        held = g.op("Gather", ["held", g.const(index)], name, axis=0)
        blocks = self.blocks.with_held(held, "hold", name)
        both = g.op("Concat", [held, self.blocks.split(x, width, f"{name}/new")], f"{name}/joined", axis=1)
        self.blocks = blocks
        x = blocks.merged(both, width, f"{name}/blocks")
        self.held.append(g.op("Unsqueeze", [blocks.held(x, width, f"{name}/next"), g.const([0])], f"{name}/next/layer"))
        return x

    def _linear(self, x: str, layers: list[Scope], name: str) -> str:
        """Linear layers on the same input, as one; their outputs are side by side."""
        weight, bias = (LazyTensor.stack([layer(part) for layer in layers]) for part in ("weight", "bias"))
        return self.g.linear(x, weight, name, "layers", bias=bias)

    def _attention(self, x: str, weights: Scope, layer: int, name: str) -> str:
        """Attention on [G * blocks, block, hidden] (reference: `DiTAttention`)."""
        g, c = self.g, self.config
        window = tuple(
            offset
            for offset, sees in (
                (-1, layer in self.backward),
                (0, True),
                (1, layer in self.ahead),
            )
            if sees
        )
        qkv = self._linear(x, [weights.scope(part) for part in ("to_q", "to_k", "to_v")], f"{name}/qkv")
        sizes = {"num_heads": c.num_heads, "rotary_embedding_dim": c.head_dim}
        shared = [self.cos, self.sin, self.blocks.bias(window)]
        if window == (0,):
            (attended,) = g.call(block_attention(), [qkv, *shared], name, **sizes)
        else:
            query, key, value = (f"{name}/{part}" for part in ("query", "key", "value"))
            g.op("Split", [qkv], name, outputs=[query, key, value], axis=-1, num_outputs=3)
            cache = self.backward.index(layer) if -1 in window else None
            query = self.blocks.advance(query, self.inner, f"{name}/query")
            key = self._windows(key, window, cache, "left_keys", self.keys, f"{name}/keys")
            value = self._windows(value, window, cache, "left_values", self.values, f"{name}/values")
            # Positions count from the window's first block.
            place = g.const([window.index(0) * c.block_size])
            (attended,) = g.call(window_attention(), [query, key, value, place, *shared], name, **sizes)
        return self._linear(attended, [weights.scope("to_out.0")], f"{name}/out")

    def _windows(
        self, x: str, window: tuple[int, ...], cache: int | None, left: str, kept: list[str], name: str
    ) -> str:
        """See `Blocks.windows`. `cache` is this layer's row of `left`; the block that a later run looks back to goes to
        `kept`.
        """
        g = self.g
        if cache is None:
            return self.blocks.windows(x, window, self.inner, None, name)
        advancing = self.blocks.advance(x, self.inner, f"{name}/going")
        last = g.op(
            "Gather", [self.blocks.split(advancing, self.inner, f"{name}/split"), "keep"], f"{name}/keep", axis=1
        )
        kept.append(g.op("Transpose", [last], f"{name}/kept", perm=[1, 0, 2, 3]))
        row = g.op("Gather", [left, g.const(cache)], f"{name}/row", axis=0)
        return self.blocks.windows(x, window, self.inner, row, name)
