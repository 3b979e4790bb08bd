"""How the matrices of a quantized checkpoint are packed, from `quantization_config` or `quantize_config.json`.

Three tools write such checkpoints: GPTQModel (and AutoGPTQ before it), AutoAWQ and AutoRound. Every key that they write
is known here. A key that changes what the weights mean has its supported values; others describe how the weights were
made. What is not known is refused by name.

Sources: GPTQModel 7.7 (`quantization/config.py`), AutoAWQ 0.2.9 (`models/_config.py`), AutoRound 0.16
(`export/export_to_autoround/export.py`, `inference/convert_model.py`), transformers 5 (`utils/quantization_config.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import JsonObject

METHODS = ("gptq", "awq", "auto-round")
_GPTQ_BITS, _AWQ_BITS = (4, 8), (4,)
# From this number of bits on, the tools mean a matrix that is not quantized.
_UNQUANTIZED_BITS = 16
_SHOWN_CHARACTERS = 60
# The first two parts of AutoRound's packing_format -> checkpoint_format of GPTQ, or AWQ's version.
_AUTO_ROUND_PACKINGS = {
    "auto": "gptq",
    "auto_round:gptq": "gptq",
    "auto_round:auto_gptq": "gptq",
    "auto_round": "gptq_v2",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round:awq": "gemm",
    "auto_round:auto_awq": "gemm",
}
# Keys that change what the weights mean -> values that leave them as they are; null always does.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "pack_dtype": ("int32",),
    "is_marlin_format": (False,),
    "rotation": (),
    "rotation_config": (),
    "rotation_configs": ([],),
    "adapter": (),
    "data_type": ("int",),
    "act_bits": (16, 32),
    "super_bits": (),
    "super_group_size": (),
    "mock_quantization": (False,),
    "static_kv_dtype": (),
    "static_attention_dtype": (),
}
# Keys that describe how the weights were made, or how other programs run them.
_DESCRIPTIVE = frozenset(
    """
    act_data_type act_dynamic act_group_aware act_group_size act_sym amp auto_forward_data_parallel autoround_version
    batch_size block_name_to_quantize cache_block_outputs calibration_data_device compute_device_filter
    damp_auto_increment damp_percent dataset dense_vram_strategy dense_vram_strategy_devices device disable_exllama
    do_fuse enable_minmax_tuning enable_norm_bias_tuning enable_quanted_input exllama_config fallback foem
    fuse_max_seq_len gc_mode gptaq gradient_accumulate_steps hessian iters low_gpu_mem_usage lr max_input_length meta
    minmax_lr model_file_base_name model_name_or_path model_seqlen module_name_preceding_first_block
    modules_in_block_to_quantize modules_to_fuse modules_to_not_convert moe moe_vram_strategy
    moe_vram_strategy_devices mse n_samples nsamples offload_to_disk offload_to_disk_path pack_impl pad_token_id
    preprocessors provider quant_block_list scale_dtype scale_search_chunked_activations seqlen
    static_attention_granularity static_groups static_kv_granularity supported_types to_quant_block_names tokenizer
    train_bs true_sequential use_cuda_fp16 use_exllama vram_strategy wait_for_submodule_finalizers weight_only
    """.split()  # noqa: SIM905  (a line for each key would fill two pages)
)
_READ = frozenset(
    """
    quant_method method bits w_bit group_size q_group_size sym zero_point desc_act checkpoint_format format version
    backend packing_format dynamic extra_config lm_head
    """.split()  # noqa: SIM905  (a line for each key would fill two pages)
)


class Packing(Enum):
    """The axis along which an int32 holds the codes of neighbours; the value is the name in messages."""

    INPUT = "GPTQ"
    OUTPUT = "AWQ"


@dataclass(frozen=True)
class PackedFormat:
    """How one matrix is packed.

    Attributes:
        packing: the axis of packing.
        bits: 4 or 8.
        group_size: weights along the input axis that share a scale; None: all.
        zero_offset: what is added to a stored zero point.
        act_order: the checkpoint must state each input column's group (`g_idx`).
    """

    packing: Packing
    bits: int
    group_size: int | None
    zero_offset: int = 0
    act_order: bool = False


@dataclass(frozen=True)
class _Override:
    """A format for the modules whose names match; None: they are not quantized."""

    matches: Callable[[str], object]
    format: PackedFormat | None


@dataclass(frozen=True)
class QuantizedConfig:
    """What a checkpoint says of its quantized matrices.

    Attributes:
        method: one of `METHODS`.
        default: the format of a matrix without an override.
        overrides: the first that matches a module's name counts.
        zeros_wrap: a zero point of 0 is stored as -1 and borrows from the next one; adding 1 to the word undoes it.
    """

    method: str
    default: PackedFormat
    overrides: tuple[_Override, ...] = ()
    zeros_wrap: bool = False

    def format(self, *names: str) -> PackedFormat | None:
        """The format of a module, given the names it goes by; None: it is not quantized."""
        for name in names:
            for override in self.overrides:
                if override.matches(name):
                    return override.format
        return self.default

    def __str__(self) -> str:
        group = self.default.group_size
        groups = f"groups of {group}" if group else "one group per output"
        act_order = ", act-order" if self.default.act_order else ""
        return f"{self.method}, {self.default.bits} bits, {groups}{act_order}"


def parse_quantized_config(config: JsonObject) -> QuantizedConfig:
    """What the object `quantization_config`, or the file `quantize_config.json`, states.

    Raises:
        CheckpointError: a key or a value is not supported; the message names it.
    """
    # AutoAWQ's own file states no method.
    unstated = "awq" if "w_bit" in config else "gptq"
    method = config.text("quant_method", config.text("method", unstated)).lower().removeprefix("intel/")
    if method not in METHODS:
        raise _unsupported(config, "quant_method", method, METHODS)
    _refuse_unknown(config)
    if method == "awq":
        return QuantizedConfig(method, _awq(config))
    if method == "gptq":
        return _with_dynamic(config, QuantizedConfig(method, _gptq(config), zeros_wrap=_made_by_gptqmodel(config)))
    return _auto_round(config)


def _gptq(config: JsonObject) -> PackedFormat:
    layout = config.text("checkpoint_format", config.text("format", "gptq")).lower()
    if layout not in ("gptq", "gptq_v2"):
        key = "checkpoint_format" if "checkpoint_format" in config else "format"
        raise _unsupported(config, key, layout, ("gptq", "gptq_v2"))
    return PackedFormat(
        packing=Packing.INPUT,
        bits=_bits(config, _GPTQ_BITS),
        group_size=_group_size(config),
        # The first version of the format stores zero points less 1.
        zero_offset=1 if layout == "gptq" else 0,
        act_order=config.flag("desc_act", False),
    )


def _awq(config: JsonObject) -> PackedFormat:
    key = "version" if "version" in config else "format"
    version = config.text(key, "gemm").lower()
    if version != "gemm":
        raise _unsupported(config, key, version, ("gemm",))
    if config.text("backend", "auto") == "llm-awq":
        raise _unsupported(config, "backend", "llm-awq", ("autoawq",))
    return PackedFormat(packing=Packing.OUTPUT, bits=_bits(config, _AWQ_BITS), group_size=_group_size(config))


def _auto_round(config: JsonObject) -> QuantizedConfig:
    # Older versions write the packing under "backend".
    key = "packing_format" if "packing_format" in config else "backend"
    stated = config.text(key, "auto").lower()
    # A third part is the name of a kernel.
    packing = _AUTO_ROUND_PACKINGS.get(":".join(stated.split(":")[:2]))
    if packing is None:
        raise _unsupported(config, key, stated, tuple(_AUTO_ROUND_PACKINGS))
    if packing == "gemm":
        default = PackedFormat(Packing.OUTPUT, _bits(config, _AWQ_BITS), _group_size(config))
    else:
        default = PackedFormat(Packing.INPUT, _bits(config, _GPTQ_BITS), _group_size(config), int(packing == "gptq"))
    overrides = _entries(config, "extra_config")
    exact = [(name, entry) for name, entry in overrides if re.fullmatch(r"[\w.]+", name)]
    # A plain name counts before any pattern; it is also tried as one.
    found = [_Override(name.__eq__, _changed(entry, default)) for name, entry in exact]
    found += [_Override(_pattern(entry, name).search, _changed(entry, default)) for name, entry in overrides]
    return QuantizedConfig("auto-round", default, tuple(found))


def _with_dynamic(config: JsonObject, quantized: QuantizedConfig) -> QuantizedConfig:
    """Adds GPTQModel's `dynamic`: "-:pattern" leaves modules as they were, "+:pattern" or "pattern" changes them."""
    overrides = []
    for name, entry in _entries(config, "dynamic"):
        matches = _pattern(entry, name.removeprefix("-:").removeprefix("+:")).match
        changed = None if name.startswith("-:") else _changed(entry, quantized.default)
        overrides.append(_Override(matches, changed))
    return replace(quantized, overrides=tuple(overrides))


def _entries(config: JsonObject, key: str) -> list[tuple[str, JsonObject]]:
    entries = config.optional_section(key)
    return [(name, entries.optional_section(name)) for name in entries.raw]


def _pattern(entry: JsonObject, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise CheckpointError(
            f"{entry.where} is no regular expression ({error}). Correct it, or download the checkpoint again."
        ) from None


def _changed(entry: JsonObject, default: PackedFormat) -> PackedFormat | None:
    """`default` with the changes that an override states; None where it leaves the matrix as it was."""
    if entry.integer("bits", default=default.bits) >= _UNQUANTIZED_BITS:
        return None
    _refuse_unknown(entry)
    choices = _AWQ_BITS if default.packing is Packing.OUTPUT else _GPTQ_BITS
    return replace(
        default,
        bits=_bits(entry, choices) if "bits" in entry else default.bits,
        group_size=_group_size(entry) if "group_size" in entry else default.group_size,
        act_order=entry.flag("desc_act", default.act_order),
    )


def _bits(config: JsonObject, choices: tuple[int, ...]) -> int:
    key = "bits" if "bits" in config else "w_bit"
    bits = config.get(key)
    if isinstance(bits, bool) or bits not in choices:
        raise _unsupported(config, "bits" if bits is None else key, bits, choices)
    return int(bits)


def _group_size(config: JsonObject) -> int | None:
    """Weights that share a scale; None where -1 stands for all of an output."""
    key = "group_size" if "group_size" in config else "q_group_size"
    size = config.get(key)
    if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
        raise _unsupported(config, "group_size" if size is None else key, size, ("-1", "or a number from 1"))
    return None if size == -1 else size


def _made_by_gptqmodel(config: JsonObject) -> bool:
    """Whether the producer subtracted 1 from whole words of zero points, as GPTQModel does."""
    quantizer = config.optional_section("meta").get("quantizer")
    producers = quantizer if isinstance(quantizer, list) else [quantizer]
    return any(isinstance(producer, str) and producer.lower().startswith("gptqmodel") for producer in producers)


def _refuse_unknown(config: JsonObject) -> None:
    for key, value in config.raw.items():
        if key in _READ or key in _DESCRIPTIVE or value is None:
            continue
        if key not in _NEUTRAL:
            raise CheckpointError(
                f"{config.where}: {key} is not known, so the weights cannot be read with certainty. Export the bf16 "
                "checkpoint, or remove the key if it only describes how the weights were made."
            )
        if value not in _NEUTRAL[key]:
            raise _unsupported(config, key, value, _NEUTRAL[key] or ("null",))
    for key in ("sym", "zero_point", "lm_head"):
        config.flag(key, True)


def _unsupported(config: JsonObject, key: str, value: object, supported: tuple[object, ...]) -> CheckpointError:
    shown = json.dumps(value)[:_SHOWN_CHARACTERS]
    stated = f"has no {key}" if value is None else f"{key} is {shown}"
    return CheckpointError(
        f"{config.where}: {stated}; supported: {', '.join(map(str, supported))}. Export the bf16 checkpoint that it "
        "was made from, or another quantized one."
    )
