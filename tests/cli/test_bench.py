"""`omni-edge bench`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from omni_edge.bench import STAGES
from support.commands import run_edge

# A turn's marks take some thirty positions of this byte-level tokenizer.
SMALL = ("--runs", "1", "--steps", "3", "--at", "40,80", "--prefill", "48", "--max-codec-tokens", "60")


def test_every_stage_has_figures_that_hang_together(bundle: Path, tmp_path: Path) -> None:
    result = run_edge("bench", "-m", bundle, *SMALL, "--json", "--plot", tmp_path / "reply.svg")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    figures = {(figure["stage"], figure["name"]): figure for figure in report["figures"]}
    assert {stage for stage, _ in figures} == set(STAGES)
    assert report["bundle"] == bundle.name
    assert all(len(figure["runs"]) == 1 for figure in figures.values())
    # Rates and times are positive, shares are shares.
    assert all(min(figure["runs"]) > 0 for figure in figures.values() if figure["unit"] in {"tok/s", "RTF", "B"})
    for context in (40, 80):
        share = figures["thinker", f"outside of graphs at {context}"]["median"]
        assert 0 < share < 100
    # 60 codec tokens make 1.2 s of speech at most, whole codec tokens of 20 ms.
    speech = figures["reply", "clip: speech"]["median"]
    assert 0 < speech <= 1.2
    assert abs(speech / 0.02 - round(speech / 0.02)) < 1e-6
    assert figures["reply", "clip: TTFT"]["median"] < figures["reply", "clip: TTFA"]["median"]
    assert figures["reply", "clip: TTFA"]["median"] <= figures["reply", "clip: total"]["median"]
    # The timeline knows every graph that a spoken reply to a sound needs, and nothing overlaps: one core at a time.
    stages = {span["stage"] for span in report["spans"]}
    assert stages == {"audio_encoder", "token_embedding", "thinker", "talker", "dit", "bigvgan"}
    assert sum(arrival["length"] for arrival in report["arrivals"]) == speech
    assert ElementTree.parse(tmp_path / "reply.svg").getroot().tag.endswith("svg")


def test_a_table_of_the_stages_that_were_asked_for(mute_bundle: Path) -> None:
    result = run_edge("bench", "-m", mute_bundle, *SMALL, "--stage", "thinker", "--stage", "reply")
    assert result.exit_code == 0, result.output
    stages = {line.split()[0] for line in result.stdout.split("\n\n")[1].splitlines()[1:]}
    assert stages == {"thinker", "reply"}
    assert "decode at 40" in result.stdout
    assert "TTFT" in result.stdout
    assert "TTFA" not in result.stdout


def test_the_vocoder_is_measured_as_it_is_asked_for(bundle: Path) -> None:
    words = (
        "--solver",
        "ab2",
        "--evaluations",
        "2",
        "--guidance",
        "0",
        "--chunks",
        "exact",
        "--max-codec-tokens",
        "44",
    )
    stages = ("--stage", "token2wav", "--stage", "reply")
    result = run_edge("bench", "-m", bundle, *SMALL, *stages, *words, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    names = [figure["name"] for figure in report["figures"] if figure["stage"] == "token2wav"]
    shapes = [f"ab2-2 unguided, wavefront, {frames} frames a chunk" for frames in (24, 48, 96)]
    assert [name.partition(":")[0] for name in names[::4]] == shapes
    assert len(names) == 4 * len(shapes)
    # The reply ends at 44 codec tokens; a window gives its first sound at 24, this wavefront would at 48.
    assert len(report["arrivals"]) == 1


def test_what_cannot_be_measured_is_a_usage_error(bundle: Path, tmp_path: Path) -> None:
    for words, expected in (
        (("--stage", "dit"), "There is no stage dit"),
        (("--chunks", "some"), "There is no chunk schedule 'some'"),
        (("--evaluations", "3", "--solver", "rk4"), "whole steps of rk4"),
        (("--at", "many"), "whole numbers"),
        (("--at", "0"), "at least 1"),
        (("--prefill", "2", "--stage", "thinker"), "marks alone take"),
        (("--plot", tmp_path / "none" / "x.svg"), "does not exist"),
        (("--plot", tmp_path / "x.svg", "--stage", "load"), "--stage reply"),
    ):
        result = run_edge("bench", "-m", bundle, "--runs", "1", *words)
        assert result.exit_code == 2, result.output
        assert expected in result.stderr
