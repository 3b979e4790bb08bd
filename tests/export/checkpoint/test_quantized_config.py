"""The statements of quantized checkpoints, as the three tools write them."""

from __future__ import annotations

from typing import Any

import pytest

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import JsonObject
from omni_export.checkpoint.quantized_config import PackedFormat, Packing, QuantizedConfig, parse_quantized_config

MODULE = "thinker.model.layers.{}.self_attn.q_proj"
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
AUTO_ROUND: dict[str, Any] = {
    "quant_method": "auto-round",
    "packing_format": "auto_round:auto_gptq",
    "bits": 4,
    "group_size": 128,
    "sym": True,
}


def parse(config: dict[str, Any]) -> QuantizedConfig:
    return parse_quantized_config(JsonObject(config, "config.json", "quantization_config"))


@pytest.mark.parametrize(
    ("config", "method", "expected"),
    [
        (GPTQ, "gptq", PackedFormat(Packing.INPUT, 4, 128, 1, act_order=True)),
        ({**GPTQ, "desc_act": False, "group_size": -1}, "gptq", PackedFormat(Packing.INPUT, 4, None, 1)),
        # As GPTQModel 7 writes it.
        (
            {
                "bits": 8,
                "dynamic": None,
                "group_size": 32,
                "desc_act": False,
                "lm_head": False,
                "method": "gptq",
                "quant_method": "gptq",
                "format": "gptq_v2",
                "checkpoint_format": "gptq_v2",
                "pack_dtype": "int32",
                "rotation": None,
                "sym": False,
                "meta": {"quantizer": ["gptqmodel:7.7.0"], "act_group_aware": True},
            },
            "gptq",
            PackedFormat(Packing.INPUT, 8, 32),
        ),
        # As AutoGPTQ wrote quantize_config.json.
        (
            {"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False, "static_groups": False}
            | {"sym": True, "true_sequential": True, "model_name_or_path": None, "is_marlin_format": False},
            "gptq",
            PackedFormat(Packing.INPUT, 4, 128, 1),
        ),
        (AWQ, "awq", PackedFormat(Packing.OUTPUT, 4, 128)),
        ({**AWQ, "version": "GEMM", "modules_to_not_convert": ["visual"]}, "awq", PackedFormat(Packing.OUTPUT, 4, 128)),
        # As AutoAWQ writes quant_config.json.
        (
            {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"},
            "awq",
            PackedFormat(Packing.OUTPUT, 4, 64),
        ),
        (AUTO_ROUND, "auto-round", PackedFormat(Packing.INPUT, 4, 128, 1)),
        ({**AUTO_ROUND, "packing_format": "auto_round"}, "auto-round", PackedFormat(Packing.INPUT, 4, 128)),
        ({**AUTO_ROUND, "packing_format": "auto_round:auto_awq"}, "auto-round", PackedFormat(Packing.OUTPUT, 4, 128)),
        (
            {"quant_method": "intel/auto-round", "backend": "auto_round:gptq:exllamav2", "bits": 4, "group_size": 128}
            | {"sym": True, "data_type": "int", "seqlen": 2048, "amp": True, "autoround_version": "0.4.0.dev"},
            "auto-round",
            PackedFormat(Packing.INPUT, 4, 128, 1),
        ),
    ],
)
def test_what_the_tools_write_is_read(config: dict[str, Any], method: str, expected: PackedFormat) -> None:
    quantized = parse(config)
    assert (quantized.method, quantized.default) == (method, expected)
    assert quantized.format(MODULE.format(3)) == expected


def test_only_gptqmodel_borrows_between_zero_points() -> None:
    assert not parse(GPTQ).zeros_wrap
    assert parse({**GPTQ, "meta": {"quantizer": "gptqmodel:1.4.0"}}).zeros_wrap
    assert parse({**GPTQ, "meta": {"quantizer": ["optimum:1.24.0", "gptqmodel:1.9.0"]}}).zeros_wrap


def test_the_first_pattern_of_gptqmodel_that_matches_counts() -> None:
    quantized = parse(
        {
            **GPTQ,
            "dynamic": {
                r"-:.*\.7\..*": {},
                r"+:.*\.[78]\.self_attn\.q_proj": {"bits": 8, "group_size": 32, "desc_act": False},
                r"layers": {"bits": 8},
            },
        }
    )
    assert quantized.format(MODULE.format(7)) is None
    assert quantized.format(MODULE.format(8)) == PackedFormat(Packing.INPUT, 8, 32, 1)
    # A pattern matches from the beginning of the name.
    assert quantized.format(MODULE.format(9)) == quantized.default
    assert quantized.format("model.layers.8.self_attn.q_proj", MODULE.format(8)) == quantized.format(MODULE.format(8))


def test_a_name_of_auto_round_counts_before_its_patterns() -> None:
    quantized = parse(
        {
            **AUTO_ROUND,
            "extra_config": {
                r".*\.self_attn\..*": {"bits": 8, "group_size": 64},
                MODULE.format(2): {"bits": 16, "data_type": "float"},
                MODULE.format(3): {"group_size": 32},
            },
        }
    )
    assert quantized.format(MODULE.format(1)) == PackedFormat(Packing.INPUT, 8, 64, 1)
    assert quantized.format(MODULE.format(2)) is None
    assert quantized.format(MODULE.format(3)) == PackedFormat(Packing.INPUT, 4, 32, 1)
    assert quantized.format("thinker.model.layers.1.mlp.up_proj") == quantized.default


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            'quant_method is "bitsandbytes"; supported: gptq, awq',
        ),
        ({"quant_method": "compressed-tensors"}, 'quant_method is "compressed-tensors"'),
        ({"quant_method": "fp8"}, 'quant_method is "fp8"'),
        ({**GPTQ, "bits": 3}, "bits is 3; supported: 4, 8"),
        ({**GPTQ, "bits": "4"}, 'bits is "4"'),
        ({**GPTQ, "bits": None}, "has no bits"),
        ({**AWQ, "bits": 8}, "bits is 8; supported: 4"),
        ({**GPTQ, "group_size": 0}, "group_size is 0"),
        ({**GPTQ, "group_size": None}, "has no group_size"),
        ({**GPTQ, "sym": "yes"}, r"quantization_config\.sym must be true or false"),
        ({**AWQ, "zero_point": 1}, r"quantization_config\.zero_point must be true or false"),
        ({**GPTQ, "desc_act": "auto"}, r"quantization_config\.desc_act must be true or false"),
        ({**GPTQ, "checkpoint_format": "marlin"}, 'checkpoint_format is "marlin"; supported: gptq, gptq_v2'),
        ({**GPTQ, "format": "gptq_p"}, 'format is "gptq_p"'),
        ({**GPTQ, "is_marlin_format": True}, "is_marlin_format is true"),
        ({**GPTQ, "pack_dtype": "int16"}, 'pack_dtype is "int16"; supported: int32'),
        ({**GPTQ, "rotation": "hadamard"}, 'rotation is "hadamard"'),
        ({**GPTQ, "adapter": {"name": "lora"}}, "adapter is "),
        ({**GPTQ, "sparsity": 0.5}, "sparsity is not known"),
        ({**GPTQ, "dynamic": {"+:.*": {"bits": 2}}}, r"dynamic\.\+:\.\*: bits is 2"),
        ({**GPTQ, "dynamic": {"+:(": {"bits": 4}}}, "is no regular expression"),
        ({**GPTQ, "dynamic": {".*": 4}}, r"dynamic\.\.\* must be an object"),
        ({**AWQ, "version": "gemv"}, 'version is "gemv"; supported: gemm'),
        ({**AWQ, "version": "llm-awq"}, 'version is "llm-awq"'),
        ({**AWQ, "backend": "llm-awq"}, 'backend is "llm-awq"'),
        (
            {**AUTO_ROUND, "packing_format": "auto_round:llm_compressor"},
            'packing_format is "auto_round:llm_compressor"',
        ),
        ({**AUTO_ROUND, "packing_format": "auto_round:exllamav2"}, 'packing_format is "auto_round:exllamav2"'),
        ({**AUTO_ROUND, "data_type": "mx_fp"}, 'data_type is "mx_fp"; supported: int'),
        ({**AUTO_ROUND, "act_bits": 8}, "act_bits is 8"),
        ({**AUTO_ROUND, "extra_config": {"a": {"bits": 4, "data_type": "fp"}}}, r'extra_config\.a: data_type is "fp"'),
    ],
)
def test_what_is_not_supported_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse(config)
