"""A decoder as static graphs, for an NPU: the same weights, in the data file of the decoder's own graph.

An NPU's compiler wants every shape fixed, and standard operators. So there are graphs for two lengths, each of them in
parts of a few layers, over a cache of one fixed size:

- cos, sin and the mask of the scores are inputs, so the graph needs no positions;
- keys and values of the past are inputs, and only those of the new positions are outputs: the caller puts them into the
  cache, which so never leaves its memory;
- the output head is a graph of its own, for one position.

How such graphs are shaped: qai-hub-models (its Llama and Qwen exports).
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_edge.bundle.manifest import StaticDecoder
from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import DecoderConfig, TalkerConfig
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.function import CONTRIB
from omni_export.models import decoder
from omni_export.models.decoder_weights import DecoderWeights
from omni_export.models.layer_nodes import layer_nodes

# Positions of a piece of a prompt.
PREFILL = 128
# A compiled part of the 3B with so many layers has 0.6 GB, and its compiler takes 3.4 GB.
PART_LAYERS = 12


@dataclass(frozen=True)
class StaticGraphs:
    """All static graphs of one decoder.

    Attributes:
        entry: their description in the manifest.
        builders: of every graph; a builder's name is its file's.
    """

    entry: StaticDecoder
    builders: list[GraphBuilder]


def static_thinker(graph: GraphBuilder, weights: Scope, config: DecoderConfig, context: int) -> StaticGraphs:
    """The Thinker's static graphs.

    Args:
        graph: the builder of the Thinker's own graph; its weights are shared.
        weights: the checkpoint's part below `thinker`.
        config: the decoder's sizes.
        context: positions of the cache.
    """
    head = GraphBuilder(f"{graph.name}.head", weights_of=graph)
    _head(head, decoder.thinker_head(weights, config), decoder.THINKER_HEAD)
    return _graphs(graph, weights, config, context, head)


def static_talker(graph: GraphBuilder, weights: Scope, config: TalkerConfig, context: int) -> StaticGraphs:
    """The Talker's static graphs.

    What enters its first layer comes from a graph for any number of positions: no NPU takes rows of a quantized table.

    Args:
        graph: the builder of the Talker's own graph; its weights are shared.
        weights: the checkpoint's part below `talker`.
        config: the Talker's sizes.
        context: positions of the cache.
    """
    front, head = (GraphBuilder(f"{graph.name}.{name}", weights_of=graph) for name in ("input", "head"))
    front.output(decoder.talker_input(front, weights, config), "x", [1, "S", config.decoder.hidden_size])
    _head(head, decoder.talker_head(weights, config.decoder), decoder.TALKER_HEAD)
    return _graphs(graph, weights, config.decoder, context, head, front)


def _head(graph: GraphBuilder, head: LazyTensor, path: str) -> None:
    x = graph.input("x", [1, 1, head.shape[1]])
    graph.output(graph.linear(x, head, path, "head"), "logits", [1, 1, head.shape[0]])


def _graphs(
    graph: GraphBuilder,
    weights: Scope,
    config: DecoderConfig,
    context: int,
    head: GraphBuilder,
    front: GraphBuilder | None = None,
) -> StaticGraphs:
    count = -(-config.num_layers // PART_LAYERS)
    ends = [config.num_layers * index // count for index in range(count + 1)]
    spans = [range(*ends[index : index + 2]) for index in range(count)]
    stored = DecoderWeights(weights.scope("model"), config)

    def parts(kind: str, length: int) -> list[GraphBuilder]:
        builders = [GraphBuilder(f"{graph.name}.{kind}.{index}", weights_of=graph) for index in range(count)]
        for builder, span in zip(builders, spans, strict=True):
            _Part(builder, stored, length, context).build(span)
        return builders

    prefill, decode = parts("prefill", PREFILL), parts("decode", 1)
    entry = StaticDecoder(
        prefill_positions=PREFILL,
        part_layers=tuple(map(len, spans)),
        prefill=tuple(_file(builder) for builder in prefill),
        decode=tuple(_file(builder) for builder in decode),
        head=_file(head),
        input=_file(front) if front else None,
    )
    return StaticGraphs(entry, [*([front] if front else []), *prefill, *decode, head])


def _file(builder: GraphBuilder) -> str:
    return f"{builder.name}.onnx"


class _Part:
    """Consecutive layers over a fixed number of positions.

    Inputs:
        x: float32 [1, S, hidden].
        cos, sin: float32 [S, head_dim / 2], the rotary rows of the positions.
        mask: float32 [S, context + S], added to the scores of past and of new positions.
        past.{i}.key, past.{i}.value: float32 [1, kv_heads, context, head_dim], of layer i, counted from the first.

    Outputs:
        y: float32 [1, S, hidden]; of the last layer, after the final norm.
        new.{i}.key, new.{i}.value: float32 [1, kv_heads, S, head_dim], of the positions; keys are rotated.
    """

    def __init__(self, graph: GraphBuilder, stored: DecoderWeights, length: int, context: int) -> None:
        self.graph, self.stored = graph, stored
        self.length, self.context = length, context
        self.sizes, self.config = stored.sizes, stored.config
        half = self.sizes.head_dim // 2
        self.x = graph.input("x", [1, length, self.sizes.hidden])
        self.cos, self.sin = (graph.input(name, [length, half]) for name in ("cos", "sin"))
        self.mask = graph.input("mask", [length, context + length])

    def build(self, layers: range) -> None:
        graph, config = self.graph, self.config
        x, first = self.x, layers[0]
        norm = self.stored.layer(first - 1).next_norm if first else self.stored.first_norm
        normed = graph.rms_norm(x, norm, f"/layers.{first}/input_norm", config.rms_norm_eps)
        shape = [1, self.sizes.kv_heads, None, self.sizes.head_dim]
        for index in layers:
            path = f"/layers.{index}"
            past = [
                graph.input(f"past.{index}.{kind}", [*shape[:2], self.context, shape[3]]) for kind in ("key", "value")
            ]

            def attention(packed: str, path: str = path, past: list[str] = past) -> list[str]:
                return self._attention(packed, past, f"{path}/attn")

            x, normed, *new = layer_nodes(
                graph,
                path,
                x,
                normed,
                self.stored.layer(index),
                decoder.matrix_parts(index, config),
                decoder.norm_names(index, config),
                self.sizes,
                attention,
            )
            for kind, value in zip(("key", "value"), new, strict=True):
                graph.output(value, f"new.{index}.{kind}", [*shape[:2], self.length, shape[3]])
        last = layers[-1] == config.num_layers - 1
        graph.output(normed if last else x, "y", [1, self.length, self.sizes.hidden])

    def _attention(self, packed: str, past: list[str], path: str) -> list[str]:
        """Packed Q, K and V -> attended values [1, S, heads * head_dim], new keys and values."""
        graph, sizes, length = self.graph, self.sizes, self.length
        heads, kv_heads, width = sizes.heads, sizes.kv_heads, sizes.head_dim
        total, group = self.context + length, heads // kv_heads

        def reshape(x: str, shape: list[int], name: str) -> str:
            return graph.op("Reshape", [x, graph.const(shape)], f"{path}/{name}")

        rows = reshape(packed, [1, length, heads + 2 * kv_heads, width], "rows")
        rows = graph.op("Transpose", [rows], f"{path}/rows", perm=[0, 2, 1, 3])
        rotated, value = self._split(rows, [heads + kv_heads, kv_heads], 1, f"{path}/qkv")
        query, key = self._split(self._rotate(rotated, path), [heads, kv_heads], 1, f"{path}/qk")
        # Scaled before the product, which so stays in the range of float16.
        query = graph.op("Mul", [query, graph.const(sizes.scale)], f"{path}/scale")
        # Heads that share keys are rows of one product.
        query = reshape(query, [1, kv_heads, group * length, width], "query")
        keys, values = (
            graph.op("Concat", [old, new], f"{path}/{kind}", axis=2)
            for kind, old, new in zip(("keys", "values"), past, (key, value), strict=True)
        )
        scores = graph.op("FusedMatMul", [query, keys], f"{path}/scores", domain=CONTRIB, transB=1)
        scores = reshape(scores, [kv_heads, group, length, total], "scores")
        scores = graph.op("Add", [scores, self.mask], f"{path}/mask")
        shares = graph.op("Softmax", [scores], path, axis=-1)
        shares = reshape(shares, [1, kv_heads, group * length, total], "shares")
        attended = graph.op("MatMul", [shares, values], f"{path}/attended")
        attended = reshape(attended, [1, heads, length, width], "attended")
        attended = graph.op("Transpose", [attended], f"{path}/attended", perm=[0, 2, 1, 3])
        return [reshape(attended, [1, length, heads * width], "joined"), key, value]

    def _rotate(self, x: str, path: str) -> str:
        """Rotary embedding of [1, heads, S, head_dim], whose halves hold the pairs."""
        graph, half = self.graph, self.sizes.head_dim // 2
        first, second = self._split(x, [half, half], -1, f"{path}/halves")

        def turned(name: str, combine: str, pairs: tuple[tuple[str, str], tuple[str, str]]) -> str:
            products = [graph.op("Mul", list(pair), f"{path}/{name}/{index}") for index, pair in enumerate(pairs)]
            return graph.op(combine, products, f"{path}/{name}")

        cos, sin = self.cos, self.sin
        turned_halves = [
            turned("first", "Sub", ((first, cos), (second, sin))),
            turned("second", "Add", ((second, cos), (first, sin))),
        ]
        return graph.op("Concat", turned_halves, f"{path}/rotated", axis=-1)

    def _split(self, x: str, lengths: list[int], axis: int, path: str) -> list[str]:
        names = [f"{path}/{index}" for index in range(len(lengths))]
        self.graph.op("Split", [x, self.graph.const(lengths)], path, outputs=names, axis=axis)
        return names
