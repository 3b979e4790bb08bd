"""The order of a graph's nodes: values are used soon after they are computed, so that few are in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import onnx


def ordered(nodes: Sequence[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """`nodes` of a graph with `outputs` in the order in which little memory is in use at a time.

    onnxruntime computes whatever the last node without a successor needs, then what the last but one needs beyond that,
    and so on. So these nodes come last, the first one at the very end: a state that is read off an early layer is then
    read as soon as that layer is computed, instead of keeping its values until everything else is done (BigVGAN over
    119 frames: 0.12 GB instead of 1.8).
    """
    nodes = _without_renaming(nodes, outputs)
    used = {value for node in nodes for value in node.input}
    inner = [node for node in nodes if used.intersection(node.output)]
    ends = [node for node in nodes if not used.intersection(node.output)]
    return inner + ends[::-1]


def briefly_named(nodes: Sequence[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """`nodes` with short names for what only they exchange: BigVGAN's file of thousands of nodes shrinks by a third.

    Nodes, weights, inputs and `outputs` keep their names, which profiles and readers go by.
    """
    inner = (value for node in nodes for value in node.output if value and value not in outputs)
    names = {value: f"v{index}" for index, value in enumerate(inner)}
    return [_renamed(node, names) for node in nodes]


def _without_renaming(nodes: Sequence[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes without those that only give a value the name of an output: its producer does that itself."""
    uses = Counter(value for node in nodes for value in node.input)
    produced = {value for node in nodes for value in node.output}
    names: dict[str, str] = {}
    kept = []
    for node in nodes:
        renames = node.op_type == "Identity" and node.output[0] in outputs
        if renames and uses[node.input[0]] == 1 and node.input[0] in produced:
            names[node.input[0]] = node.output[0]
        else:
            kept.append(node)
    return [_renamed(node, names) for node in kept]


def _renamed(original: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    node = onnx.NodeProto()
    node.CopyFrom(original)
    node.input[:] = [names.get(value, value) for value in node.input]
    node.output[:] = [names.get(value, value) for value in node.output]
    return node
