"""Training logs in their three forms, and their picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from nano.training.curves import panels, read, svg

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "codec.csv").write_text("step,mel,commitment,seconds\n20,0.9,0.07,2\n40,0.5,0.1,4\n")
    (folder / "thinker.csv").write_text(
        "10,\"{'reply': 6.0, 'norm': 30.9}\",6\n"
        "20,\"{'reply': 2.5, 'norm': 14.5}\",11\n"
        "30,\"{'reply': 2.4, 'norm': 9.5}\",14\n"
        # Continued from step 10.
        "20,\"{'reply': 2.0, 'norm': 14.5}\",5\n"
        "20,\"{'pictures': 0.25}\",9\n"
    )
    (folder / "talker.csv").write_text("10,4.5,0.1,3\n20,4.0,0.2,6,held out 4.2 0.15\n")
    return tmp_path


def test_logs_are_read_in_all_their_forms(work: Path) -> None:
    assert read(work / "training" / "codec.csv") == {"mel": {20: 0.9, 40: 0.5}, "commitment": {20: 0.07, 40: 0.1}}
    assert read(work / "training" / "thinker.csv") == {"reply": {10: 6.0, 20: 2.0}, "pictures": {20: 0.25}}
    assert read(work / "training" / "talker.csv") == {
        "loss": {10: 4.5, 20: 4.0},
        "right": {10: 0.1, 20: 0.2},
        "held out loss": {20: 4.2},
        "held out right": {20: 0.15},
    }


def test_the_picture_has_a_panel_for_every_kind_of_curve(work: Path) -> None:
    found = panels(work)
    assert [panel.title for panel in found] == [
        "thinker: losses",
        "thinker: share of replies right",
        "talker: losses",
        "talker: share of codec tokens right",
        "codec: losses",
    ]
    picture = ET.fromstring(svg(found))
    lines = [line.get("points", "") for line in picture.iter(f"{_SVG}polyline")]
    assert len(lines) == sum(len(panel.series) for panel in found)
    # Falling losses fall in the picture: y grows downwards. The axes hold every point.
    first, last = (float(point.split(",")[1]) for point in lines[0].split())
    assert first < last
    for line in lines:
        assert all(30 <= float(point.split(",")[1]) <= 220 for point in line.split())
    assert "pictures 0.25" in [text.text for text in picture.iter(f"{_SVG}text")]


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no logs: train something first"):
        panels(tmp_path)
