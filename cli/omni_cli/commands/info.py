"""`omni-edge info`: what a bundle holds and needs, and whether it is intact."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from omni_cli import options
from omni_cli.console import Progress, human_bytes, table
from omni_cli.default_bundle import resolve_bundle
from omni_edge.bundle.footprint import footprint
from omni_edge.bundle.manifest import Manifest, graph_bytes
from omni_edge.bundle.reader import Bundle


def info(
    *,
    bundle: options.Bundle = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what a bundle holds and needs. Checks the hash of every file."""
    folder = resolve_bundle(bundle, "BUNDLE")
    progress = Progress()
    hashed = 0

    def count(nbytes: int) -> None:
        nonlocal hashed
        hashed += nbytes
        progress("checking", hashed, total)

    total = sum(entry.bytes for entry in Bundle(folder).manifest.files.values())
    try:
        manifest = Bundle(folder, verify=True, progress=count).manifest
    finally:
        progress.close()
    summary = _summary(manifest)
    typer.echo(json.dumps(summary, indent=1, ensure_ascii=False) if as_json else _text(folder, summary))


def _summary(manifest: Manifest) -> dict[str, Any]:
    need = footprint(manifest)
    return {
        "format_version": manifest.format_version,
        "generator": manifest.generator,
        "origin": manifest.origin.source,
        "licence": manifest.origin.licence,
        "dtype": manifest.origin.dtype,
        "voices": sorted(manifest.voices.speakers) if manifest.voices else [],
        "default_voice": manifest.voices.default if manifest.voices else None,
        "graphs": {
            role: {
                "nodes": entry.nodes,
                "precision": entry.precision,
                "recipes": entry.recipes or {},
                "calibration": entry.calibration and asdict(entry.calibration),
                "bytes": graph_bytes(manifest, role),
            }
            for role, entry in manifest.graphs.items()
        },
        "npu": _npu(manifest),
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "memory": {
            "weights": need.weights,
            "per_1000_positions": 1000 * need.per_position,
            "max_positions": manifest.thinker.max_positions,
        },
    }


def _npu(manifest: Manifest) -> dict[str, Any] | None:
    """The static graphs: for which NPU, for how many positions, and what plays which role there."""
    static = manifest.static
    if static is None:
        return None
    decoders = {"thinker": static.thinker, "talker": static.talker}
    return {
        "target": static.target,
        "context": static.context,
        "graphs": {role: entry.files for role, entry in decoders.items() if entry},
    }


def _text(bundle: Path, summary: dict[str, Any]) -> str:
    memory, voices = summary["memory"], summary["voices"]
    graphs = table(
        ["graph", "nodes", "size", "weights"],
        [
            [role, str(graph["nodes"]), human_bytes(graph["bytes"]), _recipes(graph)]
            for role, graph in summary["graphs"].items()
        ],
        right=(1, 2),
    )
    speech = f"{', '.join(voices)} (default {summary['default_voice']})" if voices else "none: a text-only bundle"
    return (
        f"{bundle}\n"
        f"origin   {summary['origin']} ({summary['dtype']})\n"
        f"licence  {summary['licence']}\n"
        f"voices   {speech}\n"
        f"files    {summary['files']}, {human_bytes(summary['bytes'])}, every SHA-256 matches\n"
        f"memory   {human_bytes(memory['weights'])} of weights"
        f" + {human_bytes(memory['per_1000_positions'])} for each 1000 positions of context"
        f" (at most {memory['max_positions']})\n"
        f"{_npu_line(summary['npu'])}"
        f"\n{graphs}"
    )


def _npu_line(npu: dict[str, Any] | None) -> str:
    if npu is None:
        return ""
    graphs = ", ".join(f"{role} in {len(files)} graphs" for role, files in npu["graphs"].items())
    return (
        f"npu      {npu['target']}: {graphs}, {npu['context']} positions; --device qnn runs them, the rest on the CPU\n"
    )


def _recipes(graph: dict[str, Any]) -> str:
    """How the graph's matrices are stored, the most frequent form first; those without a recipe have a precision."""
    counted = Counter(graph["recipes"].values())
    return "; ".join(text for text, _ in counted.most_common()) or graph["precision"]
