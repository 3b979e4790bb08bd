"""Integrates the flow from noise (t = 0) to mel (t = 1).

Every method is a list of time points at which the velocity is evaluated, known in advance, and a trajectory that takes
what comes out: parts of a mel may be at different time points, each on its own trajectory. Reference:
`RungeKutta4ODESolver` and `Qwen2_5OmniToken2WavDiTModel.sample`; all arithmetic on time is float32, as there: the DiT
sees a time a thousand times enlarged, and the last bit of it can be heard in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError

Array = NDArray[np.float32]
Velocity = Callable[[int, Array], Array]
"""(index of the evaluation, state) -> velocity."""
Trajectory = Generator[Array, Array, None]
"""Yields the state at which a velocity is wanted and takes that velocity by `send`; the last one is that at t = 1."""

Method = Literal["euler", "ab2", "rk4"]
_EVALUATIONS_PER_STEP: dict[str, int] = {"euler": 1, "ab2": 1, "rk4": 4}
# What each method is used with where nothing else is asked for; rk4 with 36 is the reference.
_DEFAULT_EVALUATIONS: dict[str, int] = {"euler": 4, "ab2": 4, "rk4": 36}
_THIRD = np.float32(1 / 3)
_TWO_THIRDS = np.float32(2 / 3)


@dataclass(frozen=True)
class SolverSettings:
    """How the DiT is sampled.

    Attributes:
        method: "euler"; "ab2", second-order Adams-Bashforth at the same cost; "rk4", the reference's 3/8 rule.
        evaluations: of the velocity (NFE); a multiple of 4 for "rk4". The reference uses rk4 with 36.
        guidance: weight g in `v + g (v - v_unconditional)`; 0 leaves the unconditional row out and halves the cost.
        sway: moves time points towards the noise (negative) or the mel (positive); the reference uses -1.

    Raises:
        UsageError: a value outside of what is possible.
    """

    method: Method = "euler"
    evaluations: int = 4
    guidance: float = 0.5
    sway: float = -1.0

    def __post_init__(self) -> None:
        if self.method not in _EVALUATIONS_PER_STEP:
            raise UsageError(f"There is no solver {self.method!r}; the solvers are {', '.join(get_args(Method))}.")
        per_step = _EVALUATIONS_PER_STEP[self.method]
        if self.evaluations < 1 or self.evaluations % per_step:
            raise UsageError(
                f"{self.evaluations} evaluations do not make whole steps of {self.method}; "
                f"take a positive multiple of {per_step}."
            )
        if not self.guidance >= 0:
            raise UsageError(f"The guidance is {self.guidance}; it must be 0 (off) or positive.")
        if not -1 <= self.sway <= 2 / (np.pi - 2):
            raise UsageError(f"The sway is {self.sway}; beyond -1 and 1.75 time would run backwards.")

    @classmethod
    def from_options(
        cls, method: str | None = None, evaluations: int | None = None, guidance: float | None = None
    ) -> SolverSettings:
        """Settings of which any may be left open; `evaluations` then follows from the method."""
        given = {"method": method, "evaluations": evaluations, "guidance": guidance}
        if evaluations is None and method in _DEFAULT_EVALUATIONS:
            given["evaluations"] = _DEFAULT_EVALUATIONS[method]
        return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    @property
    def rows(self) -> int:
        """Rows of one evaluation: 2 with guidance, 1 without."""
        return 2 if self.guidance > 0 else 1

    def coarser(self, stride: int) -> SolverSettings | None:
        """These settings with every `stride`-th time point alone; None where that is not a solver."""
        if _EVALUATIONS_PER_STEP[self.method] > 1 or self.evaluations % stride:
            return None
        return replace(self, evaluations=self.evaluations // stride)

    def steps(self) -> Array:
        """The ends of the steps, float32 from 0 to 1."""
        count = self.evaluations // _EVALUATIONS_PER_STEP[self.method]
        # Counted from both ends and rounded once, as torch.linspace does; the cosine correctly rounded.
        index = np.arange(count + 1)
        width = np.float64(np.float32(1 / count))
        line = np.where(index < (count + 1) // 2, index * width, 1 - (count - index) * width).astype(np.float32)
        cosine = np.cos((np.float32(np.pi / 2) * line).astype(np.float64)).astype(np.float32)
        points: Array = line + np.float32(self.sway) * (cosine - np.float32(1) + line)
        return points

    def times(self) -> Array:
        """float32 [evaluations]: the time of each evaluation."""
        points = self.steps()
        if self.method != "rk4":
            return points[:-1]
        begin, width = points[:-1], np.diff(points)
        stages = [begin, begin + width * _THIRD, begin + width * _TWO_THIRDS, points[1:]]
        times: Array = np.stack(stages, axis=1).reshape(-1)
        return times


def trajectory(start: Array, settings: SolverSettings) -> Trajectory:
    """From `start` (t = 0) to t = 1; asks for `settings.evaluations` velocities."""
    step = {"euler": _euler, "ab2": _adams_bashforth, "rk4": _runge_kutta}[settings.method]
    return step(start, np.diff(settings.steps()))


def solve(velocity: Velocity, start: Array, settings: SolverSettings) -> Array:
    """The state at t = 1, float32 of `start`'s shape."""
    path = trajectory(start, settings)
    x = next(path)
    for index in range(settings.evaluations):
        x = path.send(velocity(index, x))
    return x


def _euler(x: Array, widths: Array) -> Trajectory:
    for width in widths:
        x = x + width * (yield x)
    yield x


def _adams_bashforth(x: Array, widths: Array) -> Trajectory:
    """Two-step Adams-Bashforth on unequal steps; the first step is Euler's."""
    before: Array | None = None
    for index, width in enumerate(widths):
        now = yield x
        slope = now if before is None else now + width / (2 * widths[index - 1]) * (now - before)
        x = x + width * slope
        before = now
    yield x


def _runge_kutta(x: Array, widths: Array) -> Trajectory:
    """The 3/8 rule."""
    for width in widths:
        first = yield x
        second = yield x + width * first * _THIRD
        third = yield x + width * (second - first * _THIRD)
        fourth = yield x + width * (first - second + third)
        x = x + (first + 3 * (second + third) + fourth) * width / 8
    yield x
