"""The timeline of a reply: joining spans, a sink that drains in real time, the picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from omni_cli.plots.timeline import timeline_svg
from omni_edge.bench.timeline import Arrival, Playback, Span, joined, play

SVG = "{http://www.w3.org/2000/svg}"


def test_a_sink_runs_dry_when_a_chunk_is_late() -> None:
    # 1 s of sound at 0.0, then chunks due at 1.0 (comes at 1.5) and at 2.5 (comes at 2.0, early).
    played = play([Arrival(0.0, 1.0), Arrival(1.5, 1.0), Arrival(2.0, 1.0)])
    assert played == Playback(longest_gap=1.5, underruns=1, silence=0.5, lead=0.5)


def test_the_lead_is_what_would_have_kept_the_sink_full() -> None:
    late = [Arrival(0.3, 0.2), Arrival(0.8, 0.2), Arrival(1.4, 0.2)]
    assert play(late).underruns == 2
    lead = play(late).lead
    assert lead == pytest.approx(0.7)
    # The first chunk, held back for that long, is joined by the others without a pause.
    due, silence = late[0].at + lead, 0.0
    for chunk in late:
        silence += max(0.0, chunk.at - due)
        due = max(due, chunk.at) + chunk.length
    assert silence == pytest.approx(0.0)


def test_no_chunk_or_one_chunk_leaves_nothing_to_wait_for() -> None:
    assert play([]) == play([Arrival(2.0, 0.5)]) == Playback(0.0, 0, 0.0, 0.0)


def test_spans_of_a_stage_that_touch_become_one() -> None:
    spans = [Span("dit", 1.0, 1.5), Span("thinker", 0.0, 0.5), Span("thinker", 0.501, 0.9), Span("dit", 1.6, 1.7)]
    assert joined(spans) == [
        Span("thinker", 0.0, 0.9),
        Span("dit", 1.0, 1.5),
        Span("dit", 1.6, 1.7),
    ]


def test_the_picture_has_a_bar_for_every_span_where_it_belongs() -> None:
    spans = [Span("thinker", 0.0, 1.0), Span("a<b", 1.0, 2.0)]
    arrivals = [Arrival(2.0, 2.0)]
    root = ElementTree.fromstring(timeline_svg(spans, arrivals, "reply & more"))
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("fill") != "white"]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert len(bars) == 3
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] == pytest.approx(2 * widths[0])
    assert float(bars[1].get("x", "0")) == pytest.approx(float(bars[0].get("x", "0")) + widths[0], abs=0.02)
    labels = [text.text for text in root.iter(f"{SVG}text")]
    assert {"thinker", "a<b", "chunks played", "reply & more"} <= set(labels)
