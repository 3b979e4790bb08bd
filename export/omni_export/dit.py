"""token2wav's first half: the flow-matching DiT, codec tokens to mel (reference: `Qwen2_5OmniToken2WavDiTModel`).

The graph is one evaluation of the velocity. What depends on time alone comes from another graph, see `dit_time`.

Attention never leaves a block except in the look-backward and look-ahead layers, so all of it runs block by block, as
a batch: a query sees at most the previous, its own and the next block. Positions count from the first of these: rotary
embedding is relative, and an utterance may be of any length.
"""

from __future__ import annotations

import numpy as np

from omni_edge.errors import CheckpointError
from omni_edge.manifest import Token2WavSection
from omni_export.bigvgan import Reach, samples_per_frame
from omni_export.checkpoint import Scope
from omni_export.config import BigVGANConfig, DiTConfig
from omni_export.dit_time import FINAL_MODULATIONS, MODULATIONS
from omni_export.graph import CONTRIB, GraphBuilder, Precision
from omni_export.lazy import LazyTensor

PREFIX = "token2wav.code2wav_dit_model"

# Constants of the reference's code that its config does not carry.
SAMPLE_RATE = 24_000
_NORM_EPSILON = 1e-6
_MASKED = -1e9
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
        cached_layers=len(dit.look_backward_layers),
        attention_size=dit.num_heads * dit.head_dim,
        codec_limit=dit.num_embeds + 1,
        reach_frames=reach.frames,
        reach_samples=reach.levels,
    )


def build(weights: Scope, config: DiTConfig, precision: Precision) -> GraphBuilder:
    """One evaluation of the velocity over a window of whole blocks, for G rows of guidance.

    Inputs:
        mel: float32 [G, T, mel], the noised mel; T is a multiple of the block.
        codec: int64 [G, T / repeats]; the unconditional row is all 0.
        speaker: float32 [G, hidden], rows of the speakers file.
        modulation, final_modulation: of this time point, float32 [layers, 6, hidden] and [2, hidden].
        left_keys, left_values: float32 [cached layers, G, block, inner], of the block before the window.
        left_valid: bool [1]; False at the start of the utterance.
        frames: int64 [1], how many of the T frames exist; the rest fills the last block up.
        keep: int64 [1], the block of the window whose keys and values come out.

    Outputs: velocity float32 [G, T, mel]; keys, values float32 [cached layers, G, block, inner].

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
        self.keys: list[str] = []
        self.values: list[str] = []

    def build(self) -> GraphBuilder:
        g, c = self.g, self.config
        cached = len(c.look_backward_layers)
        mel = g.input("mel", ["rows", "frames", c.mel_dim])
        codec = g.input("codec", ["rows", "codecs"], "int64")
        speaker = g.input("speaker", ["rows", c.hidden_size])
        modulation = g.input("modulation", [c.num_layers, MODULATIONS, c.hidden_size])
        final = g.input("final_modulation", [FINAL_MODULATIONS, c.hidden_size])
        for name in ("left_keys", "left_values"):
            g.input(name, [cached, "rows", c.block_size, self.inner])
        g.input("left_valid", [1], "bool")
        g.input("frames", [1], "int64")
        g.input("keep", [1], "int64")

        self.rows = g.op("Shape", [mel], "/rows", start=0, end=1)
        self._rotary_tables()
        self._biases()
        x = self._embed(mel, codec, speaker)
        table = g.op("Reshape", [modulation, g.const([-1, c.hidden_size])], "/modulation")
        delta = ""
        for layer in range(c.num_layers):
            x, delta = self._layer(x, delta, table, layer)
        scale, shift = (self._row(final, index, f"/norm_out/{index}") for index in range(FINAL_MODULATIONS))
        x, _ = self._norm(x, delta, scale, shift, "/norm_out")
        out = self.weights.scope("proj_out")
        x = g.linear(x, out("weight", (c.mel_dim, c.hidden_size)), "/proj_out", bias=out("bias"), precision=_FLOAT32)
        g.output(self._rows_of(x, c.mel_dim, "/velocity"), "velocity", ["rows", "frames", c.mel_dim])
        for name, blocks in (("keys", self.keys), ("values", self.values)):
            g.output(g.op("Concat", blocks, f"/{name}", axis=0), name, [cached, "rows", c.block_size, self.inner])
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

    def _rows_of(self, x: str, width: int, name: str) -> str:
        """[G * blocks, block, width] -> [G, T, width]."""
        shape = self.g.op("Concat", [self.rows, self.g.const([-1, width])], f"{name}/shape", axis=0)
        return self.g.op("Reshape", [x, shape], name)

    def _rotary_tables(self) -> None:
        """cos and sin for the positions of three blocks, the widest window."""
        c = self.config
        frequencies = c.rope_theta ** (-np.arange(0, c.head_dim, 2, dtype=np.float64) / c.head_dim)
        angles = np.arange(3 * c.block_size)[:, None] * frequencies
        self.cos = self.g.const(np.cos(angles).astype(np.float32), "/rotary/cos")
        self.sin = self.g.const(np.sin(angles).astype(np.float32), "/rotary/sin")

    def _biases(self) -> None:
        """What is added to the scores [G * blocks, 1, block, keys] of (previous,) own (and next) block."""
        g, c = self.g, self.config
        length = g.op("Shape", ["mel"], "/bias/length", start=1, end=2)
        scalar = g.op("Squeeze", [length], "/bias/scalar")
        frame = g.op("Range", [g.const(0), scalar, g.const(1)], "/bias/frame")
        exists = g.op("Less", [frame, "frames"], "/bias/exists")
        zero, masked = g.const(0.0), g.const(_MASKED)
        own = g.op("Where", [exists, zero, masked], "/bias/own")
        own = g.op("Reshape", [own, g.const([-1, c.block_size])], "/bias/own/blocks")
        left = g.op("Where", ["left_valid", zero, masked], "/bias/left")
        left = g.op("Expand", [left, g.const([1, c.block_size])], "/bias/left/block")
        none = g.const(np.full((1, c.block_size), _MASKED, np.float32), "/bias/none")
        end = g.const([np.iinfo(np.int64).max])
        earlier = g.op("Slice", [own, g.const([0]), g.const([-1]), g.const([0])], "/bias/earlier")
        later = g.op("Slice", [own, g.const([1]), end, g.const([0])], "/bias/later")
        self._parts = {
            -1: g.op("Concat", [left, earlier], "/bias/previous", axis=0),
            0: own,
            1: g.op("Concat", [later, none], "/bias/next", axis=0),
        }
        self._bias_of: dict[tuple[int, ...], str] = {}

    def _bias(self, window: tuple[int, ...]) -> str:
        g, c = self.g, self.config
        if window not in self._bias_of:
            name = "/bias/" + "_".join(str(offset) for offset in window)
            keys = g.op("Concat", [self._parts[offset] for offset in window], f"{name}/keys", axis=1)
            keys = g.op("Unsqueeze", [keys, g.const([0, 2])], f"{name}/broadcast")
            shape = g.op("Concat", [self.rows, g.const([1, c.block_size, 1])], f"{name}/shape", axis=0)
            keys = g.op("Expand", [keys, shape], f"{name}/rows")
            shape = g.const([-1, 1, c.block_size, c.block_size * len(window)])
            self._bias_of[window] = g.op("Reshape", [keys, shape], name)
        return self._bias_of[window]

    # -- a layer -------------------------------------------------------------------------------------------------

    def _row(self, table: str, index: int, name: str) -> str:
        return self.g.op("Gather", [table, self.g.const(index)], name, axis=0)

    def _norm(self, x: str, delta: str, scale: str, shift: str, name: str) -> tuple[str, str]:
        """(norm(x + delta) * scale + shift, x + delta)."""
        # Not SkipLayerNormalization, which does both in one: measured, that kernel takes nine times as long.
        if delta:
            x = self.g.op("Add", [x, delta], f"{name}/sum")
        return self.g.op("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=_NORM_EPSILON), x

    def _layer(self, x: str, delta: str, table: str, layer: int) -> tuple[str, str]:
        """Reference: `DiTDecoderLayer`. Returns (x, what is still to be added to it)."""
        g = self.g
        name = f"/layers.{layer}"
        weights = self.weights.scope(f"transformer_blocks.{layer}")
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (
            self._row(table, layer * MODULATIONS + index, f"{name}/modulation.{index}") for index in range(MODULATIONS)
        )
        normed, x = self._norm(x, delta, scale, shift, f"{name}/attn_norm")
        attended = self._attention(normed, weights.scope("attn"), layer, f"{name}/attn")
        delta = g.op("Mul", [attended, gate], f"{name}/attn/gate")
        normed, x = self._norm(x, delta, mlp_scale, mlp_shift, f"{name}/ff_norm")
        y = self._linears(normed, weights.scope("ff.ff"), ("0",), f"{name}/ff")[0]
        y = g.op("Gelu", [y], f"{name}/ff/gelu", approximate="tanh")
        y = self._linears(y, weights.scope("ff.ff"), ("3",), f"{name}/ff")[0]
        return x, g.op("Mul", [y, mlp_gate], f"{name}/ff/gate")

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
                (-1, layer in c.look_backward_layers),
                (0, True),
                (1, layer in c.look_ahead_layers),
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
        if len(window) > 1:
            cache = c.look_backward_layers.index(layer) if -1 in window else None
            key = self._neighbours(keys, cache, "left_keys", self.keys, f"{name}/keys")
            value = self._neighbours(dict.fromkeys(window, value), cache, "left_values", self.values, f"{name}/values")
        else:
            key = keys[0]
        attended = g.op(
            "MultiHeadAttention",
            [query, key, value, "", "", self._bias(window)],
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

    def _neighbours(self, blocks: dict[int, str], cache: int | None, left: str, kept: list[str], name: str) -> str:
        """Puts previous and next blocks beside each block: [G * blocks, window * block, inner].

        `blocks` holds, for each offset of the window, the tensor to take from. `cache` is this layer's row of the
        left context; the block that the next window will look back to goes to `kept`.
        """
        g, c = self.g, self.config
        shape = g.op("Concat", [self.rows, g.const([-1, c.block_size, self.inner])], f"{name}/shape", axis=0)
        end = g.const([np.iinfo(np.int64).max])
        parts = []
        for offset, tensor in blocks.items():
            x = g.op("Reshape", [tensor, shape], f"{name}/{offset}")
            if offset < 0:
                assert cache is not None
                row = g.op("Gather", [left, g.const(cache)], f"{name}/left", axis=0)
                row = g.op("Unsqueeze", [row, g.const([1])], f"{name}/left/block")
                kept_block = g.op("Gather", [x, "keep"], f"{name}/keep", axis=1)
                kept.append(g.op("Transpose", [kept_block], f"{name}/kept", perm=[1, 0, 2, 3]))
                x = g.op("Slice", [x, g.const([0]), g.const([-1]), g.const([1])], f"{name}/earlier")
                x = g.op("Concat", [row, x], f"{name}/previous", axis=1)
            elif offset > 0:
                # The block after the last one is masked; any finite values will do.
                first = g.op("Slice", [x, g.const([0]), g.const([1]), g.const([1])], f"{name}/first")
                x = g.op("Slice", [x, g.const([1]), end, g.const([1])], f"{name}/later")
                x = g.op("Concat", [x, first], f"{name}/next", axis=1)
            parts.append(x)
        x = g.op("Concat", parts, f"{name}/window", axis=2)
        return g.op("Reshape", [x, g.const([-1, c.block_size * len(parts), self.inner])], name)
