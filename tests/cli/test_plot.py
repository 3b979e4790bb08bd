"""`omni-edge run --plot`: the reply's speech as a picture."""

from __future__ import annotations

import wave
from pathlib import Path
from xml.etree import ElementTree

import pytest

from omni_cli.commands import run
from omni_cli.plots.file import write_plot
from omni_edge import UsageError
from support.commands import GREEDY, SHORT, events, run_edge

SVG = "{http://www.w3.org/2000/svg}"


def labels(path: Path) -> list[str]:
    """The texts of a picture, in order."""
    return [text.text or "" for text in ElementTree.parse(path).iter(f"{SVG}text")]


def test_the_picture_shows_the_reply_that_was_spoken(bundle: Path, tmp_path: Path) -> None:
    wav, plot = tmp_path / "reply.wav", tmp_path / "reply.svg"
    command = ("run", "Hello", "-m", bundle, *GREEDY, *SHORT, "--seed", 1, "--voice", "Ethan")
    done = events(run_edge(*command, "--json", "-o", wav, "--plot", plot))[-1]
    with wave.open(str(wav)) as file:
        seconds = file.getnframes() / file.getframerate()
    title, about, *_ = labels(plot)
    assert title == " ".join(done["text"].split())
    assert about == f"Ethan, {seconds:.2f} s, 24 kHz"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reply.svg", "reply.wav"]
    # A picture alone is reason enough to speak, and shows the same speech.
    alone = tmp_path / "alone.svg"
    assert run_edge(*command, "--plot", alone).exit_code == 0
    assert alone.read_bytes() == plot.read_bytes()


def test_a_picture_that_cannot_be_drawn_is_a_usage_error(bundle: Path, mute_bundle: Path, tmp_path: Path) -> None:
    for model, words, expected in (
        (bundle, ("--plot", tmp_path / "a.svg", "--no-speech"), "--plot asks for speech and --no-speech forbids it"),
        (bundle, ("--plot", tmp_path / "no" / "a.svg"), "does not exist"),
        (bundle, ("--plot", tmp_path / "a.png"), "Call it a.svg"),
        (mute_bundle, ("--plot", tmp_path / "a.svg"), "--text-only"),
    ):
        result = run_edge("run", "Hello", "-m", model, *words)
        assert result.exit_code == 2, result.output
        assert expected in result.stderr
        assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_reply_without_a_sound_leaves_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "reply.svg"
    plot.write_text("an older one")
    run._draw(plot, [], 24_000, "", "Ethan")
    assert plot.read_text() == "an older one"
    assert "no sound" in capsys.readouterr().err


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(UsageError, match=r"taken\.svg cannot be written"):
        write_plot(tmp_path / "taken.svg", "<svg/>")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.svg"]
    write_plot(tmp_path / "free.svg", "<svg/>")
    assert (tmp_path / "free.svg").read_text() == "<svg/>"
    assert len(list(tmp_path.iterdir())) == 2
