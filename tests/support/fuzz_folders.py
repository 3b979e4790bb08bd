"""Damaged bundles and checkpoints for fuzzing, and the commands that meet them.

By hand, with counts of how the cases ended:

    PYTHONPATH=tests python -m support.fuzz_folders bundles FOLDER 2000
    PYTHONPATH=tests python -m support.fuzz_folders checkpoints FOLDER 500
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import Result

from omni_edge.bundle.manifest import MANIFEST_NAME
from support.commands import run_edge, run_export
from support.fuzz import Limits, Sandbox, json_mutations, mutations

_DOCUMENTED = {0, 2, 3, 6}
_HEADER_SHARE = 0.5
_SHOWN = 300

Damage = tuple[str, Callable[[Path], None]]


def use_bundle(folder: Path) -> None:
    """`omni-edge info` and a reply; every fourth case speaks, which takes most of the time."""
    _documented(run_edge("info", folder))
    command = ("run", "Hi", "-m", folder, "--json", "--threads", 1, "--seed", 1, "--max-new-tokens", 3)
    speech = ("--max-codec-tokens", 8) if int(folder.parent.name) % 4 == 0 else ("--no-speech",)
    _documented(run_edge(*command, *speech))


def use_checkpoint(folder: Path) -> None:
    """`omni-export`, mostly without speech; a refusal leaves nothing, and a bundle that is written loads."""
    out = folder.with_name("exported")
    text_only = ("--text-only",) if int(folder.parent.name) % 4 else ()
    result = run_export(folder, "--out", out, "--precision", "int8", *text_only)
    _documented(result)
    left = sorted(path.name for path in folder.parent.iterdir() if path != folder)
    if left != (["exported"] if result.exit_code == 0 else []):
        raise AssertionError(f"exit code {result.exit_code} leaves {left}")
    if result.exit_code == 0:
        loads = run_edge("info", out)
        if loads.exit_code != 0:
            raise AssertionError(f"the bundle does not load: {loads.output[-_SHOWN:]}")


def _documented(result: Result) -> None:
    lines = (result.stderr or result.output).strip().splitlines() or [""]
    last = lines[-1][:_SHOWN]
    if result.exit_code not in _DOCUMENTED or "This is a bug" in result.output or "Traceback" in result.output:
        raise AssertionError(f"exit code {result.exit_code}: {last}")
    if result.exit_code and not last.startswith("error: "):
        raise AssertionError(f"exit code {result.exit_code} without a message: {last}")


def damaged_bundles(source: Path, rng: np.random.Generator) -> Iterator[Damage]:
    """Endless damage of the bundle `source`: values of its manifest, or bytes of a file, its hash left or mended."""
    manifest = json.loads((source / MANIFEST_NAME).read_text("utf-8"))
    values = json_mutations(manifest, rng)
    while True:
        choice = rng.random()
        if choice < 0.6:
            yield _json_damage(MANIFEST_NAME, *next(values))
        elif choice < 0.65:
            yield _bytes_damage(source, MANIFEST_NAME, rng)
        elif choice < 0.85:
            names = sorted(manifest["files"])
            yield _bytes_damage(source, names[int(rng.integers(len(names)))], rng)
        else:
            names = sorted(name for name in manifest["files"] if not name.endswith(".onnx"))
            name, damage = _bytes_damage(source, names[int(rng.integers(len(names)))], rng)
            yield f"{name}, hash mended", _mended(damage)


def damaged_graphs(source: Path, rng: np.random.Generator) -> Iterator[Damage]:
    """Endless damage of graphs whose recorded hashes are mended: nothing but the graph's own loader sees it."""
    names = sorted(path.name for path in source.glob("*.onnx"))
    while True:
        name, damage = _bytes_damage(source, names[int(rng.integers(len(names)))], rng)
        yield f"{name}, hash mended", _mended(damage)


def damaged_checkpoints(source: Path, rng: np.random.Generator) -> Iterator[Damage]:
    """Endless damage of the checkpoint `source`: values of its JSON files, headers of its weights, any file's bytes."""
    objects = {path.name: json.loads(path.read_text("utf-8")) for path in sorted(source.glob("*.json"))}
    values = {name: json_mutations(value, rng) for name, value in objects.items()}
    likely = [name for name in values if name != "tokenizer.json"]
    files = sorted(path.name for path in source.iterdir())
    weights = sorted(path.name for path in source.glob("*.safetensors"))
    while True:
        choice = rng.random()
        if choice < 0.35:
            yield _json_damage("config.json", *next(values["config.json"]))
        elif choice < 0.6:
            name = likely[int(rng.integers(len(likely)))]
            yield _json_damage(name, *next(values[name]))
        elif choice < 0.8:
            yield _header_damage(source, weights[int(rng.integers(len(weights)))], rng)
        else:
            yield _bytes_damage(source, files[int(rng.integers(len(files)))], rng)


def _json_damage(name: str, kind: str, value: Any) -> Damage:
    def damage(folder: Path) -> None:
        _replace(folder / name, json.dumps(value).encode())

    return f"{name} {kind}", damage


def _bytes_damage(source: Path, name: str, rng: np.random.Generator) -> Damage:
    kind, data = next(mutations((source / name).read_bytes(), rng))
    return f"{name} {kind}", lambda folder: _replace(folder / name, data)


def _header_damage(source: Path, name: str, rng: np.random.Generator) -> Damage:
    """A value of a safetensors header, or its bytes."""
    whole = (source / name).read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    if rng.random() < _HEADER_SHARE:
        kind, value = next(json_mutations(json.loads(whole[8:start]), rng))
        text = json.dumps(value).encode()
    else:
        kind, text = next(mutations(whole[8:start], rng))
    data = len(text).to_bytes(8, "little") + text + whole[start:]
    return f"{name} header {kind}", lambda folder: _replace(folder / name, data)


def _mended(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        damage(folder)
        manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
        for name in manifest["files"]:
            data = (folder / name).read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        _replace(folder / MANIFEST_NAME, json.dumps(manifest).encode())

    return apply


def _replace(path: Path, data: bytes) -> None:
    """Writes a new file: the old one is linked to the original."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def linked_copy(source: Path, target: Path) -> Path:
    """A folder of hard links to the files of `source`."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, target / path.name)
    return target


def fuzz(
    use: Callable[[Path], None],
    source: Path,
    damages: Iterator[Damage],
    count: int,
    limits: Limits | None = None,
    *,
    on_case: Callable[[str, str], None] = lambda kind, end: None,
) -> list[str]:
    """Runs `use` on `count` damaged copies of `source`; returns the faults, each with its damage.

    `on_case` is called with the damage and the error's first words, "" where the input was accepted.
    """
    faults = []
    with tempfile.TemporaryDirectory(dir=source.parent) as work, Sandbox(limits or Limits()) as sandbox:
        # The first case is undamaged: it must pass, and it takes the seconds that torch needs to be imported.
        for index in range(count + 1):
            kind, damage = next(damages) if index else ("no damage", lambda _: None)
            place = Path(work) / str(index)
            folder = linked_copy(source, place / "damaged")
            damage(folder)
            outcome = sandbox.run(use, folder)
            if outcome.fault or "This is a bug" in outcome.stderr:
                faults.append(f"{kind}: {outcome.fault or outcome.stderr[-_SHOWN:]}")
            on_case(kind, outcome.fault or "")
            shutil.rmtree(place)
    return faults


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["bundles", "graphs", "checkpoints"])
    parser.add_argument("source", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="longer on a busy machine")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    use = use_checkpoint if arguments.kind == "checkpoints" else use_bundle
    makers = {"bundles": damaged_bundles, "graphs": damaged_graphs, "checkpoints": damaged_checkpoints}
    ends: Counter[str] = Counter()

    def note(kind: str, end: str) -> None:
        ends["fault" if end else "ok"] += 1
        if end:
            print(f"{kind}: {end}", flush=True)
        elif sum(ends.values()) % 100 == 0:
            print(dict(ends), file=sys.stderr, flush=True)

    fuzz(
        use,
        arguments.source,
        makers[arguments.kind](arguments.source, rng),
        arguments.count,
        Limits(arguments.seconds),
        on_case=note,
    )
    print(dict(ends))


if __name__ == "__main__":
    main()
