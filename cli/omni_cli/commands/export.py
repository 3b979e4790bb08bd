"""`omni-export` and `omni-export verify`: a checkpoint into a bundle, and its graphs against the checkpoint."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_cli import options
from omni_cli.commands.evaluate import evaluate_app
from omni_cli.console import Progress, human_bytes, human_seconds, overall, table
from omni_cli.errors import reports_errors
from omni_cli.export_packages import export_packages
from omni_cli.standard_streams import set_up_streams
from omni_edge.errors import UsageError
from omni_quant.precision import DEFAULT_GROUP_SIZE, EXPORT_KINDS, CacheKind, Kind, Precision

if TYPE_CHECKING:
    from omni_export.output.progress import ExportProgress

_SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "no_args_is_help": True,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
export_app = typer.Typer(name="omni-export", **_SETTINGS)
verify_app = typer.Typer(name="omni-export verify", **_SETTINGS)


def _names(kinds: Iterable[Kind | CacheKind]) -> str:
    """The choices of an option, as its help shows them."""
    return "|".join(kind.value for kind in kinds)


@export_app.command(
    epilog=(
        "'omni-export verify BUNDLE --against CHECKPOINT' checks a bundle's graphs against the reference; "
        "'omni-export evaluate BUNDLE --against CHECKPOINT' measures what its precision costs."
    )
)
@reports_errors
def export(
    *,
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder of a Qwen2.5-Omni checkpoint, or its id on the hub.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="Folder to write.")],
    precision: Annotated[
        Kind,
        typer.Option(
            "--precision",
            metavar=_names(EXPORT_KINDS),
            help="How matrices are stored. int4: encoders in int8, the Talker partly. mixed: the Thinker partly, too.",
        ),
    ] = Kind.INT4,
    group_size: Annotated[
        int, typer.Option("--group-size", metavar="N", help="Weights that share a scale: 16, 32, 64, 128 or 256.")
    ] = DEFAULT_GROUP_SIZE,
    precision_of: Annotated[
        list[str] | None,
        typer.Option("--precision-of", metavar="GRAPH=KIND", help="Another one for a graph: talker=int4. Repeatable."),
    ] = None,
    kv_cache: Annotated[
        CacheKind,
        typer.Option(
            "--kv-cache",
            metavar=_names(CacheKind),
            help="Type of the Thinker's cache. int8: a quarter of the memory.",
        ),
    ] = CacheKind.FP32,
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration",
            metavar="FOLDER|none",
            help="Texts, sounds and pictures to calibrate the Thinker's int4 with, or none.",
        ),
    ] = "built-in",
    voice: Annotated[
        list[str] | None, typer.Option("--voice", metavar="NAME", help="Speaker to keep. Repeatable. Default: all.")
    ] = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the Talker and the vocoder out.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="qnn-htp:v73|v75|v79|v81",
            help="Add static graphs of the Thinker and the Talker for a Qualcomm NPU of this architecture.",
        ),
    ] = None,
    npu_context: Annotated[
        int | None,
        typer.Option(
            "--npu-context", metavar="N", min=1, help="Positions that the graphs of --target hold. Default: 2048."
        ),
    ] = None,
    compile_graphs: Annotated[
        bool, typer.Option("--compile", help="Compile the graphs of --target here, not on the device.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from an interrupted export with the same options.")
    ] = False,
    version: options.Version = False,
    debug: options.Debug = False,
) -> None:
    """Write a checkpoint as a bundle of ONNX graphs that omni-edge runs without torch."""
    with export_packages():
        from omni_export.bundle import STATIC_CONTEXT, ExportOptions, export_bundle  # noqa: PLC0415 -- seconds to import
    if npu_context is not None and target is None:
        raise UsageError("--npu-context is that of the NPU's graphs: say which NPU with --target, or leave it out.")
    wanted = ExportOptions(
        precision=Precision(precision, group_size),
        precision_of={role: Precision(kind, group_size) for role, kind in map(_precision_of, precision_of or [])},
        voices=tuple(voice) if voice else None,
        text_only=text_only,
        force=force,
        resume=resume,
        int8_cache=kv_cache is CacheKind.INT8,
        calibration=calibration,
        target=target,
        static_context=npu_context or STATIC_CONTEXT,
        compile=compile_graphs,
    )
    progress = Progress()

    def show(news: ExportProgress) -> None:
        note = f"{human_seconds(news.remaining)} left" if news.remaining is not None else ""
        if news.item_total:
            note = overall(news.done, news.total, news.remaining, bar=progress.live)
        progress(news.item, news.item_done, news.item_total, note)

    began = time.monotonic()
    try:
        report = export_bundle(checkpoint, out, wanted, show)
    finally:
        progress.close()
    rows = [
        [row.role, str(row.nodes), row.precision, human_bytes(row.nbytes), f"{row.seconds:.1f}"]
        for row in report.graphs
    ]
    typer.echo(table(["graph", "nodes", "precision", "size", "seconds"], rows, right=(1, 3, 4)))
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"\n{report.path}  {human_bytes(report.nbytes)}  in {human_seconds(time.monotonic() - began)}")


def _precision_of(value: str) -> tuple[str, Kind]:
    role, _, kind = value.partition("=")
    kinds = [each.value for each in EXPORT_KINDS]
    if kind not in kinds:
        raise UsageError(f"--precision-of {value}: write GRAPH=KIND, as in talker=int8; KIND is {', '.join(kinds)}.")
    return role, Kind(kind)


@verify_app.command()
@reports_errors
def verify(
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The exported bundle.")],
    against: Annotated[
        str,
        typer.Option("--against", metavar="CHECKPOINT", help="What it was made from: a folder, or an id on the hub."),
    ],
    debug: options.Debug = False,
) -> None:
    """Run every graph beside the reference on the same inputs; exit with 1 where one misses its bound.

    Errors are relative to the reference's RMS. The verdict is by signal-to-noise ratio, whose bound depends on how the
    graph's matrices are stored.
    """
    with export_packages():
        import transformers  # noqa: PLC0415

        from omni_export.bundle import find_checkpoint  # noqa: PLC0415
        from omni_export.verify.verify import verify_bundle  # noqa: PLC0415 -- the reference is torch: seconds to import

    # It warns of the published configuration's own ids.
    transformers.logging.set_verbosity_error()
    rows = verify_bundle(bundle, find_checkpoint(against), lambda role: typer.echo(f"verifying {role}", err=True))
    lines = [
        [
            row.graph,
            f"{row.maximum:.2e}",
            f"{row.mean:.2e}",
            f"{row.snr:.1f} dB",
            f"{row.tolerance:.0f} dB",
            "ok" if row.passed else "FAILED",
        ]
        for row in rows
    ]
    typer.echo(table(["graph", "maximum", "mean", "SNR", "at least", ""], lines, right=(1, 2, 3, 4)))
    if failed := [row.graph for row in rows if not row.passed]:
        typer.echo(
            f"error: {', '.join(failed)} too far from the reference. Export again; report it if it stays.", err=True
        )
        raise typer.Exit(1)


def run(arguments: list[str], program: str = "omni-export") -> None:
    """Runs `omni-export` with `arguments`: a first word may be another command, anything else is a checkpoint."""
    commands = {"verify": verify_app, "evaluate": evaluate_app}
    if arguments and arguments[0] in commands:
        commands[arguments[0]](arguments[1:], prog_name=f"{program} {arguments[0]}")
    else:
        export_app(arguments, prog_name=program)


def main() -> None:
    """Entry point of `omni-export`."""
    set_up_streams()
    run(sys.argv[1:])
