"""`--fit`: what it chooses is said, and what cannot fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_cli.fit import DEVICES, fitted
from omni_edge import SessionSettings
from support.commands import run_edge


def test_the_choice_is_said_and_taken(bundle: Path) -> None:
    result = run_edge("run", "Hello", "-m", bundle, "--temp", 0, "--max-new-tokens", 2, "--fit", "phone-8gb")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("fit: ")
    assert "of 3.50 GB: --context " in result.stderr
    assert "--low-memory" not in result.stderr


@pytest.mark.parametrize(("asked", "budget"), [("2gb", 2.0), ("2500MB", 2.5), ("laptop", DEVICES["laptop"] / 1e9)])
def test_a_memory_is_a_size_or_a_device(
    bundle: Path, asked: str, budget: float, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, low_memory = fitted(asked, bundle, SessionSettings(context=1024), False)
    assert (settings.context, low_memory) == (1024, False)
    assert f"of {budget:.2f} GB: --context 1024 --max-pixels {settings.max_pixels}\n" in capsys.readouterr().err


def test_without_the_option_nothing_changes(bundle: Path) -> None:
    assert fitted(None, bundle, settings := SessionSettings(), True) == (settings, True)


def test_a_bundle_that_does_not_fit_is_refused(bundle: Path) -> None:
    result = run_edge("run", "Hello", "-m", bundle, "--fit", "100MB")
    assert result.exit_code == 6
    assert "the budget is 0.10 GB" in result.stderr


def test_an_unknown_memory_is_a_fault_of_usage(bundle: Path) -> None:
    result = run_edge("run", "Hello", "-m", bundle, "--fit", "watch")
    assert result.exit_code == 2
    assert "phone-8gb, pi5-8gb, laptop" in result.stderr
