"""token2wav's first half: the flow-matching DiT, codec tokens to mel (reference: `Qwen2_5OmniToken2WavDiTModel`).

The graph is one evaluation of the velocity. What depends on time alone comes from another graph, see `dit_time`.

Blocks are a batch, see `dit_blocks`; several runs may follow each other along an utterance, and each block passes each
layer once. Positions count from the first block that a query sees: rotary embedding is relative, and an utterance may
be of any length.
"""

from __future__ import annotations

import numpy as np

from omni_edge.errors import CheckpointError
from omni_edge.manifest import Token2WavSection
from omni_export.bigvgan import Reach, samples_per_frame
from omni_export.checkpoint import Scope
from omni_export.config import BigVGANConfig, DiTConfig
from omni_export.dit_blocks import Blocks
from omni_export.dit_time import FINAL_MODULATIONS, MODULATIONS
from omni_export.function import CONTRIB
from omni_export.graph import GraphBuilder, Precision
from omni_export.lazy import LazyTensor

PREFIX = "token2wav.code2wav_dit_model"

# Constants of the reference's code that its config does not carry.
SAMPLE_RATE = 24_000
_NORM_EPSILON = 1e-6
_FLOAT32 = Precision("fp32")


def section(dit: DiTConfig, bigvgan: BigVGANConfig) -> Token2WavSection:
    """What the manifest says of the vocoder."""
    reach = Reach.of(bigvgan)
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
    """One evaluation of the velocity over whole blocks, for G rows of guidance.

    B blocks come in. A block passes a look-ahead layer together with the next one, so each such layer can hold the last
    block back (`hold` 1) and go on with it in the next run, as one of H = 1 `held` blocks; at the start of an utterance
    H is 0. Where nothing follows, `hold` is 0. The velocity of V = B + (H - hold) * look-ahead layers comes out.

    Inputs:
        mel: float32 [G, B * block, mel], the noised mel.
        codec: int64 [G, B * block / repeats]; the unconditional row is all 0.
        speaker: float32 [G, hidden], rows of the speakers file.
        modulation, final_modulation: of this time point, float32 [layers, 6, hidden] and [2, hidden].
        left_keys, left_values: float32 [look-backward layers, G, block, inner], of the block before, in each layer.
        left_valid: bool [1]; False at the start of the utterance.
        held: float32 [look-ahead layers, G, H, block, hidden].
        frames: int64 [1], how many of the B * block frames exist; the rest fills the last block up.
        hold: int64 [1], blocks that each look-ahead layer holds back, 0 or 1; V must not be 0.
        keep: int64 [1], the block whose keys and values come out, counted from each layer's end: -1 is the last one.

    Outputs: velocity float32 [G, V * block, mel]; keys, values float32 [look-backward layers, G, block, inner];
        next_held float32 [look-ahead layers, G, hold, block, hidden].

    Precision: INT4 becomes INT8 (per channel, activations quantized as they come); the first and last layer and all
    that is not a matrix stay in float32.

    Raises:
        CheckpointError: blocks do not hold whole codec tokens, or no layer looks back.
    """
    _check(config)
    return _Dit(weights, config, precision if precision.kind == "fp32" else Precision("int8")).build()


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


class _Dit:
    """The `dit` graph under construction."""

    def __init__(self, weights: Scope, config: DiTConfig, precision: Precision) -> None:
        self.weights = weights
        self.config = config
        self.g = GraphBuilder("dit", precision)
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
        self.blocks = Blocks.entering(g, self.rows, c.block_size, length, "frames", "left_valid")
        x = self._embed(mel, codec, speaker)
        table = g.op("Reshape", [modulation, g.const([-1, c.hidden_size])], "/modulation")
        delta = ""
        for layer in range(c.num_layers):
            x, delta = self._layer(x, delta, table, layer)
        scale, shift = (self._row(final, index, f"/norm_out/{index}") for index in range(FINAL_MODULATIONS))
        x = self._norm(self._sum(x, delta, "/norm_out"), scale, shift, "/norm_out")
        out = self.weights.scope("proj_out")
        x = g.linear(x, out("weight", (c.mel_dim, c.hidden_size)), "/proj_out", bias=out("bias"), precision=_FLOAT32)
        shape = g.op("Concat", [self.rows, g.const([-1, c.mel_dim])], "/velocity/shape", axis=0)
        g.output(g.op("Reshape", [x, shape], "/velocity"), "velocity", ["rows", "velocities", c.mel_dim])
        for name, blocks in (("keys", self.keys), ("values", self.values)):
            g.output(g.op("Concat", blocks, f"/{name}", axis=0), name, [cached, "rows", c.block_size, self.inner])
        held = g.op("Concat", self.held, "/held", axis=0)
        g.output(held, "next_held", [len(self.ahead), "rows", "next_held_blocks", c.block_size, c.hidden_size])
        return g

    # -- the edges of the network --------------------------------------------------------------------------------

    def _embed(self, mel: str, codec: str, speaker: str) -> str:
        """[G * blocks, block, hidden]; the codec's share is computed once per codec token, not per frame."""
        g, c = self.g, self.config
        project = self.weights.scope("input_embed.proj")("weight")
        codec_start = c.mel_dim + c.enc_dim

        def columns(start: int, size: int) -> LazyTensor:
            return project.map(lambda w: np.ascontiguousarray(w[:, start : start + size]), (project.shape[0], size))

        embedding = self.weights("text_embed.codec_embed.weight", (c.num_embeds + 1, c.emb_dim))
        code = g.embedding(codec, embedding, "/codec/embed", _FLOAT32)
        code = g.linear(code, columns(codec_start, c.emb_dim), "/codec/proj", precision=_FLOAT32)
        constant = g.op("Unsqueeze", [speaker, g.const([1])], "/codec/speaker")
        code = g.op("Add", [code, constant], "/codec")
        code = g.op("Unsqueeze", [code, g.const([2])], "/codec/column")
        x = g.linear(mel, columns(0, c.mel_dim), "/mel/proj", precision=_FLOAT32)
        shape = g.op("Concat", [self.rows, g.const([-1, c.repeats, c.hidden_size])], "/mel/per_codec/shape", axis=0)
        x = g.op("Reshape", [x, shape], "/mel/per_codec")
        x = g.op("Add", [x, code], "/embed")
        return g.op("Reshape", [x, g.const([-1, c.block_size, c.hidden_size])], "/embed/blocks")

    def _rotary_tables(self) -> None:
        """cos and sin for the positions of three blocks, the widest window."""
        c = self.config
        frequencies = c.rope_theta ** (-np.arange(0, c.head_dim, 2, dtype=np.float64) / c.head_dim)
        angles = np.arange(3 * c.block_size)[:, None] * frequencies
        self.cos = self.g.const(np.cos(angles).astype(np.float32), "/rotary/cos")
        self.sin = self.g.const(np.sin(angles).astype(np.float32), "/rotary/sin")

    # -- a layer -------------------------------------------------------------------------------------------------

    def _row(self, table: str, index: int, name: str) -> str:
        return self.g.op("Gather", [table, self.g.const(index)], name, axis=0)

    def _sum(self, x: str, delta: str, name: str) -> str:
        """What a layer has left to be added, added."""
        # Not SkipLayerNormalization, which does both in one: measured, that kernel takes nine times as long.
        return self.g.op("Add", [x, delta], f"{name}/sum") if delta else x

    def _norm(self, x: str, scale: str, shift: str, name: str) -> str:
        return self.g.op("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=_NORM_EPSILON)

    def _layer(self, x: str, delta: str, table: str, layer: int) -> tuple[str, str]:
        """Reference: `DiTDecoderLayer`. Returns (x, what is still to be added to it)."""
        g = self.g
        name = f"/layers.{layer}"
        weights = self.weights.scope(f"transformer_blocks.{layer}")
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (
            self._row(table, layer * MODULATIONS + index, f"{name}/modulation.{index}") for index in range(MODULATIONS)
        )
        x = self._sum(x, delta, f"{name}/attn_norm")
        if layer in self.ahead:
            x = self._join(x, self.ahead.index(layer), f"{name}/held")
        normed = self._norm(x, scale, shift, f"{name}/attn_norm")
        attended = self._attention(normed, weights.scope("attn"), layer, f"{name}/attn")
        if layer in self.ahead:
            x = self.blocks.going(x, self.config.hidden_size, f"{name}/going")
            self.blocks = self.blocks.beyond()
        x = self._sum(x, g.op("Mul", [attended, gate], f"{name}/attn/gate"), f"{name}/ff_norm")
        normed = self._norm(x, mlp_scale, mlp_shift, f"{name}/ff_norm")
        y = self._linears(normed, weights.scope("ff.ff"), ("0",), f"{name}/ff")[0]
        y = g.op("Gelu", [y], f"{name}/ff/gelu", approximate="tanh")
        y = self._linears(y, weights.scope("ff.ff"), ("3",), f"{name}/ff")[0]
        return x, g.op("Mul", [y, mlp_gate], f"{name}/ff/gate")

    def _join(self, x: str, index: int, name: str) -> str:
        """The blocks that look-ahead layer number `index` has held back, then those of `x`."""
        g, width = self.g, self.config.hidden_size
        # What enters the layer is held, not what it made of it: its Q, K and V are computed once more for this block,
        # 2 % of an evaluation, rather than kept in four times the memory.
        held = g.op("Gather", ["held", g.const(index)], name, axis=0)
        blocks = self.blocks.behind(held, "hold", name)
        both = g.op("Concat", [held, self.blocks.split(x, width, f"{name}/new")], f"{name}/joined", axis=1)
        self.blocks = blocks
        x = blocks.merged(both, width, f"{name}/blocks")
        self.held.append(g.op("Unsqueeze", [blocks.held(x, width, f"{name}/next"), g.const([0])], f"{name}/next/layer"))
        return x

    def _linears(self, x: str, weights: Scope, parts: tuple[str, ...], name: str) -> list[str]:
        """Linear layers on the same input, which INT8 quantizes once."""
        g = self.g
        if g.precision.kind == "fp32":
            return [
                g.linear(x, weights(f"{part}.weight"), f"{name}/{part}", bias=weights(f"{part}.bias")) for part in parts
            ]
        quantized = g.quantize_input(x, f"{name}/{'_'.join(parts)}/input")
        return [
            g.dynamic_linear(quantized, weights(f"{part}.weight"), f"{name}/{part}", bias=weights(f"{part}.bias"))
            for part in parts
        ]

    def _attention(self, x: str, weights: Scope, layer: int, name: str) -> str:
        """Reference: `DiTAttention`, on [G * blocks, block, hidden]."""
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
        query, key, value = self._linears(x, weights, ("to_q", "to_k", "to_v"), name)
        # A window's first block stands at position 0, so the same key has another angle as its own block's than as
        # its neighbour's.
        keys = {
            offset: self._rotary(key, place * c.block_size, f"{name}/rotary/key.{place}")
            for place, offset in enumerate(window)
        }
        query = self._rotary(query, window.index(0) * c.block_size, f"{name}/rotary/query")
        query = self.blocks.going(query, self.inner, f"{name}/query")
        if len(window) > 1:
            cache = self.backward.index(layer) if -1 in window else None
            key = self._windows(keys, cache, "left_keys", self.keys, f"{name}/keys")
            value = self._windows(dict.fromkeys(window, value), cache, "left_values", self.values, f"{name}/values")
        else:
            key = keys[0]
        attended = g.op(
            "MultiHeadAttention",
            [query, key, value, "", "", self.blocks.bias(window)],
            f"{name}/heads",
            domain=CONTRIB,
            num_heads=c.num_heads,
        )
        return self._linears(attended, weights, ("to_out.0",), name)[0]

    def _rotary(self, x: str, offset: int, name: str) -> str:
        """Rotates head 0 alone: one wide "head" whose first `head_dim` values turn."""
        return self.g.op(
            "RotaryEmbedding",
            [x, self.g.const([offset]), self.cos, self.sin],
            name,
            domain=CONTRIB,
            interleaved=1,
            num_heads=1,
            rotary_embedding_dim=self.config.head_dim,
        )

    def _windows(self, x: dict[int, str], cache: int | None, left: str, kept: list[str], name: str) -> str:
        """See `Blocks.windows`. `cache` is this layer's row of `left`; the block that a later run looks back to goes to
        `kept`.
        """
        g = self.g
        if cache is None:
            return self.blocks.windows(x, self.inner, None, name)
        going = self.blocks.going(x[-1], self.inner, f"{name}/going")
        last = g.op("Gather", [self.blocks.split(going, self.inner, f"{name}/split"), "keep"], f"{name}/keep", axis=1)
        kept.append(g.op("Transpose", [last], f"{name}/kept", perm=[1, 0, 2, 3]))
        row = g.op("Gather", [left, g.const(cache)], f"{name}/row", axis=0)
        return self.blocks.windows(x, self.inner, row, name)
