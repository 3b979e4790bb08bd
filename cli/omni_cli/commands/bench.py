"""`omni-edge bench`: how fast a bundle is on this machine, and what it takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from omni_cli import options
from omni_cli import session_options as session
from omni_cli.console import human_bytes, table
from omni_cli.default_bundle import resolve_bundle
from omni_cli.plots.file import check_plot, write_plot
from omni_cli.plots.timeline import timeline_svg
from omni_edge.bench import STAGES, Figure, Report, Settings
from omni_edge.bench import bench as measure
from omni_edge.errors import UsageError
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings


def bench(
    *,
    model: options.Model = None,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", metavar="NAME", help=f"Repeatable. Default: all of {', '.join(STAGES)}."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Runs, of which the median counts.")] = 5,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Tokens of one decode measurement.")] = 16,
    contexts: Annotated[
        str, typer.Option("--at", metavar="N,N", help="Context lengths at which decoding is measured.")
    ] = "128,2048",
    prefills: Annotated[str, typer.Option("--prefill", metavar="N,N", help="Lengths of prompts.")] = "64,128,512",
    codec_tokens: Annotated[
        int, typer.Option("--max-codec-tokens", metavar="N", min=1, help="Speech of the whole reply (50 a second).")
    ] = 300,
    solver: session.Solver = None,
    evaluations: session.Evaluations = None,
    guidance: session.Guidance = None,
    chunks: session.Chunks = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    low_memory: options.LowMemory = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Timeline of one reply, as an SVG picture.")
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure loading, every stage, and a whole reply to a spoken question.

    Figures are medians; the spread stands beside them. RTF is compute time / audio time: below 1 is faster than real
    time. The vocoder is measured with and without guidance unless --guidance says which. Let nothing else run
    meanwhile.
    """
    if plot:
        check_plot(plot)
    if plot and stage and "reply" not in stage:
        raise UsageError("--plot draws the whole reply: add --stage reply, or leave --stage out.")
    guidances = (0.0, None) if guidance is None else (guidance,)
    settings = Settings(
        stages=tuple(stage or STAGES),
        runs=runs,
        steps=steps,
        threads=threads,
        low_memory=low_memory,
        device=device,
        contexts=_numbers("--at", contexts),
        prefills=_numbers("--prefill", prefills),
        reply_codec_tokens=codec_tokens,
        solvers=tuple(SolverSettings.from_options(solver, evaluations, each) for each in guidances),
        chunks=ChunkSchedule.named(chunks),
    )
    report = measure(resolve_bundle(model), settings, lambda name: typer.echo(f"measuring {name} ...", err=True))
    typer.echo(json.dumps(_data(report), indent=1, ensure_ascii=False) if as_json else _text(report))
    if plot:
        write_plot(plot, timeline_svg(report.spans, report.arrivals, _title(report)))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers with commas between them, not {text!r}.") from None


def _data(report: Report) -> dict[str, Any]:
    """The report as JSON: every run, and the median beside them."""
    data = dataclasses.asdict(report)
    data["figures"] = [{**dataclasses.asdict(figure), "median": figure.value} for figure in report.figures]
    return data


def _title(report: Report) -> str:
    machine = report.machine
    return f"One reply to a spoken question. {machine.processor}, {report.threads} of {machine.cores} cores"


def _text(report: Report) -> str:
    machine = report.machine
    precision = ", ".join(f"{role} {kind}" for role, kind in report.precision.items())
    rows = [
        [figure.stage, figure.name, _amount(figure, figure.value), _spread(figure), _unit(figure)]
        for figure in report.figures
    ]
    return (
        f"bundle    {report.bundle} ({precision})\n"
        f"machine   {machine.processor}, {report.threads} of {machine.cores} cores, {human_bytes(machine.memory)}, "
        f"{machine.system}, load average {machine.load_average:.2f}\n"
        f"versions  {', '.join(f'{name} {version}' for name, version in report.versions.items())}\n"
        "\n" + table(["stage", "figure", "median", "range", "unit"], rows, right=(2, 3))
    )


def _amount(figure: Figure, value: float) -> str:
    if figure.unit == "B":
        return human_bytes(int(value))
    return f"{value:.0f}" if figure.unit == "" else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _spread(figure: Figure) -> str:
    if len(figure.runs) == 1:
        return ""
    return f"{_amount(figure, min(figure.runs))} - {_amount(figure, max(figure.runs))}"


def _unit(figure: Figure) -> str:
    return "" if figure.unit == "B" else figure.unit
