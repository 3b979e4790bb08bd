"""Export of checkpoints that are quantized already: their matrices are kept bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from omni_edge.backend.graph import Graph
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.errors import CheckpointError
from omni_export.bundle import ExportOptions, ExportReport, export_bundle
from omni_export.graph.builder import GraphBuilder
from omni_export.verify.verify import verify_bundle
from omni_quant.blockwise import unpack
from omni_quant.precision import Kind, Precision
from support.checkpoints import SHAPES, write_checkpoint
from support.commands import run_export
from support.quantized_checkpoints import SCHEMES, Arrays, QuantizedCheckpoint, Scheme, quantize_checkpoint, values

LAYER = "thinker.model.layers.1"
POSITIONS = 12
ALIGNED = replace(SHAPES["grouped"], intermediate=96)
# Heads that the cache pads, and a last group that is short.
PADDED = replace(ALIGNED, hidden=80, heads=4, kv_heads=2, head_dim=20, mrope=(2, 4, 4))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("aligned") / "checkpoint", shape=ALIGNED)


@pytest.fixture(scope="module")
def padded_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("padded") / "checkpoint", shape=PADDED)


def export(checkpoint: Path, out: Path, kind: str = "int4", **settings: Any) -> ExportReport:
    settings = {"calibration": "none", **settings}
    return export_bundle(str(checkpoint), out, ExportOptions(Precision(Kind(kind), 32), text_only=True, **settings))


def initializers(bundle: Path) -> dict[str, NDArray[Any]]:
    model = onnx.load(bundle / "thinker.onnx")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def logits(bundle: Path) -> NDArray[np.float32]:
    """Hidden states of a prefill and of single steps."""
    opened = Bundle(bundle)
    decoder = Decoder(Graph.from_bundle(opened, "thinker"), opened.manifest.thinker)
    embeds = np.random.default_rng(1).standard_normal((1, POSITIONS, decoder.section.hidden_size)).astype(np.float32)
    ids = np.broadcast_to(np.arange(POSITIONS), (3, POSITIONS))
    cache = KVCache.allocate(decoder.section, POSITIONS)
    steps = [decoder.step({"embeds": embeds[:, :8]}, ids[:, :8], cache)]
    steps += [
        decoder.step({"embeds": embeds[:, at : at + 1]}, ids[:, at : at + 1], cache) for at in range(8, POSITIONS)
    ]
    return np.concatenate([hidden.copy() for hidden, _ in steps])


def error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean()))


def stored_rows(tensors: dict[str, NDArray[Any]], name: str, matrix: Arrays) -> None:
    """Compares a matrix of the graph with the checkpoint's, group by group."""
    bits = 8 if f"{name}_Q8" in tensors else 4
    order = np.argsort(matrix["group"], kind="stable")
    codes = unpack(tensors[f"{name}_Q{bits}"], bits).reshape(len(matrix["codes"]), -1)
    np.testing.assert_array_equal(codes[:, : len(order)], matrix["codes"][:, order])
    np.testing.assert_array_equal(tensors[f"{name}_scales"], matrix["scales"])
    assert tensors[f"{name}_scales"].dtype == np.float16
    if bits == 4:
        zeros = unpack(tensors[f"{name}_zero_points"], 4)
        np.testing.assert_array_equal(zeros[:, : matrix["zeros"].shape[1]], matrix["zeros"])


@pytest.mark.parametrize("name", SCHEMES)
def test_the_bundle_has_the_codes_of_the_checkpoint(source: Path, tmp_path: Path, name: str) -> None:
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES[name])
    report = export(checkpoint.path, tmp_path / "bundle")
    tensors = initializers(tmp_path / "bundle")
    for index in range(2):
        module, path = f"thinker.model.layers.{index}", f"/layers.{index}"
        stored_rows(tensors, f"{path}/attn/o_proj.weight", checkpoint.matrices[f"{module}.self_attn.o_proj"])
        stored_rows(tensors, f"{path}/mlp/down_proj.weight", checkpoint.matrices[f"{module}.mlp.down_proj"])
        for parts, stacked in ((("q", "k", "v"), "attn/qkv_proj"), (("gate", "up"), "mlp/gate_up_proj")):
            room = "self_attn" if "q" in parts else "mlp"
            matrices = [checkpoint.matrices[f"{module}.{room}.{part}_proj"] for part in parts]
            rows = {key: np.concatenate([matrix[key] for matrix in matrices]) for key in ("codes", "zeros", "scales")}
            stored_rows(tensors, f"{path}/{stacked}.weight", {**rows, "group": matrices[0]["group"]})
    stated = Bundle(tmp_path / "bundle").manifest.graphs["thinker"].precision
    assert stated == ("int8 g32" if name == "gptq_8_bits" else "int4 g32")
    assert "has 14 matrices that are quantized already" in report.notes[0]
    assert "the precision asked for applies to the rest" in report.notes[0]
    assert len(report.notes) == 1


@pytest.mark.parametrize("name", SCHEMES)
def test_the_runtime_goes_the_way_of_the_dequantized_checkpoint(source: Path, tmp_path: Path, name: str) -> None:
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES[name])
    export(checkpoint.plain, tmp_path / "reference", "fp32")
    export(checkpoint.path, tmp_path / "fp32", "fp32")
    export(checkpoint.path, tmp_path / "bundle", "int8")
    expected = logits(tmp_path / "reference")
    np.testing.assert_array_equal(logits(tmp_path / "fp32"), expected)
    # Activations in INT8 remain as the only difference.
    assert 1e-4 < error(logits(tmp_path / "bundle"), expected) < 0.02
    for bundle in ("fp32", "bundle"):
        rows = {row.graph: row for row in verify_bundle(tmp_path / bundle, checkpoint.path)}
        assert rows["thinker"].snr > (90 if bundle == "fp32" else 30), rows


@pytest.mark.parametrize("name", ["gptq", "gptq_act_order"])
def test_heads_that_the_cache_pads_and_short_groups(padded_source: Path, tmp_path: Path, name: str) -> None:
    checkpoint = quantize_checkpoint(padded_source, tmp_path, SCHEMES[name])
    export(checkpoint.plain, tmp_path / "reference", "fp32")
    export(checkpoint.path, tmp_path / "fp32", "fp32")
    export(checkpoint.path, tmp_path / "bundle")
    expected = logits(tmp_path / "reference")
    np.testing.assert_array_equal(logits(tmp_path / "fp32"), expected)
    assert 1e-4 < error(logits(tmp_path / "bundle"), expected) < 0.02


def test_an_int8_cache_over_quantized_weights(source: Path, tmp_path: Path) -> None:
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["gptq_act_order"])
    export(checkpoint.plain, tmp_path / "reference", "fp32")
    export(checkpoint.path, tmp_path / "bundle", int8_cache=True)
    assert 1e-4 < error(logits(tmp_path / "bundle"), logits(tmp_path / "reference")) < 0.05


def change_matrix(checkpoint: QuantizedCheckpoint, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = checkpoint.path / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_config(checkpoint: QuantizedCheckpoint, **changes: Any) -> None:
    path = checkpoint.path / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))


def stored_prefix(checkpoint: QuantizedCheckpoint) -> str:
    """The name of the last layer in the file, which transformers 5 spells in its own way."""
    names = load_file(checkpoint.path / "model.safetensors")
    name = next(name for name in names if name.endswith("layers.1.mlp.down_proj.qweight"))
    return name.removesuffix(".mlp.down_proj.qweight")


@pytest.mark.parametrize(("kind", "calibration"), [("int8", "none"), ("int4", "built-in")])
def test_matrices_that_are_left_out_take_the_precision_asked_for(
    source: Path, tmp_path: Path, kind: str, calibration: str
) -> None:
    """Two matrices of one stack are stored differently, one matrix is stored alone."""
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["gptq_v2"])
    prefix = stored_prefix(checkpoint)
    plain = load_file(checkpoint.plain / "model.safetensors")

    def leave_out(tensors: dict[str, torch.Tensor]) -> None:
        for module in ("self_attn.q_proj", "mlp.down_proj"):
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                del tensors[f"{prefix}.{module}.{part}"]
            tensors[f"{prefix}.{module}.weight"] = plain[f"{prefix}.{module}.weight"]

    change_matrix(checkpoint, leave_out)
    change_config(checkpoint, dynamic={r"-:.*\.1\.(self_attn\.q_proj|mlp\.down_proj)": {}})
    export(checkpoint.plain, tmp_path / "reference", "fp32")
    export(checkpoint.path, tmp_path / "bundle", kind, calibration=calibration)
    tensors = initializers(tmp_path / "bundle")
    stored_rows(tensors, "/layers.1/attn/qkv_proj/1.weight", checkpoint.matrices[f"{LAYER}.self_attn.k_proj"])
    stored_rows(tensors, "/layers.1/attn/qkv_proj/2.weight", checkpoint.matrices[f"{LAYER}.self_attn.v_proj"])
    bits = Kind(kind).bits
    assert tensors[f"/layers.1/attn/qkv_proj/0.weight_Q{bits}"].shape == (64, 2, 4 * bits)
    assert tensors[f"/layers.1/mlp/down_proj.weight_Q{bits}"].shape == (64, 3, 4 * bits)
    assert 1e-4 < error(logits(tmp_path / "bundle"), logits(tmp_path / "reference")) < (0.02 if bits == 8 else 0.3)
    stated = Bundle(tmp_path / "bundle").manifest.graphs["thinker"].recipes or {}
    recipes = {name.replace("{layer}", "1"): text for name, text in stated.items()}
    assert recipes["/layers.0/mlp/down_proj.weight"] == "int4 g32, zero points, 4.625 bits, as the checkpoint has it"
    assert recipes["/layers.1/attn/qkv_proj/1.weight"] == recipes["/layers.0/mlp/down_proj.weight"]
    # A part of a mixed stack is never calibrated.
    assert recipes["/layers.1/attn/qkv_proj/0.weight"].endswith("searched" if bits == 4 else "rounded")
    method = "rounded" if bits == 8 else "GPTQ" if calibration == "built-in" else "searched"
    assert recipes["/layers.1/mlp/down_proj.weight"].endswith(method)


def test_one_group_for_a_whole_output(source: Path, tmp_path: Path) -> None:
    config = {"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "sym": True}
    checkpoint = quantize_checkpoint(source, tmp_path, Scheme("gptq", config, group_size=96, symmetric=True))
    export(checkpoint.plain, tmp_path / "reference", "fp32")
    export(checkpoint.path, tmp_path / "bundle")
    assert Bundle(tmp_path / "bundle").manifest.graphs["thinker"].precision == "int4 g64"
    assert 1e-4 < error(logits(tmp_path / "bundle"), logits(tmp_path / "reference")) < 0.03


def test_scales_in_bfloat16_are_stated_where_float16_does_not_hold_them(source: Path, tmp_path: Path) -> None:
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["awq"])

    def to_float32(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".scales")]:
            tensors[name] = tensors[name].float()
            tensors[name][0, :5] *= 1 + 2**-14

    change_matrix(checkpoint, to_float32)
    notes = export(checkpoint.path, tmp_path / "bundle").notes
    assert notes[1].startswith("70 scales of these matrices are no float16 numbers and were rounded to them")


def missing(part: str) -> Callable[[QuantizedCheckpoint], str]:
    def prepare(checkpoint: QuantizedCheckpoint) -> str:
        name = f"{stored_prefix(checkpoint)}.mlp.up_proj.{part}"
        change_matrix(checkpoint, lambda tensors: tensors.__delitem__(name))
        return rf"no tensor {LAYER}\.mlp\.up_proj\.{part}|and no {LAYER}\.mlp\.up_proj\.qweight"

    return prepare


def stated(key: str, value: Any) -> Callable[[QuantizedCheckpoint], str]:
    def prepare(checkpoint: QuantizedCheckpoint) -> str:
        change_config(checkpoint, **{key: value})
        return rf"quantization_config.*{key}"

    return prepare


def unstated(checkpoint: QuantizedCheckpoint) -> str:
    path = checkpoint.path / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    return r"has .*qweight, and neither a quantization_config in config\.json nor a quantize_config\.json"


def unpacked(checkpoint: QuantizedCheckpoint) -> str:
    save_file(load_file(checkpoint.plain / "model.safetensors"), checkpoint.path / "model.safetensors")
    return r"states that it is quantized \(gptq\), and has no packed matrix"


def twice(checkpoint: QuantizedCheckpoint) -> str:
    name = f"{stored_prefix(checkpoint)}.mlp.up_proj.weight"
    change_matrix(checkpoint, lambda tensors: tensors.update({name: torch.zeros(96, 64)}))
    return rf"has {LAYER}\.mlp\.up_proj twice"


def another_module(checkpoint: QuantizedCheckpoint) -> str:
    name = "thinker.audio_tower.layers.0.fc1.qweight"
    change_matrix(checkpoint, lambda tensors: tensors.update({name: torch.zeros(4, 4, dtype=torch.int32)}))
    return r"has quantized thinker\.audio_tower\.layers\.0\.fc1; supported are"


def said_to_be_plain(checkpoint: QuantizedCheckpoint) -> str:
    change_config(checkpoint, dynamic={"-:.*up_proj": {}})
    return r"has quantized .*up_proj, and its quantization config says that it is not"


def of_other_sizes(checkpoint: QuantizedCheckpoint) -> str:
    change_config(checkpoint, bits=8)
    return r"q_proj.* The quantization config and the weights do not belong together"


@pytest.mark.parametrize(
    "prepare",
    [
        missing("g_idx"),
        missing("qzeros"),
        missing("scales"),
        missing("qweight"),
        stated("bits", 3),
        stated("sym", "maybe"),
        stated("checkpoint_format", "gptq_v3"),
        stated("group_size", "all"),
        stated("desc_act", 2),
        stated("quant_method", "compressed-tensors"),
        stated("secret", 1),
        unstated,
        unpacked,
        twice,
        another_module,
        said_to_be_plain,
        of_other_sizes,
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    source: Path, tmp_path: Path, prepare: Callable[[QuantizedCheckpoint], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GraphBuilder, "save")
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["gptq_act_order"])
    message = prepare(checkpoint)
    out = tmp_path / "bundle"
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint.path, out)
    result = run_export(checkpoint.path, "--out", out, "--text-only")
    assert result.exit_code == 3, result.output
    assert not list(tmp_path.glob("bundle*"))


def test_a_g_idx_that_other_matrices_have_is_missed(source: Path, tmp_path: Path) -> None:
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["gptq"])
    message = missing("g_idx")(checkpoint)
    with pytest.raises(CheckpointError, match=f"{message}, and other matrices have theirs"):
        export(checkpoint.path, tmp_path / "bundle")


def test_a_config_beside_config_json_counts_where_that_states_nothing(source: Path, tmp_path: Path) -> None:
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["gptq_v2"])
    unstated(checkpoint)
    (checkpoint.path / "quantize_config.json").write_text(json.dumps(dict(SCHEMES["gptq_v2"].config)))
    export(checkpoint.path, tmp_path / "bundle", "fp32")
    rows = {row.graph: row for row in verify_bundle(tmp_path / "bundle", checkpoint.path)}
    assert rows["thinker"].snr > 90


def test_the_values_are_those_of_the_grid(source: Path, tmp_path: Path) -> None:
    """The helper that packs does not change what it is given."""
    checkpoint = quantize_checkpoint(source, tmp_path, SCHEMES["awq"])
    plain = load_file(checkpoint.plain / "model.safetensors")
    name = next(
        name for name in plain if name.startswith("thinker.") and name.endswith("layers.1.mlp.down_proj.weight")
    )
    np.testing.assert_array_equal(plain[name].numpy(), values(checkpoint.matrices[f"{LAYER}.mlp.down_proj"]))
