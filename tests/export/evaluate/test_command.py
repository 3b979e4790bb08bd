"""`omni-export evaluate`: its table, its JSON, its picture and its exit codes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from omni_cli.plots.divergence import Curve, divergence_svg
from support.checkpoints import write_checkpoint
from support.commands import run_export

SHORT = ("--tokens", 20, "--reply-tokens", 2, "--codec-tokens", 12, "--threads", 1)


def test_a_text_only_bundle(checkpoint: Path, exported_mute_bundle: Path, files: Path, tmp_path: Path) -> None:
    text, plot = tmp_path / "text.txt", tmp_path / "kl.svg"
    text.write_text("Guten Tag, what a day.", "utf-8")
    words = ("--text", text, "--audio", files / "question.wav", "--image", files / "photo.jpg", "--plot", plot)
    result = run_export("evaluate", exported_mute_bundle, "--against", checkpoint, *words, *SHORT, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["compiled"] is False
    sizes = {row["graph"]: row for row in found["graphs"]}
    assert sizes["thinker"]["precision"].startswith("int8")
    assert sizes["thinker"]["nbytes"] > 0
    text_row = found["tokens"][0]
    assert (text_row["graphs"], text_row["on"], text_row["tokens"]) == ("thinker", "text", 19)
    assert 0 < text_row["kl"] < 0.05
    assert text_row["same_first_choice"] > 0.7
    assert found["speech"] == []
    root = ET.fromstring(plot.read_text("utf-8"))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(found["tokens"]) == 5
    assert "evaluating thinker on text: 19 of 19 tokens" in result.stderr


def test_the_table(checkpoint: Path, exported_bundle: Path) -> None:
    result = run_export("evaluate", exported_bundle, "--against", checkpoint, *SHORT)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("thinker ") and " text " in line]
    assert row[2] == "19"
    assert row[3] == row[4]
    assert row[5:] in (["+0.0000", "0.0000", "100.0", "%"], ["-0.0000", "0.0000", "100.0", "%"])
    assert any(line.startswith("dit + bigvgan") for line in lines)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--text", "no/such/file.txt"), 2, "cannot be read"),
        (("--text", "latin1.txt"), 2, "is not UTF-8"),
        (("--text", "empty.txt"), 2, "holds no text"),
        (("--audio", "empty.txt"), 4, "empty.txt"),
        (("--image", "empty.txt"), 4, "empty.txt"),
        (("--plot", "kl.png"), 2, "kl.svg"),
        (("--against", "no/such/folder/at/all"), 3, "is not a directory"),
    ],
)
def test_bad_input_is_named(
    words: tuple[str, ...], code: int, message: str, checkpoint: Path, exported_mute_bundle: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("latin1.txt").write_bytes("für".encode("latin-1"))
    Path("empty.txt").write_text(" \n")
    result = run_export("evaluate", exported_mute_bundle, "--against", checkpoint, *words, *SHORT)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "latin1.txt"]


def test_another_checkpoint_is_a_bundle_error(exported_mute_bundle: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "ragged")
    result = run_export("evaluate", exported_mute_bundle, "--against", other, *SHORT)
    assert result.exit_code == 3
    assert "was not exported from" in result.stderr


def test_a_curve_rises_to_its_largest_divergence() -> None:
    root = ET.fromstring(divergence_svg([Curve("<one>", [10.0, 1e-9, 1e-6])], "title"))
    (line,) = root.findall("{http://www.w3.org/2000/svg}polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (400.0, 50.0)
    assert any((text.text or "").startswith("<one>: mean 3.3") for text in root.iter())
