"""`omni-export evaluate`: what a bundle's precision costs in quality."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_cli import options
from omni_cli.console import human_bytes, table
from omni_cli.errors import reports_errors
from omni_cli.export_packages import export_packages
from omni_cli.plots.divergence import Curve, divergence_svg
from omni_cli.plots.file import check_plot, write_plot
from omni_edge.media import load_audio, load_image

if TYPE_CHECKING:
    from omni_export.evaluate.evaluate import Evaluation, TokenRow

evaluate_app = typer.Typer(
    name="omni-export evaluate",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_SECONDS_BETWEEN_LINES = 5.0


@evaluate_app.command()
@reports_errors
def evaluate(
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The exported bundle.")],
    against: Annotated[
        str,
        typer.Option("--against", metavar="CHECKPOINT", help="What it was made from: a folder, or an id on the hub."),
    ],
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FILE", help="UTF-8 text to predict. Default: prose in several languages."),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option("--audio", metavar="FILE", help="Spoken question. Repeatable. Default: one in English."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="Picture to describe. Repeatable. Default: a drawn scene."),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", min=2, help="Tokens of the text that are predicted, at most.")
    ] = 1024,
    reply_tokens: Annotated[
        int, typer.Option("--reply-tokens", metavar="N", min=1, help="Text tokens of each reply, at most.")
    ] = 24,
    codec_tokens: Annotated[
        int,
        typer.Option("--codec-tokens", metavar="N", min=1, help="Codec tokens of each reply, at most."),
    ] = 150,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of codec tokens and noise.")] = 0,
    threads: options.Threads = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="KL divergence over the share of tokens, as an SVG picture."),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure what a bundle's precision costs: the bundle beside the reference in float32, teacher-forced.

    The Thinker predicts the text, and the reference's own greedy replies to the sounds and pictures; the Talker
    predicts the codec tokens that the reference speaks them with; the vocoder speaks these from the same noise. A row
    names the bundle's graphs that take part, and everything before them is the reference's. The bundle runs as it does
    in omni-edge, with compiled operators where they are prepared. Of the reference one layer at a time is in memory.
    """
    if plot:
        check_plot(plot)
    with export_packages():
        import transformers  # noqa: PLC0415

        from omni_export.bundle import find_checkpoint  # noqa: PLC0415
        from omni_export.evaluate import material as given  # noqa: PLC0415
        from omni_export.evaluate.evaluate import evaluate_bundle  # noqa: PLC0415 -- the reference is torch

    # It warns of the published configuration's own ids.
    transformers.logging.set_verbosity_error()
    chosen = given.Material(
        text=given.read_text(text) if text else given.default_text(),
        sounds=tuple(map(load_audio, audio)) if audio else (given.default_sound(),),
        pictures=tuple(map(load_image, image)) if image else (given.default_picture(),),
    )
    limits = given.Limits(text_tokens=tokens, reply_tokens=reply_tokens, codec_tokens=codec_tokens, seed=seed)
    evaluation = evaluate_bundle(bundle, find_checkpoint(against), chosen, limits, _Lines(), threads)
    typer.echo(json.dumps(_data(evaluation), indent=1, ensure_ascii=False) if as_json else _text(evaluation))
    if plot:
        curves = [Curve(_name(row), row.scores.kl) for row in evaluation.tokens]
        write_plot(plot, divergence_svg(curves, f"{bundle.name}: KL divergence from float32 per token"))


class _Lines:
    """Progress on stderr: a line for each thing that is evaluated, and one every few seconds."""

    def __init__(self) -> None:
        self._what, self._at = "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == self._what and now - self._at < _SECONDS_BETWEEN_LINES and done < total:
            return
        if what == self._what and not total:
            return
        self._what, self._at = what, now
        typer.echo(f"evaluating {what}{f': {done} of {total} tokens' if total else ''}", err=True)


def _name(row: TokenRow) -> str:
    return f"{row.graphs}, {row.material}"


def _text(evaluation: Evaluation) -> str:
    """The tables: sizes, tokens, embeds, speech."""
    sizes = [
        [row.graph, row.precision, human_bytes(row.nbytes), f"{row.bits:.2f}" if row.bits else ""]
        for row in evaluation.sizes
    ]
    tokens = [
        [
            row.graphs,
            row.material,
            str(len(row.scores)),
            f"{row.scores.reference_perplexity:.4g}",
            f"{row.scores.perplexity:.4g}",
            f"{row.scores.extra_nll:+.4f}",
            f"{row.scores.mean_kl:.4f}",
            f"{100 * row.scores.agreement:.1f} %",
        ]
        for row in evaluation.tokens
    ]
    vectors = [
        [row.graph, row.material, str(row.vectors), f"{row.cosine:.5f}", f"{100 * row.relative_error:.2f} %"]
        for row in evaluation.vectors
    ]
    speech = [
        [
            row.graphs,
            f"{row.seconds:.1f}",
            "mel" if row.graphs == "dit" else "log-spectral",
            f"{row.distance:.2f} dB",
            f"{row.snr:.1f} dB",
        ]
        for row in evaluation.speech
    ]
    operators = "our compiled operators" if evaluation.compiled else "onnxruntime's operators (see omni-edge prepare)"
    parts = [
        f"{evaluation.bundle}, {operators}",
        table(["graph", "precision", "size", "bits per weight"], sizes, right=(2, 3)),
        table(
            ["graphs", "on", "tokens", "float32", "perplexity", "nats", "KL", "same first choice"],
            tokens,
            right=(2, 3, 4, 5, 6, 7),
        ),
        table(["embeds of", "on", "vectors", "cosine", "error"], vectors, right=(2, 3, 4)),
    ]
    if speech:
        parts.append(table(["graphs", "seconds", "distance", "", "SNR"], speech, right=(1, 3, 4)))
    return "\n\n".join(parts)


def _data(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as JSON, without the entries of single tokens."""
    return {
        "bundle": str(evaluation.bundle),
        "compiled": evaluation.compiled,
        "graphs": [vars(row) for row in evaluation.sizes],
        "tokens": [
            {
                "graphs": row.graphs,
                "on": row.material,
                "tokens": len(row.scores),
                "reference_perplexity": row.scores.reference_perplexity,
                "perplexity": row.scores.perplexity,
                "extra_nll": row.scores.extra_nll,
                "kl": row.scores.mean_kl,
                "same_first_choice": row.scores.agreement,
            }
            for row in evaluation.tokens
        ],
        "embeds": [vars(row) for row in evaluation.vectors],
        "speech": [vars(row) for row in evaluation.speech],
    }
