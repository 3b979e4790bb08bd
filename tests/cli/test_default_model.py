"""The commands without `-m`: the bundle that comes with the package, said once on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omni_edge import shipped_bundle
from omni_edge.bench import Settings
from omni_edge.bundle.reader import Bundle
from support.commands import GREEDY, SHORT, events, run_edge

SAYING = "omni-nano, the built-in demonstration model (not Qwen's weights)"
MEASURED = ("--stage", "thinker", "--runs", "1", "--steps", "3", "--at", "128", "--prefill", "128", "--json")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that has no built-in bundle."""
    monkeypatch.setattr("omni_edge.bundle.builtin._FOLDER", "nothing")


def test_run_answers_with_it_and_keeps_stdout_clean() -> None:
    command = ("run", "hello", *GREEDY, *SHORT, "--json")
    default, named = run_edge(*command), run_edge(*command, "-m", shipped_bundle())
    assert default.stderr == f"{SAYING}; -m BUNDLE takes another.\n"
    assert named.stderr == ""
    lines, expected = events(default), events(named)
    assert lines[0] == {"type": "response.created", "model": str(shipped_bundle())}
    assert lines[-1]["codec_tokens"]
    for name in ("text", "token_ids", "codec_tokens"):
        assert lines[-1][name] == expected[-1][name]


def test_chat_talks_with_it() -> None:
    command = ("chat", "--no-speech", "--temp", 0, "--max-new-tokens", 4)
    default = run_edge(*command, input="hello\nhello\n")
    named = run_edge(*command, "-m", shipped_bundle(), input="hello\nhello\n")
    assert (default.exit_code, default.stdout) == (0, named.stdout)
    assert len(default.stdout.splitlines()) >= 2
    assert default.stderr == f"{SAYING}; -m BUNDLE takes another.\n"


def test_info_and_prepare_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path))
    about = run_edge("info", "--json")
    assert about.exit_code == 0, about.output
    assert json.loads(about.stdout) == json.loads(run_edge("info", shipped_bundle(), "--json").stdout)
    assert about.stderr.startswith(f"{SAYING}; BUNDLE takes another.\n")
    prepared = run_edge("prepare")
    assert prepared.exit_code == 0, prepared.output
    assert prepared.stderr.startswith(f"{SAYING}; BUNDLE takes another.\n")
    assert (Path(prepared.stdout.split("  ")[0]) / "dit.onnx").is_file()


def test_bench_measures_it() -> None:
    result = run_edge("bench", *MEASURED)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["bundle"] == shipped_bundle().name
    assert {figure["name"] for figure in report["figures"]} >= {"prefill 128", "decode at 128"}
    assert result.stderr.startswith(f"{SAYING}; -m BUNDLE takes another.\n")


def test_it_holds_the_contexts_that_bench_measures_unless_told_otherwise() -> None:
    default = Settings()
    manifest = Bundle(shipped_bundle()).manifest
    assert manifest.thinker.max_positions >= 2 * max(*default.contexts, *default.prefills)
    assert manifest.talker_decoder is not None
    assert manifest.talker_decoder.max_positions >= 2 * max(default.contexts)


@pytest.mark.usefixtures("without")
def test_a_bundle_that_is_named_needs_no_other(bundle: Path) -> None:
    for words in (("run", "hello", *SHORT, "--no-speech", "-m", bundle), ("bench", *MEASURED, "-m", bundle)):
        result = run_edge(*words)
        assert result.exit_code == 0, result.output
        assert "built-in" not in result.stderr
    assert run_edge("info", bundle).exit_code == 0


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("words", [("run", "hello"), ("chat",), ("info",), ("prepare",), ("bench",)])
def test_an_installation_without_it_says_what_to_do(words: tuple[str, ...]) -> None:
    result = run_edge(*words)
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    message = result.stderr.strip()
    assert message.startswith("error: This installation has no built-in model")
    assert "-m BUNDLE" in message
