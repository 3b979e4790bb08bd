"""The state of a streamed signal's filters, from one run of a graph to the next.

A filter that sees n samples to its left gets them from the previous run. Each signal has one state tensor, an input and
an output of the graph. It holds, for every filter over the signal, the last samples before the boundary between
finished samples and look-ahead. Nothing to the left is computed twice.
"""

from __future__ import annotations

from omni_export.graph.builder import GraphBuilder

STATE_PREFIX = "state."


class Boundary:
    """The end of the finished part of a signal.

    Args:
        g: the graph.
        ahead: int64 [1], samples of the signal after the boundary.

    Attributes:
        stop: int64 [1], samples of the signal before the boundary.
    """

    def __init__(self, g: GraphBuilder, ahead: str) -> None:
        self._g = g
        self.ahead = ahead
        self._name = ""
        self.stop = ""
        self._stops: dict[int, str] = {}

    def scale(self, rate: int, name: str) -> None:
        """Moves the boundary of a signal that is up-sampled by `rate`."""
        self.ahead = self._g.op("Mul", [self.ahead, self._g.const([rate])], f"{name}/ahead")

    def at(self, x: str, name: str) -> None:
        """Makes `x` [..., T] the signal."""
        length = self._g.op("Shape", [x], f"{name}/length", start=3, end=4)
        self._name = name
        self.stop = self._g.op("Sub", [length, self.ahead], f"{name}/boundary")
        self._stops = {}

    def crop(self, x: str, keep: str | None, name: str) -> str:
        """`x` with at most `keep` samples (int64 [1]; None: none) after the boundary."""
        g = self._g
        remaining = g.op("Min", [self.ahead, keep], f"{name}/remaining") if keep else g.const([0])
        surplus = g.op("Sub", [self.ahead, remaining], f"{name}/surplus")
        length = g.op("Shape", [x], f"{name}/length", start=3, end=4)
        stop = g.op("Sub", [length, surplus], f"{name}/stop")
        self.ahead = remaining
        return g.op("Slice", [x, g.const([0]), stop, g.const([3])], name)

    def before(self, extended: str, samples: int, name: str) -> str:
        """The last `samples` samples before the boundary; `extended` has as many in front of the signal."""
        if samples not in self._stops:
            stop = self._g.op("Add", [self.stop, self._g.const([samples])], f"{self._name}/boundary/{samples}")
            self._stops[samples] = stop
        return self._g.op("Slice", [extended, self.stop, self._stops[samples], self._g.const([3])], name)


class StreamState:
    """The state tensor of one signal of `channels` channels: float32 [1, channels, 1, samples].

    Args:
        g: the graph.
        boundary: of the signal.
        index: the tensor is the input `state.<index>` and the output `next_state.<index>`.
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
        """The piece that the previous run kept here, [1, channels, 1, samples]."""
        g = self._g
        start, self._samples = self._samples, self._samples + samples
        return g.op("Slice", [self._input, g.const([start]), g.const([self._samples]), g.const([3])], f"{name}/state")

    def keep(self, piece: str) -> None:
        """Keeps `piece` for the next run. Calls are in the order of the calls of `take`."""
        self._kept.append(piece)

    def extend(self, x: str, samples: int, name: str) -> str:
        """`x` [1, channels, 1, T] after the last `samples` samples of the previous run; at the start, after zeros."""
        extended = self._g.op("Concat", [self.take(samples, name), x], f"{name}/extended", axis=3)
        self.keep(self.boundary.before(extended, samples, f"{name}/next"))
        return extended

    def close(self) -> None:
        """Declares the tensor, after the last filter."""
        shape = [1, self._channels, 1, self._samples]
        self._g.input(self._input, shape)
        kept = self._g.op("Concat", self._kept, f"/next_{self._input}", axis=3)
        self._g.output(kept, f"next_{self._input}", shape)
