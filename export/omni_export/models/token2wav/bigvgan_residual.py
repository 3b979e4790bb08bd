"""The parts of BigVGAN's residual blocks, in any precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omni_export.checkpoint.checkpoint import Scope


@dataclass(frozen=True)
class ActivatedConv:
    """An activation and the convolution after it.

    Attributes:
        activation, convolution: weights.
        activation_path, path: paths of activation and convolution in the graph.
        taps, dilation: of the convolution.
    """

    activation: Scope
    convolution: Scope
    activation_path: str
    path: str
    taps: int
    dilation: int

    @property
    def reach(self) -> int:
        """Samples that the convolution sees on either side."""
        return (self.taps - 1) * self.dilation // 2


@dataclass(frozen=True)
class Unit:
    """Activation, dilated convolution, activation, convolution (reference: one pass of `Qwen2_5OmniAMPBlock`'s loop).

    Attributes:
        weights: the block's: `activations.<2 index>` and the next one, `convs1.<index>`, `convs2.<index>`.
        index: of the unit in the block.
        path: of the unit in the graph.
        taps: of both convolutions.
        dilation: of the first one.
    """

    weights: Scope
    index: int
    path: str
    taps: int
    dilation: int

    def convolutions(self) -> Iterator[ActivatedConv]:
        """The unit's two convolutions, each with its activation."""
        for number, dilation in ((1, self.dilation), (2, 1)):
            yield ActivatedConv(
                self.weights.scope(f"activations.{2 * self.index + number - 1}"),
                self.weights.scope(f"convs{number}.{self.index}"),
                f"{self.path}/act{number}",
                f"{self.path}/conv{number}",
                self.taps,
                dilation,
            )
