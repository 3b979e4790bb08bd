"""The one table that says what each graph makes of each precision. Nothing else decides about precision.

A graph has parts. A part has a column for each `Kind` that an export may ask for, with the format of its weights.
Builders name the part that a weight belongs to and get its format from here; the command line, docs/accuracy.md and the
tests read the same table. A new recipe is a new row or column here and, for a new format, a case in
`omni_export.graph.linear`.

Norms, biases and all that is not a weight of a product, a convolution or a table stay in float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from omni_quant.precision import Activations, Kind, Precision, Scales, WeightFormat

Part = Mapping[Kind, WeightFormat]
"""What the export asks for -> the format of the part's weights."""

# Matrices of a decoder's layers that have a column of their own.
SENSITIVE_PART = "sensitive_matrices"

# Our compiled operators take groups of whole vectors; smaller groups are left to onnxruntime's MatMulNBits.
SMALLEST_COMPILED_GROUP = 32


def _part(int8: WeightFormat, int4: WeightFormat, mixed: WeightFormat | None = None) -> Part:
    return MappingProxyType({Kind.FP32: _FLOAT32, Kind.INT8: int8, Kind.INT4: int4, Kind.MIXED: mixed or int4})


_FLOAT32 = WeightFormat(Kind.FP32, Scales.NONE, Activations.FLOAT32)
# Activations in INT8 make products two to three times as fast on every CPU with integer dot products.
_INT8 = WeightFormat(Kind.INT8, Scales.GROUP, Activations.INT8_PER_GROUP, float16_scales=True)
_INT4 = WeightFormat(Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP, float16_scales=True, zero_points=True)
_INT8_TABLE = replace(_INT8, activations=Activations.NONE)
_INT8_WEIGHTS = replace(_INT8, activations=Activations.FLOAT32)
# The group has no effect: the manifest of format 1 states one for every graph.
_INT8_DYNAMIC = WeightFormat(Kind.INT8, Scales.OUTPUT, Activations.INT8_PER_CALL, group_size=128)
_INT16 = WeightFormat(Kind.INT16, Scales.OUTPUT, Activations.FLOAT32)

FLOAT32 = _part(_FLOAT32, _FLOAT32)
AS_ASKED = _part(_INT8, _INT4)
# Matrices of a decoder that lose most in four bits for what they save: see `decoder_part`.
SENSITIVE = _part(_INT8, _INT4, mixed=_INT8)
# Four bits cost these matrices more quality than they save time.
EIGHT_BITS = _part(_INT8, _INT8)
# A row is read once per token: four bits less would save no time.
TABLE = _part(_INT8_TABLE, _INT8_TABLE)
# The graph runs once per solver setting: speed is no concern.
WEIGHTS_ONLY = _part(_INT8_WEIGHTS, _INT8_WEIGHTS)
# Faster than scales per group from a few tens of rows up; there is no INT4 kernel of this kind.
DYNAMIC = _part(_INT8_DYNAMIC, _INT8_DYNAMIC)
# A hundred convolutions in a row: what INT8 leaves out can be heard.
CONVOLUTIONS = _part(_INT16, _INT16)


@dataclass(frozen=True)
class GraphPolicy:
    """What one graph makes of each precision.

    Attributes:
        parts: part's name -> formats. The manifest states the precision of the first part.
        instead_of_int4: what the graph gets in an export in INT4 or MIXED that does not name it; None: what is asked.
    """

    parts: Mapping[str, Part]
    instead_of_int4: Kind | None = None


POLICY: Mapping[str, GraphPolicy] = MappingProxyType(
    {
        # The convolutions are 1 % of the weights.
        "audio_encoder": GraphPolicy({"matrices": AS_ASKED, "convolutions": FLOAT32}, Kind.INT8),
        "vision_encoder": GraphPolicy({"matrices": AS_ASKED, "patch_embedding": FLOAT32}, Kind.INT8),
        "token_embedding": GraphPolicy({"table": TABLE}),
        "thinker": GraphPolicy({"layers": AS_ASKED, SENSITIVE_PART: SENSITIVE, "head": EIGHT_BITS}),
        "talker": GraphPolicy(
            {
                "layers": AS_ASKED,
                SENSITIVE_PART: SENSITIVE,
                "projection": EIGHT_BITS,
                "head": EIGHT_BITS,
                "codec_table": TABLE,
            },
            # INT4 throughout costs 0.034 nats per codec token, this 0.011: docs/accuracy.md.
            Kind.MIXED,
        ),
        "dit": GraphPolicy({"layers": DYNAMIC, "input": FLOAT32, "output": FLOAT32}),
        "dit_time": GraphPolicy({"modulation": WEIGHTS_ONLY, "time_embedding": FLOAT32}),
        "bigvgan": GraphPolicy({"residual_blocks": CONVOLUTIONS, "other_convolutions": FLOAT32}),
    }
)


def decoder_part(layer: int, layers: int, matrix: str) -> str:
    """The part of a decoder's graph that a matrix belongs to.

    Sensitive are the projections to Q, K and V of all layers, and all matrices of the first and the last layer.

    Args:
        layer: index of the matrix's layer.
        layers: their number.
        matrix: its name, one of `omni_export.models.decoder_layer.MATRICES`.
    """
    return SENSITIVE_PART if matrix == "qkv" or layer in (0, layers - 1) else "layers"


def default_precision(role: str, asked: Precision) -> Precision:
    """The precision of graph `role` in an export that asks for `asked` and does not name the graph."""
    instead = POLICY[role].instead_of_int4
    return replace(asked, kind=instead) if instead and asked.kind in (Kind.INT4, Kind.MIXED) else asked


def formats(role: str, precision: Precision) -> dict[str, WeightFormat]:
    """Part -> format of the weights of graph `role` in `precision`, with the size of the groups filled in."""
    columns = {name: part[precision.kind] for name, part in POLICY[role].parts.items()}
    return {
        name: replace(column, group_size=column.group_size or precision.group_size) for name, column in columns.items()
    }


def published_format(bits: int, group_size: int) -> WeightFormat:
    """The format of a matrix that the checkpoint has quantized already, to `bits` (4 or 8), symmetric where it is 8."""
    kind = Kind.INT4 if bits == Kind.INT4.bits else Kind.INT8
    return WeightFormat(
        kind,
        Scales.GROUP,
        Activations.INT8_PER_GROUP,
        group_size,
        float16_scales=True,
        zero_points=kind is Kind.INT4,
    )


def stated_precision(parts: Mapping[str, WeightFormat]) -> Precision:
    """What the manifest states of a graph with these parts: the first one's."""
    first = next(iter(parts.values()))
    return Precision(first.kind, first.group_size)


def has_compiled_operator(weights: WeightFormat) -> bool:
    """Whether our own operators multiply by such weights."""
    return (
        weights.activations is Activations.INT8_PER_GROUP
        and weights.group_size >= SMALLEST_COMPILED_GROUP
        and (weights.kind is Kind.INT4 or not weights.zero_points)
    )
