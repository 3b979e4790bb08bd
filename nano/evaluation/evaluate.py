"""What nano can do, on data that it was not trained on, through the runtime's public API: one column for each bundle.

    python -m nano.evaluation.evaluate --work nano-work --bundle nano-work/fp32 --bundle nano-work/int4
    python -m nano.evaluation.evaluate --quick        # the built-in bundle on the kept data; less than a minute

Understanding is the share of replies that are right to the letter. Speech is judged by an independent recognizer
against what the model itself wrote, and by the pitch of the voice. token2wav is judged alone as well, on the codec's
own tokens, for every solver setting, streamed and whole. The tables go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from nano.data.exercises import EVALUATION_SETS, Exercise, evaluation_set
from nano.evaluation.held_out_sets import KEPT, QUICK_COUNTS, QUICK_UTTERANCES, SEED, Material, mixed, write_kept
from nano.evaluation.metrics import Distance, Share, WordErrors
from nano.evaluation.shuffle import SHUFFLES
from nano.evaluation.tables import markdown
from nano.evaluation.workers import Crew, Heard, Question, Rendering, Request, Spoken, render, speak, understand
from nano.world import reply_split
from omni_edge.backend.machine import machine, usable_cores
from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.bundle.reader import Bundle
from omni_edge.vocoder.solver import SolverSettings

# The first is the default, the last the reference's own.
SOLVERS = {
    "euler-4": SolverSettings(),
    "euler-4, no guidance": SolverSettings(guidance=0.0),
    "ab2-4": SolverSettings.from_options("ab2"),
    "euler-8": SolverSettings.from_options("euler", 8),
    "rk4-36": SolverSettings.from_options("rk4"),
}
_REFERENCE = "rk4-36, whole"
# What time ids decide: one of four colours, and for comparison one of four directions or counts.
_TIMED_SETS = {"sound_and_picture": 0.25, "videos": 0.25}
# Parts of the spoken replies: the model never learned to speak this sentence; token2wav saw all of it at once.
_NEW, _WHOLE = ", sentences new to the voice", ", whole utterance"
# Wrong replies that a set's results keep.
_MISTAKES = 20
_PACKAGES = ("numpy", "onnxruntime", "pocketsphinx", "tokenizers")
_MOST_WORKERS = 2


@dataclass(frozen=True)
class Plan:
    """How much is asked.

    Attributes:
        counts: exercises of each set.
        spoken: replies spoken in each voice, sampled and greedy.
        utterances: sentences vocoded in each voice with every solver setting.
        workers: processes.
    """

    counts: Mapping[str, int]
    spoken: int
    utterances: int
    workers: int

    @classmethod
    def full(cls, count: int, workers: int) -> Plan:
        """The full form with at most `count` exercises a set."""
        counts = {name: min(size or count, count) for name, size in EVALUATION_SETS.items()}
        return cls(counts, max(4, count // 7), max(2, count // 25), workers)

    @classmethod
    def quick(cls, workers: int) -> Plan:
        """The quick form."""
        return cls(QUICK_COUNTS, 6, QUICK_UTTERANCES, workers)


Results = dict[str, Any]


def evaluate(bundle: Path, plan: Plan, material: Material) -> tuple[Results, dict[str, list[Heard]]]:
    """Everything about one bundle, but for distances to another one; and what its token2wav made of the utterances."""
    began = time.monotonic()
    with Crew(bundle, plan.workers) as crew:
        results: Results = {
            "bytes": sum(entry.bytes for entry in Bundle(bundle).manifest.files.values()),
            "precision": precision(bundle),
            "understanding": understanding(crew, plan, material),
            **speech(crew, plan, material, Bundle(bundle)),
        }
        heard = renderings(crew, material)
    results["seconds"] = round(time.monotonic() - began)
    return results, heard


def precision(bundle: Path) -> dict[str, str]:
    """Graph -> how its matrices are stored."""
    return {role: graph.precision for role, graph in Bundle(bundle).manifest.graphs.items()}


def understanding(crew: Crew, plan: Plan, material: Material) -> Results:
    """Share of right replies for every set, in parts by input and room, and where time ids are shuffled."""
    results: Results = {}
    for name, count in plan.counts.items():
        exercises = list(evaluation_set(name, material.cache, count))
        texts = crew.map(name, understand, [Question(exercise) for exercise in exercises])
        results[name] = _judged(exercises, texts)
        for shuffle in SHUFFLES if name in _TIMED_SETS else ():
            questions = [Question(exercise, shuffle, number) for number, exercise in enumerate(exercises)]
            label = f"{name}, times of {shuffle} shuffled"
            texts = crew.map(label, understand, questions)
            results[label] = _judged(exercises, texts) | {"chance": _TIMED_SETS[name]}
    return results


def _judged(exercises: Sequence[Exercise], texts: Sequence[str]) -> Results:
    verdicts = [text == exercise.reply for exercise, text in zip(exercises, texts, strict=True)]
    parts: dict[str, list[bool]] = defaultdict(list)
    for exercise, right in zip(exercises, verdicts, strict=True):
        for part in {exercise.family, exercise.notes["input"], exercise.notes.get("room", exercise.notes["input"])}:
            parts[part].append(right)
    mistakes = [
        {"asked": exercise.texts, "right": exercise.reply, "reply": text}
        for exercise, text, right in zip(exercises, texts, verdicts, strict=True)
        if not right
    ]
    return {
        **Share.of(verdicts).to_json(),
        "parts": {name: Share.of(part).to_json() for name, part in sorted(parts.items())},
        "mistakes": mistakes[:_MISTAKES],
    }


def speech(crew: Crew, plan: Plan, material: Material, bundle: Bundle) -> Results:
    """Word errors of spoken replies from question to samples, and whose voice they have."""
    if bundle.manifest.voices is None:
        return {"speech": {}, "voices": {}}
    exercises = mixed(material.cache, plan.counts, plan.spoken)
    speakers = list(bundle.manifest.voices.speakers)
    parts = ("", *(f", {voice}" for voice in speakers), _NEW, _WHOLE)
    words: dict[str, list[tuple[int, int]]] = {f"{kind}{part}": [] for kind in ("sampled", "greedy") for part in parts}
    voices: dict[str, list[bool]] = defaultdict(list)
    notes: Results = {"unfinished": 0, "misheard": []}
    for greedy in (False, True):
        kind = "greedy" if greedy else "sampled"
        for voice in speakers:
            requests = [Request(exercise, voice, greedy, SEED + n) for n, exercise in enumerate(exercises)]
            for spoken in crew.map(f"spoken by {voice}, {kind}", speak, requests):
                _note(spoken, voice, kind, words, notes)
                voices[voice].append(material.judge.voice(spoken.pitch) == voice)
    return {
        "speech": {name: WordErrors.of(errors).to_json() for name, errors in words.items()} | notes,
        "voices": {voice: Share.of(verdicts).to_json() for voice, verdicts in voices.items()}
        | {"pitches": {voice: round(pitch, 1) for voice, pitch in material.judge.pitches.items()}},
    }


def _note(spoken: Spoken, voice: str, kind: str, words: dict[str, list[tuple[int, int]]], notes: Results) -> None:
    errors = spoken.streamed.errors
    words[kind].append(errors)
    words[f"{kind}, {voice}"].append(errors)
    if reply_split(spoken.text) == "held_out":
        words[f"{kind}{_NEW}"].append(errors)
    words[f"{kind}{_WHOLE}"].append(spoken.whole.errors)
    notes["unfinished"] += not spoken.finished
    if errors[0] and len(notes["misheard"]) < _MISTAKES:
        notes["misheard"].append({"voice": voice, "said": spoken.text, "heard": " ".join(spoken.streamed.words)})


def renderings(crew: Crew, material: Material) -> dict[str, list[Heard]]:
    """The utterances with every solver setting, streamed and whole."""
    heard = {}
    for name, solver in SOLVERS.items():
        for whole in (False, True):
            label = f"{name}, {'whole' if whole else 'streamed'}"
            tasks = [Rendering(utterance, solver, whole, SEED) for utterance in material.utterances]
            heard[label] = crew.map(label, render, tasks)
    return heard


def compared(heard: Mapping[str, Sequence[Heard]], reference: Sequence[Heard], rate: int) -> Results:
    """Word errors of each solver setting and its mean distance from `reference`."""
    results: Results = {}
    for name, sounds in heard.items():
        pairs = zip(sounds, reference, strict=True)
        distances = [Distance.between(sound.samples, other.samples, rate) for sound, other in pairs]
        seconds = sum(sound.seconds for sound in sounds)
        audio = sum(len(sound.samples) for sound in sounds) / rate
        results[name] = WordErrors.of(sound.errors for sound in sounds).to_json() | {
            "mel_distance": round(float(np.mean([distance.mel for distance in distances])), 4),
            # The same sound is infinitely near: no number in JSON.
            "snr_db": _finite(float(np.mean([distance.snr for distance in distances]))),
            "rtf": round(seconds / audio, 3) if audio else None,
        }
    return results


def _finite(value: float) -> float | None:
    return round(value, 1) if np.isfinite(value) else None


def run(bundles: Sequence[Path], plan: Plan, material: Material) -> Results:
    """All bundles. token2wav is compared with that of the first one whose DiT and BigVGAN are float32, if there is one.

    Raises:
        BundleError: a folder is no bundle.
        ValueError: two bundles have the same name.
    """
    names = [bundle.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise ValueError(f"each bundle needs a folder name of its own; these are {', '.join(names)}")
    began = time.monotonic()
    exact = [bundle for bundle in bundles if {precision(bundle).get(role) for role in ("dit", "bigvgan")} == {"fp32"}]
    first = (exact or list(bundles))[0]
    found: Results = {}
    reference: list[Heard] = []
    for bundle in sorted(bundles, key=lambda each: each != first):
        results, heard = evaluate(bundle.resolve(), plan, material)
        reference = reference or heard[_REFERENCE]
        section = Bundle(bundle).manifest.token2wav
        results["token2wav"] = compared(heard, reference, section.sample_rate) if section else {}
        found[bundle.resolve().name] = results
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seed": SEED,
        "counts": dict(plan.counts) | {"spoken": plan.spoken, "utterances": len(material.utterances)},
        "versions": {"python": platform.python_version(), **_versions(_PACKAGES)},
        "machine": asdict(machine()),
        "workers": plan.workers,
        "seconds": round(time.monotonic() - began),
        "reference": f"{first.resolve().name}, {_REFERENCE}",
        "bundles": {name: found[name] for name in names},
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--bundle", type=Path, action="append", help="repeatable; without: the shipped one")
    parser.add_argument("--count", type=int, default=300, help="exercises a set at most; speech is scaled with it")
    parser.add_argument("--quick", action="store_true", help="few exercises, without a work folder")
    parser.add_argument("--workers", type=int, default=min(_MOST_WORKERS, usable_cores()))
    parser.add_argument("--out", type=Path, help="where the results are kept (JSON)")
    parser.add_argument(
        "--write-quick", type=Path, metavar="FILE", nargs="?", const=KEPT, help="write what --quick reads"
    )
    arguments = parser.parse_args()
    if arguments.write_quick:
        write_kept(arguments.work, arguments.write_quick)
        return
    if arguments.quick:
        plan, material = Plan.quick(arguments.workers), Material.kept()
    else:
        plan = Plan.full(arguments.count, arguments.workers)
        material = Material.of_work(arguments.work, plan.utterances)
    results = run(arguments.bundle or [shipped_bundle()], plan, material)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    sys.stdout.write(markdown(results))


if __name__ == "__main__":
    main()
