"""Measures a bundle on this machine, by stage and as a whole. The figures are data; `omni-edge bench` prints them.

The measurements use the public sessions and the loaded parts of a model. Inputs are noise, because speed does not
depend on their content.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omni_edge.backend.machine import machine
from omni_edge.bench import decoders, stages, whole
from omni_edge.bench.figures import STAGES, Figure, Report, Settings, Subject, versions

__all__ = ["STAGES", "Figure", "Report", "Settings", "bench"]

_MEASURES = {
    "load": stages.load,
    "thinker": decoders.thinker,
    "talker": decoders.talker,
    "audio": stages.audio,
    "vision": stages.vision,
    "token2wav": stages.token2wav,
}
_NEED_SPEECH = {"talker", "token2wav"}


def bench(
    bundle: Path | str, settings: Settings | None = None, progress: Callable[[str], None] | None = None
) -> Report:
    """Measures a bundle.

    Args:
        bundle: its folder.
        settings: what to measure; None: everything.
        progress: called with the name of each stage as it begins.

    Raises:
        BundleError: the folder is no bundle.
        UsageError: a prompt that is too short for a turn's marks.
        ResourceError: not enough memory.
    """
    settings = settings or Settings()
    subject = Subject(Path(bundle), settings)
    manifest = subject.engine.manifest
    figures: list[Figure] = []
    reply = whole.Whole()
    for name in STAGES:
        if name not in settings.stages or (name in _NEED_SPEECH and manifest.talker is None):
            continue
        if progress:
            progress(name)
        if name == "reply":
            reply = whole.reply(subject)
            figures += reply.figures
        else:
            figures += _MEASURES[name](subject)
    here = machine()
    return Report(
        bundle=Path(bundle).resolve().name,
        precision={role: entry.precision for role, entry in manifest.graphs.items()},
        machine=here,
        threads=settings.threads or here.cores,
        versions=versions(),
        figures=tuple(figures),
        spans=reply.spans,
        arrivals=reply.arrivals,
    )
