"""What a residual block of BigVGAN consists of, whichever way its units become nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from omni_export.checkpoint.checkpoint import Scope
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav.stream_state import Carried


@dataclass(frozen=True)
class Half:
    """A snake and the convolution after it: their weights, paths in the graph, and the convolution's size."""

    activation: Scope
    convolution: Scope
    activation_path: str
    path: str
    taps: int
    dilation: int

    @property
    def reach(self) -> int:
        """Samples that the convolution sees to either side."""
        return (self.taps - 1) * self.dilation // 2


@dataclass(frozen=True)
class Unit:
    """Snake, dilated convolution, snake, convolution (reference: a turn of `Qwen2_5OmniAMPBlock`'s loop).

    Attributes:
        weights: of the block: `activations.<2 index>` and the one after it, `convs1.<index>`, `convs2.<index>`.
        index: of the unit in the block.
        path: in the graph.
        taps: of both convolutions.
        dilation: of the first one.
    """

    weights: Scope
    index: int
    path: str
    taps: int
    dilation: int

    def halves(self) -> Iterator[Half]:
        """The two of them."""
        for number, dilation in ((1, self.dilation), (2, 1)):
            yield Half(
                self.weights.scope(f"activations.{2 * self.index + number - 1}"),
                self.weights.scope(f"convs{number}.{self.index}"),
                f"{self.path}/act{number}",
                f"{self.path}/conv{number}",
                self.taps,
                dilation,
            )


class Residual(Protocol):
    """How a unit becomes nodes; returns `x` with what it adds to it."""

    def __call__(self, g: GraphBuilder, x: str, carried: Carried, unit: Unit) -> str: ...


class Convolution(Protocol):
    """How a dense float32 convolution over time becomes nodes; returns its output."""

    def __call__(
        self, g: GraphBuilder, x: str, carried: Carried, weights: Scope, name: str, kernel: int, dilation: int = 1
    ) -> str: ...
