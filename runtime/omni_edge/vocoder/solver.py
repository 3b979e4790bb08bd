"""Integration of the flow from noise (t = 0) to mel (t = 1).

A method evaluates the velocity at time points that are known in advance. `SolverState` is the progress of one block, so
the blocks of an utterance may stand at different evaluations. Reference: `RungeKutta4ODESolver` and
`Qwen2_5OmniToken2WavDiTModel.sample` of transformers. Arithmetic on time is float32, as there: the DiT multiplies time
by 1000, which makes its last bit visible in the mel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError

Array = NDArray[np.float32]
Velocity = Callable[[int, Array], Array]
"""(index of the evaluation, float32 argument) -> velocity, float32 of the argument's shape."""

Method = Literal["euler", "ab2", "rk4"]
_EVALUATIONS_PER_STEP: dict[str, int] = {"euler": 1, "ab2": 1, "rk4": 4}
# Defaults of `SolverSettings.from_options`; the reference uses rk4 with 36.
_DEFAULT_EVALUATIONS: dict[str, int] = {"euler": 4, "ab2": 4, "rk4": 36}
# Far beyond any use: an evaluation keeps tables and state of its own, and a mel grows with the guidance.
_MOST_EVALUATIONS = 1000
_MOST_GUIDANCE = 100.0
_THIRD = np.float32(1 / 3)
_TWO_THIRDS = np.float32(2 / 3)


@dataclass(frozen=True)
class SolverSettings:
    """The method that samples the DiT, and its parameters.

    Attributes:
        method: "euler"; "ab2", second-order Adams-Bashforth at the same cost; "rk4", the reference's 3/8 rule.
        evaluations: evaluations of the velocity per block (NFE); a multiple of 4 for "rk4".
        guidance: weight g of `v + g (v - v_unconditional)`. 0 leaves the unconditional row out and halves the cost.
        sway: moves time points towards the noise (negative) or the mel (positive), in [-1, 1.75]. The reference uses
            -1 (sway sampling: F5-TTS, arXiv 2410.06885).

    Raises:
        UsageError: a value out of its range.
    """

    method: Method = "euler"
    evaluations: int = 4
    guidance: float = 0.5
    sway: float = -1.0

    def __post_init__(self) -> None:
        if self.method not in _EVALUATIONS_PER_STEP:
            raise UsageError(f"There is no solver {self.method!r}; the solvers are {', '.join(get_args(Method))}.")
        per_step = _EVALUATIONS_PER_STEP[self.method]
        if not 1 <= self.evaluations <= _MOST_EVALUATIONS or self.evaluations % per_step:
            raise UsageError(
                f"{self.evaluations} evaluations are not whole steps of {self.method}; "
                f"choose a multiple of {per_step} from {per_step} to {_MOST_EVALUATIONS}."
            )
        if not 0 <= self.guidance <= _MOST_GUIDANCE:
            raise UsageError(f"The guidance is {self.guidance}; it must be from 0 (off) to {_MOST_GUIDANCE:g}.")
        if not -1 <= self.sway <= 2 / (np.pi - 2):
            raise UsageError(f"The sway is {self.sway}; it must be from -1 to 1.75, or time would run backwards.")

    @classmethod
    def from_options(
        cls, method: str | None = None, evaluations: int | None = None, guidance: float | None = None
    ) -> SolverSettings:
        """Settings from options, None for a default. The default of `evaluations` is 4, for "rk4" 36.

        Raises:
            UsageError: a value out of its range.
        """
        options = {"method": method, "evaluations": evaluations, "guidance": guidance}
        if evaluations is None and method in _DEFAULT_EVALUATIONS:
            options["evaluations"] = _DEFAULT_EVALUATIONS[method]
        return cls(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]

    @property
    def rows(self) -> int:
        """Rows of one run of the DiT: 2 with guidance (conditional, unconditional), 1 without."""
        return 2 if self.guidance > 0 else 1

    def coarser(self, stride: int) -> SolverSettings | None:
        """The settings that keep every `stride`-th time point of these; None if these do not divide that way."""
        if _EVALUATIONS_PER_STEP[self.method] > 1 or self.evaluations % stride:
            return None
        return replace(self, evaluations=self.evaluations // stride)

    def steps(self) -> Array:
        """The time points between steps, float32 [steps + 1], from 0 to 1."""
        count = self.evaluations // _EVALUATIONS_PER_STEP[self.method]
        # As torch.linspace: counted from both ends, rounded once. The cosine is correctly rounded.
        index = np.arange(count + 1)
        width = np.float64(np.float32(1 / count))
        line = np.where(index < (count + 1) // 2, index * width, 1 - (count - index) * width).astype(np.float32)
        cosine = np.cos((np.float32(np.pi / 2) * line).astype(np.float64)).astype(np.float32)
        points: Array = line + np.float32(self.sway) * (cosine - np.float32(1) + line)
        return points

    @cached_property
    def widths(self) -> Array:
        """The widths of the steps in time, float32 [steps]."""
        return np.diff(self.steps())

    def times(self) -> Array:
        """The time of each evaluation, float32 [evaluations]."""
        points = self.steps()
        if self.method != "rk4":
            return points[:-1]
        begin, width = points[:-1], self.widths
        stages = [begin, begin + width * _THIRD, begin + width * _TWO_THIRDS, points[1:]]
        times: Array = np.stack(stages, axis=1).reshape(-1)
        return times


@dataclass(frozen=True)
class SolverState:
    """Progress of one array on its way from noise (t = 0) to mel (t = 1).

    Attributes:
        x: float32 [frames, mel_dim], the solution at the start of the current step; after the last step, at t = 1.
        evaluation: velocities that `advance` has taken.
        velocities: float32 [frames, mel_dim] each, earlier velocities that the method still needs: the last one for
            "ab2", those of the current step for "rk4".
    """

    x: Array
    evaluation: int = 0
    velocities: tuple[Array, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.x.nbytes + sum(velocity.nbytes for velocity in self.velocities)


def evaluation_point(state: SolverState, settings: SolverSettings) -> Array:
    """The argument of the next velocity, float32 of the shape of `state.x`."""
    if settings.method != "rk4" or not state.velocities:
        return state.x
    width = settings.widths[state.evaluation // _EVALUATIONS_PER_STEP["rk4"]]
    first, *others = state.velocities
    if not others:
        increment: Array = width * first * _THIRD
    elif len(others) == 1:
        increment = width * (others[0] - first * _THIRD)
    else:
        increment = width * (first - others[0] + others[1])
    return state.x + increment


def advance(state: SolverState, velocity: Array, settings: SolverSettings) -> SolverState:
    """The state after one more velocity.

    Args:
        state: the state before it, which is not changed.
        velocity: the velocity at `evaluation_point(state, settings)`, float32 of its shape.
        settings: the settings of all velocities of this state.
    """
    return _ADVANCE[settings.method](state, velocity, settings.widths)


def solve(velocity: Velocity, noise: Array, settings: SolverSettings) -> Array:
    """The solution at t = 1, float32 of the shape of `noise`."""
    state = SolverState(noise)
    for index in range(settings.evaluations):
        state = advance(state, velocity(index, evaluation_point(state, settings)), settings)
    return state.x


def _euler(state: SolverState, velocity: Array, widths: Array) -> SolverState:
    return SolverState(state.x + widths[state.evaluation] * velocity, state.evaluation + 1)


def _adams_bashforth(state: SolverState, velocity: Array, widths: Array) -> SolverState:
    """Two-step Adams-Bashforth on unequal steps; the first step is Euler's."""
    width, slope = widths[state.evaluation], velocity
    if state.velocities:
        before = state.velocities[0]
        slope = velocity + width / (2 * widths[state.evaluation - 1]) * (velocity - before)
    return SolverState(state.x + width * slope, state.evaluation + 1, (velocity,))


def _runge_kutta(state: SolverState, velocity: Array, widths: Array) -> SolverState:
    """The 3/8 rule, in the order of operations of the reference."""
    per_step = _EVALUATIONS_PER_STEP["rk4"]
    if len(state.velocities) < per_step - 1:
        return SolverState(state.x, state.evaluation + 1, (*state.velocities, velocity))
    first, second, third = state.velocities
    width = widths[state.evaluation // per_step]
    x = state.x + (first + 3 * (second + third) + velocity) * width / 8
    return SolverState(x, state.evaluation + 1)


_ADVANCE = {"euler": _euler, "ab2": _adams_bashforth, "rk4": _runge_kutta}
