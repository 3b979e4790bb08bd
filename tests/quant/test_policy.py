"""The one table about precision: bundles hold what it says, documents repeat it, and reading it needs nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from omni_edge import UsageError
from omni_edge.bundle.reader import Bundle
from omni_export.bundle import ROLES, ExportOptions, export_bundle
from omni_export.models.decoder_layer import MATRICES
from omni_quant.policy import POLICY, decoder_part, default_precision, formats, has_compiled_operator, stated_precision
from omni_quant.precision import DEFAULT_GROUP_SIZE, Activations, Kind, Precision, Scales, WeightFormat

ROOT = Path(__file__).parents[2]


def stored(weights: WeightFormat) -> str:
    """A format in the words of docs/accuracy.md, with its bits per weight in groups of the default size."""
    if weights.kind is Kind.FP32:
        return "float32"
    sized = replace(weights, group_size=DEFAULT_GROUP_SIZE)
    zero_points = ", zero points" if weights.zero_points else ""
    return f"{weights.kind.name} {weights.scales.value}{zero_points}: {sized.bits_per_weight:.4g} bits"


def table() -> list[str]:
    """The table of docs/accuracy.md."""
    rows = [
        "| graph | weights | in INT8 | in mixed | in INT4 | activations in their products |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for role, graph in POLICY.items():
        for name, part in graph.parts.items():
            columns = [
                part[default_precision(role, Precision(kind)).kind] for kind in (Kind.INT8, Kind.MIXED, Kind.INT4)
            ]
            cells = [role, name.replace("_", " "), *map(stored, columns), columns[0].activations.value]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def test_the_page_repeats_the_table() -> None:
    page = (ROOT / "docs" / "accuracy.md").read_text("utf-8").splitlines()
    start = page.index(table()[0])
    assert page[start : start + len(table())] == table(), "paste this into docs/accuracy.md:\n" + "\n".join(table())


def test_a_column_of_the_page_holds_for_all_precisions() -> None:
    for graph in POLICY.values():
        for part in graph.parts.values():
            assert part[Kind.INT8].activations is part[Kind.MIXED].activations is part[Kind.INT4].activations


def test_q_k_v_and_the_outermost_layers_are_sensitive() -> None:
    sensitive = [
        (layer, matrix)
        for layer in range(4)
        for matrix in MATRICES
        if decoder_part(layer, 4, matrix) == "sensitive_matrices"
    ]
    whole = [(layer, matrix) for layer in (0, 3) for matrix in MATRICES]
    assert sorted(sensitive) == sorted([*whole, (1, "qkv"), (2, "qkv")])
    parts = formats("thinker", Precision(Kind.MIXED))
    assert [parts[name].kind for name in ("layers", "sensitive_matrices")] == [Kind.INT4, Kind.INT8]


@pytest.mark.parametrize("kind", [Kind.INT4, Kind.INT8, Kind.FP32])
def test_a_bundle_holds_what_the_table_says(checkpoint: Path, tmp_path: Path, kind: Kind) -> None:
    precision = Precision(kind, 32)
    export_bundle(str(checkpoint), tmp_path / "bundle", ExportOptions(precision))
    graphs = Bundle(tmp_path / "bundle").manifest.graphs
    assert list(graphs) == list(ROLES) == list(POLICY)
    for role, entry in graphs.items():
        parts = formats(role, default_precision(role, precision))
        assert entry.precision == str(stated_precision(parts))
        if default_precision(role, precision).kind is Kind.MIXED:
            # The checkpoint has a first and a last layer alone, whose matrices are sensitive.
            del parts["layers"]
        stored_parts = {str(weights) for weights in parts.values() if weights.scales is Scales.GROUP}
        assert {text.rpartition(", ")[0] for text in (entry.recipes or {}).values()} == stored_parts
        graph = onnx.load(tmp_path / "bundle" / entry.file, load_external_data=False).graph
        endings = {tensor.name.rpartition("_")[2] for tensor in graph.initializer} & {"Q4", "Q8", "S8", "S16"}
        assert endings == {
            f"{'S' if weights.scales is Scales.OUTPUT else 'Q'}{weights.kind.bits}"
            for weights in parts.values()
            if weights.kind is not Kind.FP32
        }
        operators = {node.op_type for node in graph.node}
        dynamic = any(weights.activations is Activations.INT8_PER_CALL for weights in parts.values())
        assert ("DynamicQuantizeLinear" in operators) == dynamic
        levels = {value.i for node in graph.node for value in node.attribute if value.name == "accuracy_level"}
        weight_only = any(
            weights.scales is Scales.GROUP and weights.activations is Activations.FLOAT32 for weights in parts.values()
        )
        assert levels == ({1} if weight_only else set())


def test_a_kind_that_no_export_asks_for_is_refused() -> None:
    with pytest.raises(UsageError, match="The precision is int16; it must be one of int4, mixed, int8, fp32"):
        ExportOptions(Precision(Kind.INT16))


def test_encoders_and_talker_are_int4_throughout_on_request_only() -> None:
    asked = Precision(Kind.INT4, 64)
    given = {role: default_precision(role, asked) for role in POLICY}
    assert given.pop("audio_encoder") == given.pop("vision_encoder") == Precision(Kind.INT8, 64)
    assert given.pop("talker") == Precision(Kind.MIXED, 64)
    assert set(given.values()) == {asked}
    for role in POLICY:
        for other in (Precision(Kind.INT8, 64), Precision(Kind.FP32)):
            assert default_precision(role, other) == other
    options = ExportOptions(asked, {"talker": asked})
    assert options.precision_for("talker") == asked
    assert options.precision_for("vision_encoder") == Precision(Kind.INT8, 64)


def test_groups_are_those_that_the_export_asks_for() -> None:
    layers, sensitive, head, projection, codec_table = formats("talker", Precision(Kind.MIXED, 64)).values()
    four = WeightFormat(Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP, 64, float16_scales=True, zero_points=True)
    eight = replace(four, kind=Kind.INT8, zero_points=False)
    assert layers == four
    assert sensitive == head == projection == eight
    assert codec_table == replace(eight, activations=Activations.NONE)


def test_bits_of_a_weight_with_its_share_of_scale_and_zero_point() -> None:
    bits = {
        size: [
            formats("thinker", Precision(Kind.INT4, size))["layers"].bits_per_weight,
            formats("thinker", Precision(Kind.INT8, size))["layers"].bits_per_weight,
        ]
        for size in (32, 64, 128)
    }
    assert bits == {32: [4.625, 8.5], 64: [4.3125, 8.25], 128: [4.15625, 8.125]}
    assert formats("dit", Precision(Kind.INT4, 32))["layers"].bits_per_weight == 8
    assert formats("dit", Precision(Kind.INT4, 32))["input"].bits_per_weight == 32


def test_a_format_in_words_has_its_bits() -> None:
    layers, _, head = formats("thinker", Precision(Kind.INT4, 64)).values()
    assert str(layers) == "int4 g64, zero points, 4.312 bits"
    assert str(head) == "int8 g64, 8.25 bits"
    assert str(formats("dit", Precision(Kind.INT8))["layers"]) == "int8, 8 bits"
    assert str(formats("dit", Precision(Kind.INT8))["input"]) == "fp32"


@pytest.mark.parametrize(("group_size", "compiled"), [(16, False), (32, True), (128, True)])
def test_compiled_operators_take_groups_from_32(group_size: int, compiled: bool) -> None:
    parts = formats("thinker", Precision(Kind.INT4, group_size))
    assert has_compiled_operator(parts["layers"]) == compiled
    assert not has_compiled_operator(formats("dit_time", Precision(Kind.INT4, group_size))["modulation"])


def test_reading_the_table_imports_neither_torch_nor_onnx() -> None:
    program = (
        "import sys, omni_quant.policy, omni_quant.precision\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
