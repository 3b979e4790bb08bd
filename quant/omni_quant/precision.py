"""How weights are stored and what their products take: the words that `policy` is written in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

GROUP_SIZES = (16, 32, 64, 128, 256)
DEFAULT_GROUP_SIZE = 32


class Kind(str, Enum):
    """The number format of weights; the value is its name in options and in a bundle's manifest.

    MIXED is what an export may ask for, and no format: INT4, with INT8 where four bits cost most.
    """

    INT4 = "int4"
    MIXED = "mixed"
    INT8 = "int8"
    INT16 = "int16"
    FP32 = "fp32"

    @property
    def bits(self) -> int:
        """Bits of one weight in a format."""
        return {Kind.INT4: 4, Kind.INT8: 8, Kind.INT16: 16, Kind.FP32: 32}[self]


# What an export may ask for; other kinds are what `policy` makes of a part.
EXPORT_KINDS = (Kind.INT4, Kind.MIXED, Kind.INT8, Kind.FP32)


class CacheKind(str, Enum):
    """The number format of the Thinker's keys and values."""

    FP32 = "fp32"
    INT8 = "int8"


@dataclass(frozen=True)
class Precision:
    """What an export asks for, and what a manifest states of a graph.

    What each graph makes of it stands in `policy`.

    Attributes:
        kind: of the weights.
        group_size: weights along the input axis that share a scale, one of `GROUP_SIZES`; no meaning in fp32
            and int16.
    """

    kind: Kind = Kind.FP32
    group_size: int = DEFAULT_GROUP_SIZE

    def __str__(self) -> str:
        return self.kind.value if self.kind in (Kind.FP32, Kind.INT16) else f"{self.kind.value} g{self.group_size}"


class Scales(Enum):
    """Which weights share a scale; the value is its name in docs/accuracy.md."""

    NONE = "no scales"
    GROUP = "per group"
    OUTPUT = "per output"


class Activations(Enum):
    """What a product multiplies its weights by; the value is its name in docs/accuracy.md."""

    NONE = "no product"
    FLOAT32 = "float32"
    INT8_PER_GROUP = "INT8, scaled per group"
    INT8_PER_CALL = "INT8, scaled per call"


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of one part of a graph are stored and multiplied.

    Attributes:
        kind: the number format.
        scales: which weights share a scale.
        activations: the other operand of their products.
        group_size: weights that share a scale. 0, in the table of `policy` only: as many as the export asks for.
        float16_scales: scales per group are float16, otherwise float32.
        zero_points: each group has an integer zero point, otherwise it is half the range.
    """

    kind: Kind
    scales: Scales
    activations: Activations
    group_size: int = 0
    float16_scales: bool = False
    zero_points: bool = False

    @property
    def initializers(self) -> int:
        """Tensors that a graph stores for a matrix: the weight, its scales, its zero points."""
        return 1 if self.kind is Kind.FP32 else 2 + self.zero_points

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its share of the group's scale and zero point; padding is left out."""
        if self.scales is not Scales.GROUP:
            return float(self.kind.bits)
        scale = 16 if self.float16_scales else 32
        return self.kind.bits + (scale + self.zero_points * self.kind.bits) / self.group_size

    def __str__(self) -> str:
        if self.kind is Kind.FP32:
            return str(self.kind.value)
        group = f" g{self.group_size}" if self.scales is Scales.GROUP else ""
        zero_points = ", zero points" if self.zero_points else ""
        return f"{self.kind.value}{group}{zero_points}, {self.bits_per_weight:.4g} bits"
