"""What carries noise to a mel: the solver's time points, order and settings, and the noise itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import RungeKutta4ODESolver

from omni_edge.errors import UsageError
from omni_edge.vocoder.noise import seeded_noise
from omni_edge.vocoder.solver import SolverSettings, solve


@pytest.mark.parametrize("points", [2, 3, 5, 10, 33])
def test_time_points_are_the_reference_points(points: int) -> None:
    """Bit by bit at the reference's setting; elsewhere torch's cosine may be off by its last bit."""
    time = torch.linspace(0, 1, points)
    time = time + -1.0 * (torch.cos(torch.pi / 2 * time) - 1 + time)
    steps = SolverSettings("euler", points - 1).steps()
    np.testing.assert_allclose(steps, time.numpy(), rtol=0, atol=0 if points == 10 else 1.2e-7)
    assert steps.dtype == np.float32


def test_runge_kutta_is_the_reference_solver() -> None:
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


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("rk4", 4)])
def test_solvers_have_their_order_on_unequal_steps(method: Any, order: int) -> None:
    """x' = -2 t x, whose solution is exp(-t^2): twice the steps, 2^order times less error."""
    errors = []
    for evaluations in (16, 32):
        settings = SolverSettings(method, evaluations)
        times = settings.times()
        x = solve(lambda index, x, times=times: -2 * np.float32(times[index]) * x, np.ones(1, np.float32), settings)
        errors.append(abs(float(x[0]) - np.exp(-1.0)))
    if order < 4:  # the fourth order is at float32's rounding already
        assert 2**order * 0.7 < errors[0] / errors[1] < 2**order * 1.6
    assert errors[1] < {1: 2e-2, 2: 2e-3, 4: 1e-5}[order]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "heun"}, "euler, ab2, rk4"),
        ({"method": "rk4", "evaluations": 10}, "multiple of 4"),
        ({"evaluations": 0}, "positive"),
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
