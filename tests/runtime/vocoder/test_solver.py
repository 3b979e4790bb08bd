"""The solver: time points, methods, states and settings; and the noise at which it starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_edge.errors import UsageError
from omni_edge.vocoder.noise import seeded_noise
from omni_edge.vocoder.solver import (
    Array,
    SolverSettings,
    SolverState,
    Velocity,
    advance,
    evaluation_point,
    solve,
)


@pytest.mark.parametrize("points", [2, 3, 5, 10, 33])
def test_time_points_are_the_reference_points(points: int) -> None:
    """Equal bits at the reference's setting; elsewhere the last bit of torch's cosine may differ."""
    import torch

    time = torch.linspace(0, 1, points)
    time = time + -1.0 * (torch.cos(torch.pi / 2 * time) - 1 + time)
    steps = SolverSettings("euler", points - 1).steps()
    np.testing.assert_allclose(steps, time.numpy(), rtol=0, atol=0 if points == 10 else 1.2e-7)
    assert steps.dtype == np.float32


def test_runge_kutta_is_the_reference_solver() -> None:
    import torch
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import RungeKutta4ODESolver

    settings = SolverSettings("rk4", 36)
    times = settings.times()
    matrix = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    start = np.random.default_rng(1).normal(0, 1, (4, 6)).astype(np.float32)
    asked: list[float] = []

    def reference_function(time: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        asked.append(float(time))
        return torch.tanh(x @ torch.from_numpy(matrix)) * (1 + time)

    solver = RungeKutta4ODESolver(function=reference_function, initial_value=torch.from_numpy(start))
    wanted = solver.integrate(torch.from_numpy(settings.steps()))[-1].numpy()
    result = solve(lambda index, x: np.tanh(x @ matrix) * (1 + times[index]), start, settings)
    np.testing.assert_allclose(times, asked, rtol=0, atol=6e-8)
    np.testing.assert_allclose(result, wanted, atol=2e-6)


def plain_solution(velocity: Velocity, x: Array, settings: SolverSettings) -> Array:
    """The methods as loops over their steps, in the reference's order of operations."""
    widths, third = np.diff(settings.steps()), np.float32(1 / 3)
    before = None
    for step, width in enumerate(widths):
        if settings.method == "rk4":
            first = velocity(4 * step, x)
            second = velocity(4 * step + 1, x + width * first * third)
            third_velocity = velocity(4 * step + 2, x + width * (second - first * third))
            fourth = velocity(4 * step + 3, x + width * (first - second + third_velocity))
            x = x + (first + 3 * (second + third_velocity) + fourth) * width / 8
            continue
        slope = now = velocity(step, x)
        if settings.method == "ab2" and before is not None:
            slope = now + width / (2 * widths[step - 1]) * (now - before)
        x, before = x + width * slope, now
    return x


@pytest.mark.parametrize(
    "settings",
    [SolverSettings("euler", 5), SolverSettings("ab2", 5), SolverSettings("rk4", 12), SolverSettings("rk4", 36)],
    ids=lambda settings: f"{settings.method}-{settings.evaluations}",
)
def test_states_give_the_bits_of_the_plain_formula(settings: SolverSettings) -> None:
    matrix = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 1, (4, 6)).astype(np.float32)
    times = settings.times()

    def velocity(index: int, x: Array) -> Array:
        assert x.dtype == np.float32
        return np.tanh(x @ matrix) * (1 + times[index])

    solved = solve(velocity, noise, settings)
    np.testing.assert_array_equal(solved, plain_solution(velocity, noise, settings))
    assert solved.dtype == np.float32


@pytest.mark.parametrize(
    ("method", "arrays"), [("euler", [1, 1, 1, 1, 1]), ("ab2", [1, 2, 2, 2, 2]), ("rk4", [1, 2, 3, 4, 1])]
)
def test_a_state_holds_what_its_method_needs(method: Any, arrays: list[int]) -> None:
    """`advance` does not change its input, so any state can be continued twice."""
    settings = SolverSettings(method, 4)
    state = SolverState(np.ones((3, 2), np.float32))
    states = [state]
    for index in range(4):
        state = advance(state, np.full((3, 2), index, np.float32), settings)
        states.append(state)
    assert [state.evaluation for state in states] == [0, 1, 2, 3, 4]
    assert [state.nbytes for state in states] == [24 * count for count in arrays]
    again = advance(states[2], np.full((3, 2), 2, np.float32), settings)
    np.testing.assert_array_equal(again.x, states[3].x)
    np.testing.assert_array_equal(evaluation_point(again, settings), evaluation_point(states[3], settings))
    np.testing.assert_array_equal(states[0].x, np.ones((3, 2), np.float32))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("rk4", 4)])
def test_solvers_have_their_order_on_unequal_steps(method: Any, order: int) -> None:
    """x' = -2 t x has the solution exp(-t^2); twice the steps divide the error by 2^order."""
    errors = []
    for evaluations in (16, 32):
        settings = SolverSettings(method, evaluations)
        times = settings.times()
        x = solve(lambda index, x, times=times: -2 * np.float32(times[index]) * x, np.ones(1, np.float32), settings)
        errors.append(abs(float(x[0]) - np.exp(-1.0)))
    if order < 4:  # the error of the fourth order is that of float32
        assert 2**order * 0.7 < errors[0] / errors[1] < 2**order * 1.6
    assert errors[1] < {1: 2e-2, 2: 2e-3, 4: 1e-5}[order]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "heun"}, "euler, ab2, rk4"),
        ({"method": "rk4", "evaluations": 10}, "multiple of 4"),
        ({"evaluations": 0}, "multiple of 1 from 1 to 1000"),
        ({"guidance": -0.1}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"sway": -1.5}, "sway"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SolverSettings(**settings)


@pytest.mark.parametrize("method", ["euler", "ab2"])
@pytest.mark.parametrize("evaluations", [2, 4, 6, 10, 12, 32])
def test_half_of_the_evaluations_are_at_the_same_times(method: Any, evaluations: int) -> None:
    solver = SolverSettings(method, evaluations)
    coarser = solver.coarser(2)
    assert coarser == SolverSettings(method, evaluations // 2)
    np.testing.assert_array_equal(coarser.times(), solver.times()[::2])
    assert solver.coarser(evaluations + 1) is None
    assert SolverSettings("rk4", 8).coarser(1) is None


def test_noise_is_addressed_by_position() -> None:
    noise, again, other = (seeded_noise(seed, 24, 80) for seed in ((7, 3), (7, 3), (7, 4)))
    later = noise(5)
    np.testing.assert_array_equal(again(5), later)
    many = np.concatenate([noise(index) for index in range(100)])
    assert many.dtype == np.float32
    assert many.shape == (2400, 80)
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01
    assert abs(np.corrcoef(noise(0).ravel(), noise(1).ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(later.ravel(), other(5).ravel())[0, 1]) < 0.1
