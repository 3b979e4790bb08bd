"""Evaluates bundles on held-out data through the runtime's public API: one column for each bundle.

    python -m nano.evaluation.evaluate --work nano-work --bundle nano-work/fp32 --bundle nano-work/int4
    python -m nano.evaluation.evaluate --quick        # the built-in bundle on the repository's data; less than a minute

Understanding is the share of replies that are right to the letter. An independent recognizer compares speech with the
model's own text, and the pitch must be that of the voice. token2wav is also evaluated alone, on the codec's tokens, for
every solver setting, streamed and whole. The tables go to stdout, progress to stderr.
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
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from nano.data.exercises import EVALUATION_SETS, Exercise, evaluation_set
from nano.evaluation.held_out_sets import KEPT, QUICK_COUNTS, QUICK_UTTERANCES, SEED, HeldOutSets, mixed, write_kept
from nano.evaluation.metrics import Distance, Share, WordErrors, extra_word_errors
from nano.evaluation.shuffle import SHUFFLES, Shuffle
from nano.evaluation.tables import markdown
from nano.evaluation.workers import (
    Question,
    Recognition,
    Rendering,
    Request,
    SpokenReply,
    WorkerPool,
    render,
    speak,
    understand,
)
from nano.world import reply_split
from omni_edge.backend import kernels
from omni_edge.backend.machine import machine, usable_cores
from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.bundle.reader import Bundle
from omni_edge.vocoder.solver import SolverSettings

# The first is the default, the last the reference's.
SOLVERS = {
    "euler-4": SolverSettings(),
    "euler-4, no guidance": SolverSettings(guidance=0.0),
    "ab2-4": SolverSettings.from_options("ab2"),
    "euler-8": SolverSettings.from_options("euler", 8),
    "rk4-36": SolverSettings.from_options("rk4"),
}
_REFERENCE = "rk4-36, whole"
# Sets whose answers time ids decide, and the chance of a right guess.
_TIMED_SETS = {"sound_and_picture": 0.25, "videos": 0.25}
# Parts of the spoken replies: sentences that the Talker was not trained on; token2wav on whole utterances.
_NEW, _WHOLE = ", sentences new to the voice", ", whole utterance"
# How many wrong replies the results of a set keep.
_MISTAKES = 20
_PACKAGES = ("numpy", "onnxruntime", "pocketsphinx", "tokenizers")
_MOST_WORKERS = 2


@dataclass(frozen=True)
class Plan:
    """The number of exercises that are evaluated.

    Attributes:
        counts: exercises of each set.
        spoken: replies in each voice, sampled and greedy; drawn from all sets.
        utterances: sentences in each voice, vocoded with every solver setting.
        workers: number of processes.
        answered: sets that are answered in text.
        shuffles: permutations of the time ids.
    """

    counts: Mapping[str, int]
    spoken: int
    utterances: int
    workers: int
    answered: tuple[str, ...] = tuple(EVALUATION_SETS)
    shuffles: tuple[Shuffle, ...] = SHUFFLES

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


def evaluate(bundle: Path, plan: Plan, sets: HeldOutSets) -> tuple[Results, dict[str, list[Recognition]]]:
    """The results of one bundle, and its vocoded utterances by solver setting."""
    began = time.monotonic()
    with WorkerPool(bundle, plan.workers) as pool:
        results: Results = {
            "bytes": sum(entry.bytes for entry in Bundle(bundle).manifest.files.values()),
            "precision": precision(bundle),
            "understanding": understanding(pool, plan, sets),
            **speech(pool, plan, sets, Bundle(bundle)),
        }
        vocoded = renderings(pool, sets)
    results["seconds"] = round(time.monotonic() - began)
    return results, vocoded


def precision(bundle: Path) -> dict[str, str]:
    """Graph -> how its matrices are stored."""
    return {role: graph.precision for role, graph in Bundle(bundle).manifest.graphs.items()}


def understanding(pool: WorkerPool, plan: Plan, sets: HeldOutSets) -> Results:
    """Share of right replies for every set, by input and room, and with shuffled time ids."""
    results: Results = {}
    for name in plan.answered:
        exercises = list(evaluation_set(name, sets.cache, plan.counts[name]))
        texts = pool.map(name, understand, [Question(exercise) for exercise in exercises])
        results[name] = _graded(exercises, texts)
        for shuffle in plan.shuffles if name in _TIMED_SETS else ():
            questions = [Question(exercise, shuffle, number) for number, exercise in enumerate(exercises)]
            label = f"{name}, times of {shuffle} shuffled"
            texts = pool.map(label, understand, questions)
            results[label] = _graded(exercises, texts) | {"chance": _TIMED_SETS[name]}
    return results


def _graded(exercises: Sequence[Exercise], texts: Sequence[str]) -> Results:
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
        **Share.from_verdicts(verdicts).to_json(),
        "parts": {name: Share.from_verdicts(part).to_json() for name, part in sorted(parts.items())},
        "mistakes": mistakes[:_MISTAKES],
    }


def speech(pool: WorkerPool, plan: Plan, sets: HeldOutSets, bundle: Bundle) -> Results:
    """Word errors of spoken replies, and whether their pitch is that of the voice."""
    if bundle.manifest.voices is None or not plan.spoken:
        return {"speech": {}, "voices": {}, "sentences": {}}
    exercises = mixed(sets.cache, plan.counts, plan.spoken)
    speakers = list(bundle.manifest.voices.speakers)
    parts = ("", *(f", {voice}" for voice in speakers), _NEW, _WHOLE)
    words: dict[str, list[tuple[int, int]]] = {f"{kind}{part}": [] for kind in ("sampled", "greedy") for part in parts}
    voices: dict[str, list[bool]] = defaultdict(list)
    notes: Results = {"unfinished": 0, "misheard": []}
    for greedy in (False, True):
        kind = "greedy" if greedy else "sampled"
        for voice in speakers:
            requests = [Request(exercise, voice, greedy, SEED + n) for n, exercise in enumerate(exercises)]
            for spoken in pool.map(f"spoken by {voice}, {kind}", speak, requests):
                _note(spoken, voice, kind, words, notes)
                voices[voice].append(sets.classifier.classify(spoken.pitch) == voice)
    return {
        "speech": {name: WordErrors.from_sentences(errors).to_json() for name, errors in words.items()} | notes,
        "voices": {voice: Share.from_verdicts(verdicts).to_json() for voice, verdicts in voices.items()}
        | {"pitches": {voice: round(pitch, 1) for voice, pitch in sets.classifier.pitches.items()}},
        "sentences": {kind: words[kind] for kind in ("sampled", "greedy")},
    }


def _note(spoken: SpokenReply, voice: str, kind: str, words: dict[str, list[tuple[int, int]]], notes: Results) -> None:
    errors = spoken.streamed.errors
    words[kind].append(errors)
    words[f"{kind}, {voice}"].append(errors)
    if reply_split(spoken.text) == "held_out":
        words[f"{kind}{_NEW}"].append(errors)
    words[f"{kind}{_WHOLE}"].append(spoken.whole.errors)
    notes["unfinished"] += not spoken.finished
    if errors[0] and len(notes["misheard"]) < _MISTAKES:
        notes["misheard"].append({"voice": voice, "said": spoken.text, "heard": " ".join(spoken.streamed.words)})


def renderings(pool: WorkerPool, sets: HeldOutSets) -> dict[str, list[Recognition]]:
    """The utterances with every solver setting, streamed and whole."""
    vocoded = {}
    for name, solver in SOLVERS.items():
        for whole in (False, True):
            label = f"{name}, {'whole' if whole else 'streamed'}"
            tasks = [Rendering(utterance, solver, whole, SEED) for utterance in sets.utterances]
            vocoded[label] = pool.map(label, render, tasks)
    return vocoded


def compared(vocoded: Mapping[str, Sequence[Recognition]], reference: Sequence[Recognition], rate: int) -> Results:
    """Word errors of each solver setting and its mean distance from `reference`."""
    results: Results = {}
    for name, sounds in vocoded.items():
        pairs = zip(sounds, reference, strict=True)
        distances = [Distance.between(sound.samples, other.samples, rate) for sound, other in pairs]
        seconds = sum(sound.seconds for sound in sounds)
        audio = sum(len(sound.samples) for sound in sounds) / rate
        results[name] = WordErrors.from_sentences(sound.errors for sound in sounds).to_json() | {
            "mel_distance": round(float(np.mean([distance.mel for distance in distances])), 4),
            # Equal sounds have an infinite ratio, which JSON cannot hold.
            "snr_db": _finite(float(np.mean([distance.snr for distance in distances]))),
            "rtf": round(seconds / audio, 3) if audio else None,
        }
    return results


def _finite(value: float) -> float | None:
    return round(value, 1) if np.isfinite(value) else None


def run(bundles: Sequence[Path], plan: Plan, sets: HeldOutSets) -> Results:
    """Evaluates all bundles. token2wav is compared with the first bundle whose DiT and BigVGAN are float32, if any.

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
    reference: list[Recognition] = []
    for bundle in sorted(bundles, key=lambda each: each != first):
        results, vocoded = evaluate(bundle.resolve(), plan, sets)
        reference = reference or vocoded[_REFERENCE]
        section = Bundle(bundle).manifest.token2wav
        results["token2wav"] = compared(vocoded, reference, section.sample_rate) if section else {}
        found[bundle.resolve().name] = results
    speaking = [name for name in names if found[name]["sentences"]]
    for name in speaking[1:]:
        found[name]["extra_word_errors"] = {
            f"{kind}, more than {speaking[0]}": extra_word_errors(sentences, reference_sentences, SEED)
            for (kind, sentences), reference_sentences in zip(
                found[name]["sentences"].items(), found[speaking[0]]["sentences"].values(), strict=True
            )
        }
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seed": SEED,
        "counts": dict(plan.counts) | {"spoken": plan.spoken, "utterances": len(sets.utterances)},
        "versions": {"python": platform.python_version(), **_versions(_PACKAGES)},
        "machine": asdict(machine()),
        "compiled": kernels.compiled() is not None,
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
    parser.add_argument("--bundle", type=Path, action="append", help="repeatable; default: the built-in bundle")
    parser.add_argument("--count", type=int, default=300, help="most exercises of a set; speech scales with it")
    parser.add_argument("--sets", nargs="*", choices=tuple(EVALUATION_SETS), help="answered in text; default: all")
    parser.add_argument("--no-shuffles", action="store_true", help="leave out the permuted time ids")
    parser.add_argument("--spoken", type=int, help="spoken replies in each voice; default: a seventh of --count")
    parser.add_argument("--quick", action="store_true", help="few exercises, from the repository")
    parser.add_argument("--workers", type=int, default=min(_MOST_WORKERS, usable_cores()))
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument(
        "--write-quick", type=Path, metavar="FILE", nargs="?", const=KEPT, help="write the data that --quick reads"
    )
    arguments = parser.parse_args()
    if arguments.write_quick:
        write_kept(arguments.work, arguments.write_quick)
        return
    if arguments.quick:
        plan, sets = Plan.quick(arguments.workers), HeldOutSets.from_repository()
    else:
        plan = Plan.full(arguments.count, arguments.workers)
        plan = replace(plan, spoken=plan.spoken if arguments.spoken is None else arguments.spoken)
        sets = HeldOutSets.from_work(arguments.work, plan.utterances)
    answered = plan.answered if arguments.sets is None else tuple(arguments.sets)
    plan = replace(plan, answered=answered, shuffles=() if arguments.no_shuffles else plan.shuffles)
    results = run(arguments.bundle or [shipped_bundle()], plan, sets)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    sys.stdout.write(markdown(results))


if __name__ == "__main__":
    main()
