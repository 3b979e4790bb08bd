"""`omni-edge prepare`, and the settings of speed and memory that `run` takes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from omni_edge import OmniEdge
from support.commands import GREEDY, SHORT, events, run_edge


def test_a_prepared_bundle_answers_the_same(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path))
    # Compiled operators round in another order than onnxruntime's, with which it begins.
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    before = events(run_edge("run", "Hello", "-m", bundle, "--json", *GREEDY, *SHORT))[-1]
    files = {path: path.stat().st_mtime_ns for path in bundle.iterdir()}
    result = run_edge("prepare", bundle)
    assert result.exit_code == 0, result.output
    assert "preparing dit" in result.stderr
    folder = Path(result.stdout.split("  ")[0])
    assert folder.parent == tmp_path
    assert OmniEdge.load(bundle, threads=1).model.vocoder().dit._graph.path == folder / "dit.onnx"
    assert {path: path.stat().st_mtime_ns for path in bundle.iterdir()} == files
    after = events(run_edge("run", "Hello", "-m", bundle, "--json", *GREEDY, *SHORT))[-1]
    assert (after["token_ids"], after["codec_tokens"]) == (before["token_ids"], before["codec_tokens"])


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [("OMNI_EDGE_KERNELS", "0", "OMNI_EDGE_KERNELS is 0"), ("PATH", "", "there is no C compiler; install one")],
)
def test_preparing_without_compiling_says_why(
    variable: str, value: str, reason: str, mute_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(variable, value)
    result = run_edge("prepare", mute_bundle)
    assert result.exit_code == 0, result.output
    assert f"Nothing is compiled ({reason})" in result.stderr
    assert "preparing thinker" in result.stderr


def test_preparing_what_is_no_bundle(tmp_path: Path) -> None:
    result = run_edge("prepare", tmp_path)
    assert result.exit_code == 3
    assert "is not a bundle" in result.stderr


def sound(*arguments: object) -> list[str]:
    return [event["delta"] for event in events(run_edge(*arguments)) if event["type"] == "response.output_audio.delta"]


def test_solver_and_guidance_change_the_waveform_only(bundle: Path) -> None:
    command = ("run", "Hello", "-m", bundle, "--json", "--seed", "1", *GREEDY, *SHORT)
    plain = sound(*command)
    assert sound(*command, "--solver", "euler", "--evaluations", "4", "--guidance", "0.5") == plain
    for settings in (("--evaluations", "8"), ("--guidance", "0"), ("--solver", "ab2"), ("--solver", "rk4")):
        other = sound(*command, *settings)
        assert len(other) == len(plain)
        assert other != plain
    assert sound(*command, "--solver", "rk4", "--evaluations", "36") == other


def test_chunks_change_how_the_waveform_is_cut(bundle: Path) -> None:
    command = ("run", "Hello", "-m", bundle, "--json", "--seed", "1", *GREEDY, *SHORT)
    growing, paced, exact = (sound(*command, "--chunks", chunks) for chunks in ("growing", "paced", "exact"))
    assert growing == sound(*command)
    lengths = {sum(len(base64.b64decode(chunk)) for chunk in chunks) for chunks in (growing, paced, exact)}
    assert len(lengths) == 1
    # A reply this short is over before the first block of a wavefront could be heard.
    assert len(exact) == 1 < len(growing)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--solver", "heun"), "There is no solver 'heun'; the solvers are euler, ab2, rk4."),
        (("--solver", "rk4", "--evaluations", "6"), "6 evaluations are not whole steps of rk4"),
        (("--guidance", "-1"), "The guidance is -1.0"),
        (("--chunks", "often"), "There is no chunk schedule 'often'; choose from growing, paced, exact."),
    ],
)
def test_impossible_solver_settings(bundle: Path, settings: tuple[str, ...], message: str) -> None:
    result = run_edge("run", "Hello", "-m", bundle, "--json", *settings)
    assert result.exit_code == 2
    assert message in result.stderr


def test_low_memory_answers_the_same(bundle: Path, files: Path) -> None:
    command = ("run", "Hello", "--audio", files / "question.wav", "-m", bundle, "--json", "--seed", "1", *SHORT)
    replies = [events(run_edge(*command, *extra)) for extra in ((), ("--low-memory",))]
    for name in ("token_ids", "codec_tokens"):
        assert replies[0][-1][name] == replies[1][-1][name]
    assert [event.get("delta") for event in replies[0]] == [event.get("delta") for event in replies[1]]
