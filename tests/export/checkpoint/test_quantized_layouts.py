"""Packed matrices of GPTQ, AWQ and AutoRound, against what the programs of these names made and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.quantized_config import PackedFormat, Packing
from omni_export.checkpoint.quantized_matrix import QuantizedMatrix, count_rounded, open_matrix
from omni_export.checkpoint.stored_tensor import StoredTensor
from omni_quant import dequantize_blockwise
from omni_quant.blockwise import unpack
from support.quantized_checkpoints import Arrays, pack, values

GOLDEN = Path(__file__).parents[2] / "data" / "quantized"
FORMATS = {
    "gptq_v2_act_order": PackedFormat(Packing.INPUT, 4, 32, act_order=True),
    "gptq_act_order": PackedFormat(Packing.INPUT, 4, 32, zero_offset=1, act_order=True),
    "gptq_8_bits": PackedFormat(Packing.INPUT, 8, 32, zero_offset=1, act_order=True),
    "awq": PackedFormat(Packing.OUTPUT, 4, 32),
    "auto_round_gptq": PackedFormat(Packing.INPUT, 4, 32, zero_offset=1),
    "auto_round": PackedFormat(Packing.INPUT, 4, 32),
}
LAYOUTS = {
    name: "awq" if name == "awq" else "gptq" if packed.zero_offset else "gptq_v2" for name, packed in FORMATS.items()
}


def golden(name: str) -> Arrays:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def stored(tensors: Arrays) -> dict[str, StoredTensor]:
    names = {"int32": "I32", "int64": "I64", "float16": "F16", "float32": "F32"}

    def tensor(name: str, array: NDArray[Any]) -> StoredTensor:
        return StoredTensor(f"module.{name}", names[array.dtype.name], array.shape, lambda: array)

    return {name: tensor(name, array) for name, array in tensors.items()}


def opened(tensors: Arrays, packed: PackedFormat, *, zeros_wrap: bool = True) -> QuantizedMatrix:
    return open_matrix("module", stored(tensors), packed, zeros_wrap=zeros_wrap)


def made_by_the_tool(name: str) -> Arrays:
    arrays = golden(name)
    tensors = {part: arrays[part] for part in ("qweight", "qzeros", "g_idx") if part in arrays}
    return {**tensors, "scales": np.ascontiguousarray(arrays["scales"].T)}


@pytest.mark.parametrize("name", FORMATS)
def test_a_matrix_has_the_values_that_its_own_tool_reads(name: str) -> None:
    matrix = opened(made_by_the_tool(name), FORMATS[name])
    np.testing.assert_array_equal(matrix.dequantize(), golden(name)["values"])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("block_size", [16, 32])
def test_codes_zero_points_and_scales_are_taken_over_bit_for_bit(name: str, block_size: int) -> None:
    given = golden(name)
    matrix = opened(made_by_the_tool(name), FORMATS[name])
    taken = matrix.blockwise(block_size)
    order = np.argsort(given["group"], kind="stable")
    assert (matrix.order is None) == np.array_equal(order, np.arange(len(order)))
    np.testing.assert_array_equal(
        unpack(taken.packed, taken.bits).reshape(len(given["codes"]), -1), given["codes"][:, order]
    )
    repeats = 32 // block_size
    assert taken.scales.dtype == np.float16
    np.testing.assert_array_equal(taken.scales, np.repeat(given["scales"], repeats, 1))
    if taken.bits == 4:
        assert taken.zero_points is not None
        zeros = unpack(taken.zero_points, 4)[:, : taken.scales.shape[1]]
        np.testing.assert_array_equal(zeros, np.repeat(given["zeros"], repeats, 1))
    else:
        assert taken.zero_points is None
    np.testing.assert_array_equal(dequantize_blockwise(taken), given["values"][:, order])


@pytest.mark.parametrize("name", FORMATS)
def test_the_tests_pack_as_the_tools_do(name: str) -> None:
    given = golden(name)
    packed = pack(LAYOUTS[name], given, FORMATS[name].bits)
    for part in ("qweight", "qzeros", "g_idx"):
        if part in given:
            np.testing.assert_array_equal(packed[part], given[part])
    np.testing.assert_array_equal(values(given), given["values"])


def random_matrix(columns: int, group_size: int, rows: int = 16) -> Arrays:
    random = np.random.default_rng(0)
    groups = -(-columns // group_size)
    return {
        "codes": random.integers(0, 16, (rows, columns)).astype(np.uint8),
        "zeros": random.integers(0, 15, (rows, groups)).astype(np.uint8),
        "scales": random.uniform(1e-3, 3e-2, (rows, groups)).astype(np.float16),
        "group": (np.arange(columns) // group_size).astype(np.int32),
    }


@pytest.mark.parametrize(
    ("columns", "group_size", "block_size"),
    [(88, 32, 32), (200, 128, 128), (96, 48, 16), (88, 88, 64), (1024, 512, 256), (24, 24, 16)],
)
@pytest.mark.parametrize("layout", ["gptq_v2", "awq"])
def test_groups_are_cut_into_the_largest_blocks_that_fit(
    layout: str, columns: int, group_size: int, block_size: int
) -> None:
    given = random_matrix(columns, group_size)
    packing = Packing.OUTPUT if layout == "awq" else Packing.INPUT
    stated = None if group_size == columns else group_size
    matrix = opened(pack(layout, given), PackedFormat(packing, 4, stated))
    assert matrix.block_size == block_size
    for size in {16, block_size}:
        np.testing.assert_array_equal(dequantize_blockwise(matrix.blockwise(size)), values(given))


def test_rows_that_are_spread_leave_zeros_between_them() -> None:
    given = random_matrix(64, 32)
    matrix = opened(pack("awq", given), PackedFormat(Packing.OUTPUT, 4, 32))
    places = np.arange(16) + np.arange(16) // 4
    spread = matrix.spread_rows(places, 20)
    expected = np.zeros((20, 64), np.float32)
    expected[places] = values(given)
    assert spread.shape == (20, 64)
    np.testing.assert_array_equal(spread.dequantize(), expected)
    np.testing.assert_array_equal(dequantize_blockwise(spread.blockwise(32)), expected)


def test_columns_that_are_spread_are_taken_from_their_places() -> None:
    given = random_matrix(64, 32)
    given["group"] = np.random.default_rng(1).permutation(given["group"])
    matrix = opened(pack("gptq", given), PackedFormat(Packing.INPUT, 4, 32, zero_offset=1, act_order=True))
    places = np.arange(64) + np.arange(64) // 8
    spread = matrix.spread_columns(places, 72)
    expected = np.zeros((16, 72), np.float32)
    expected[:, places] = values(given)
    np.testing.assert_array_equal(spread.dequantize(), expected)
    assert spread.order is not None
    np.testing.assert_array_equal(dequantize_blockwise(spread.blockwise(32)), expected[:, spread.order])


def test_scales_beyond_float16_are_counted_and_those_within_are_kept() -> None:
    given = random_matrix(64, 32)
    tensors = pack("awq", given)
    tensors["scales"] = tensors["scales"].astype(np.float32)
    assert count_rounded(stored(tensors)["scales"]) == 0
    tensors["scales"][1, 3] *= np.float32(1 + 2**-14)
    rounded = opened(tensors, PackedFormat(Packing.OUTPUT, 4, 32))
    assert count_rounded(stored(tensors)["scales"]) == 1
    np.testing.assert_array_equal(rounded.blockwise(32).scales, given["scales"])
    assert rounded.dequantize()[3, 40] == np.float32(tensors["scales"][1, 3]) * (
        float(given["codes"][3, 40]) - float(given["zeros"][3, 1])
    )


def without(part: str) -> Any:
    def change(tensors: Arrays) -> None:
        del tensors[part]

    return change


def replaced(part: str, change: Any) -> Any:
    def apply(tensors: Arrays) -> None:
        tensors[part] = change(tensors[part])

    return apply


def overlapping(g_idx: NDArray[Any]) -> NDArray[Any]:
    return np.where(g_idx == 1, 0, g_idx).astype(np.int32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("g_idx"), r"no tensor module\.g_idx"),
        (without("qzeros"), r"no tensor module\.qzeros"),
        (without("scales"), r"no tensor module\.scales"),
        (replaced("qweight", lambda array: array.astype(np.float32)), r"module\.qweight is F32"),
        (replaced("qweight", lambda array: array[0]), r"module\.qweight is I32 \[16\]"),
        (replaced("qweight", lambda array: array[:-1]), r"module\.scales|module\.g_idx"),
        (replaced("qzeros", lambda array: array[:, :-1]), r"module\.qzeros is I32 \[2, 1\].* needs I32 \[2, 2\]"),
        (replaced("scales", lambda array: array[:-1]), r"module\.scales is F16 \[1, 16\].* needs .* \[2, 16\]"),
        (
            replaced("scales", lambda array: array.astype(np.float32) * np.inf),
            r"module\.scales has scales that are not",
        ),
        (replaced("scales", lambda array: array.astype(np.float32) + 1e5), r"too large for float16"),
        (replaced("scales", lambda array: array * np.float16(np.nan)), r"module\.scales has scales that are not"),
        (replaced("g_idx", overlapping), r"module\.g_idx does not put 64 columns into 2 groups of 32"),
        (replaced("g_idx", lambda array: array - 1), r"module\.g_idx does not put"),
        (replaced("g_idx", lambda array: array[:-8]), r"module\.g_idx is I32 \[56\]"),
    ],
)
def test_a_damaged_matrix_is_refused_by_name(damage: Any, message: str) -> None:
    tensors = pack("gptq", random_matrix(64, 32))
    damage(tensors)
    with pytest.raises(CheckpointError, match=message):
        opened(tensors, PackedFormat(Packing.INPUT, 4, 32, zero_offset=1, act_order=True))


def test_groups_that_no_block_fits_are_refused() -> None:
    tensors = pack("gptq", random_matrix(72, 24))
    with pytest.raises(CheckpointError, match="groups of 24; supported are multiples of 16"):
        opened(tensors, PackedFormat(Packing.INPUT, 4, 24, zero_offset=1))


def test_zero_points_that_programs_read_differently_are_refused() -> None:
    given = random_matrix(64, 32)
    given["zeros"][2, 1] = 0
    tensors = pack("gptq", given)
    packed = PackedFormat(Packing.INPUT, 4, 32, zero_offset=1)
    np.testing.assert_array_equal(opened(tensors, packed).dequantize(), values(given))
    with pytest.raises(CheckpointError, match=r"module\.qzeros has zero points of -1"):
        opened(tensors, packed, zeros_wrap=False)


def test_asymmetric_weights_of_8_bits_are_refused() -> None:
    given = random_matrix(64, 32)
    tensors = pack("gptq", given, 8)
    with pytest.raises(CheckpointError, match="module has asymmetric weights of 8 bits"):
        opened(tensors, PackedFormat(Packing.INPUT, 8, 32, zero_offset=1))
