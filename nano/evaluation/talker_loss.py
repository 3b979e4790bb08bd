"""How much worse bundles predict the codec tokens of float32: omni-nano's Talker on held-out spoken requests.

    python -m nano.evaluation.talker_loss --bundle BUNDLE --clips 24 --out results.jsonl

The clips are those of the repository. The Talker in float32 draws codec tokens by the bundle's sampling, and the bundle
predicts them teacher-forced: its Talker behind encoder and Thinker in float32, then behind the bundle's own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from nano.data.voices import RATE
from nano.evaluation.held_out_sets import HeldOutSets
from omni_edge.backend.machine import machine
from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.bundle.reader import Bundle
from omni_edge.events import AudioClip
from omni_export.evaluate.evaluate import evaluate_bundle
from omni_export.evaluate.material import Limits, Material

CHECKPOINT = Path(__file__).parents[1] / "omni-nano"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="repeatable; default: the built-in bundle")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--out", type=Path, help="JSON lines that are added to")
    arguments = parser.parse_args()
    cache = HeldOutSets.from_repository().cache
    clips = tuple(AudioClip(cache.samples(number), RATE) for number in range(arguments.clips))
    lines = []
    print("| bundle | graphs | codec tokens | extra nats per codec token | KL, nats | same first choice |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in arguments.bundle or [shipped_bundle()]:
        found = evaluate_bundle(path, CHECKPOINT, Material("", clips, ()), Limits())
        roles = Bundle(path).manifest.graphs
        precisions = {role: roles[role].precision for role in ("audio_encoder", "thinker", "talker")}
        for row in found.tokens:
            if "talker" not in row.graphs:
                continue
            scores = row.scores
            lines.append(
                {
                    "bundle": path.name,
                    "precision": precisions,
                    "graphs": row.graphs,
                    "tokens": len(scores),
                    "extra_nll": scores.extra_nll,
                    "kl": scores.mean_kl,
                    "same_first_choice": scores.agreement,
                    "compiled": found.compiled,
                }
            )
            print(
                f"| {path.name} | {row.graphs} | {len(scores)} | {scores.extra_nll:.3f} | {scores.mean_kl:.4f} "
                f"| {scores.agreement:.1%} |",
                flush=True,
            )
    if arguments.out:
        head = {"clips": len(clips), "machine": asdict(machine())}
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in [head, *lines])


if __name__ == "__main__":
    main()
