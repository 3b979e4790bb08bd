"""What the filters of a streamed signal remember from one run of a graph to the next.

A filter that sees n samples to its left gets them from the run before: each signal has one state tensor, an input and
an output of the graph, that holds the last samples before the boundary between what is finished and what is only looked
ahead at, for every filter over it. Nothing to the left is ever computed twice.
"""

from __future__ import annotations

from omni_export.graph.builder import GraphBuilder

STATE_PREFIX = "state."


class Boundary:
    """Where the finished part of a signal ends, as int64 [1] values of the graph.

    Args:
        g: the graph.
        ahead: int64 [1], samples of the signal that lie beyond the boundary.

    Attributes:
        stop: int64 [1], how many lie before it.
    """

    def __init__(self, g: GraphBuilder, ahead: str) -> None:
        self._g = g
        self.ahead = ahead
        self._name = ""
        self.stop = ""
        self._stops: dict[int, str] = {}

    def scale(self, rate: int, name: str) -> None:
        """The signal has been up-sampled by `rate`."""
        self.ahead = self._g.op("Mul", [self.ahead, self._g.const([rate])], f"{name}/ahead")

    def at(self, x: str, name: str) -> None:
        """`x` [..., T] is the signal from here on."""
        length = self._g.op("Shape", [x], f"{name}/length", start=3, end=4)
        self._name = name
        self.stop = self._g.op("Sub", [length, self.ahead], f"{name}/boundary")
        self._stops = {}

    def crop(self, x: str, keep: str | None, name: str) -> str:
        """`x` without what lies more than `keep` samples (int64 [1]; None: at all) beyond the boundary."""
        g = self._g
        remaining = g.op("Min", [self.ahead, keep], f"{name}/remaining") if keep else g.const([0])
        surplus = g.op("Sub", [self.ahead, remaining], f"{name}/surplus")
        length = g.op("Shape", [x], f"{name}/length", start=3, end=4)
        stop = g.op("Sub", [length, surplus], f"{name}/stop")
        self.ahead = remaining
        return g.op("Slice", [x, g.const([0]), stop, g.const([3])], name)

    def before(self, extended: str, samples: int, name: str) -> str:
        """The `samples` before the boundary, of a signal that has as many in front of it."""
        if samples not in self._stops:
            stop = self._g.op("Add", [self.stop, self._g.const([samples])], f"{self._name}/boundary/{samples}")
            self._stops[samples] = stop
        return self._g.op("Slice", [extended, self.stop, self._stops[samples], self._g.const([3])], name)


class Carried:
    """The state tensor of one signal of `channels` channels: float32 [1, channels, 1, samples].

    Args:
        g: the graph.
        boundary: of the signal.
        index: the tensor is `state.<index>` as input, `next_state.<index>` as output.
        channels: of the signal.
    """

    def __init__(self, g: GraphBuilder, boundary: Boundary, index: int, channels: int) -> None:
        self.boundary = boundary
        self._g = g
        self._input = f"{STATE_PREFIX}{index}"
        self._channels = channels
        self._samples = 0
        self._kept: list[str] = []

    def take(self, samples: int, name: str) -> str:
        """What the last run `keep`t here, [1, channels, 1, samples]."""
        g = self._g
        start, self._samples = self._samples, self._samples + samples
        return g.op("Slice", [self._input, g.const([start]), g.const([self._samples]), g.const([3])], f"{name}/state")

    def keep(self, piece: str) -> None:
        """Hands `piece` to the next run; calls follow the order of `take`."""
        self._kept.append(piece)

    def extend(self, x: str, samples: int, name: str) -> str:
        """`x` [1, channels, 1, T] with its last `samples` samples of the run before in front; zeros at the start."""
        extended = self._g.op("Concat", [self.take(samples, name), x], f"{name}/extended", axis=3)
        self.keep(self.boundary.before(extended, samples, f"{name}/next"))
        return extended

    def close(self) -> None:
        """Declares the tensor; no filter follows."""
        shape = [1, self._channels, 1, self._samples]
        self._g.input(self._input, shape)
        kept = self._g.op("Concat", self._kept, f"/next_{self._input}", axis=3)
        self._g.output(kept, f"next_{self._input}", shape)
