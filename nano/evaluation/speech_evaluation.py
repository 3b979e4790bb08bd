"""Word error rates of nano's speech on held-out sentences, by an independent recognizer.

Three stages show where an error comes from: the synthesizer's own audio, its mel through BigVGAN, and
codes through the DiT (a sampler of few steps) and BigVGAN. The recognizer is pocketsphinx with its US English model
and a grammar of the world's replies.

    python -m nano.evaluation.speech_evaluation --work nano-work --count 50
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nano import world
from nano.data.mel24 import BINS, HOP, RATE, log_mel
from nano.data.speech_corpus import VOICES, Corpus
from nano.data.word_errors import word_errors
from nano.evaluation.recognizer import Recognizer
from nano.model.architecture import load_part
from nano.training.train_bigvgan import bigvgan
from nano.training.train_codec import CodedClip, load_codes
from nano.training.train_dit import dit, speakers
from omni_edge.vocoder.solver import SolverSettings, solve

Samples = NDArray[np.float32]
SEED = 17


class Speaker:
    """The reference's token2wav with the weights that are trained so far."""

    def __init__(self, work: Path, settings: SolverSettings) -> None:
        self._settings = settings
        self._speakers = speakers(work)
        self._vocoder, self._dit = bigvgan().eval(), None
        self._vocoder.load_state_dict(load_part(work, "bigvgan") or {})
        state = load_part(work, "dit")
        if state is not None:
            self._dit = dit().eval()
            self._dit.load_state_dict(state)

    @torch.no_grad()
    def vocode(self, mel: Tensor) -> Samples:
        """Log mel float32 [frames, bins] -> samples float32 [frames * HOP]."""
        samples: Samples = self._vocoder(mel.T[None]).numpy()
        return samples

    @torch.no_grad()
    def mel(self, codes: NDArray[np.int16], speaker: str, seed: int = SEED) -> Tensor:
        """Codes [n] -> log mel float32 [2 n, bins].

        Raises:
            RuntimeError: the DiT is not trained yet.
        """
        model = self._dit
        if model is None:
            raise RuntimeError("the DiT is not trained yet: run python -m nano.training.train_dit")
        times, guidance = torch.from_numpy(self._settings.times()), self._settings.guidance
        frames = 2 * len(codes)
        speaker_entry = self._speakers[speaker]
        cond, reference = speaker_entry["cond"], speaker_entry["ref_mel"]
        assert isinstance(cond, Tensor)

        def velocity(index: int, state: Samples) -> Samples:
            found = model(
                hidden_states=torch.from_numpy(state)[None],
                condition_vector=reference,
                speaker_embedding=cond[:, None].repeat(1, frames, 1),
                quantized_code=torch.from_numpy(codes.astype(np.int64))[None],
                time_step=times[index],
                apply_cfg=guidance > 0,
            )
            guided = found[0] + guidance * (found[0] - found[-1])
            answer: Samples = guided.numpy()
            return answer

        noise = np.random.default_rng(seed).standard_normal((frames, BINS), np.float32)
        return torch.from_numpy(solve(velocity, noise, self._settings))


def _clips(work: Path, count: int) -> Iterator[CodedClip]:
    """`count` held-out sentences, the same for both voices."""
    spoken = [each for each in load_codes(work) if each.clip.kind == "reply" and each.clip.split == "held_out"]
    texts = sorted({each.clip.text for each in spoken})
    picked = set(random.Random(SEED).sample(texts, min(count, len(texts))))
    return (each for each in spoken if each.clip.text in picked)


def evaluate(work: Path, count: int, settings: SolverSettings) -> dict[str, dict[str, float]]:
    """Word error rate by stage and voice, 0 to 1, and the mean absolute difference of log mels in nats."""
    corpus, recognizer, speaker = Corpus.load(work), Recognizer(), Speaker(work, settings)
    stages: dict[str, Callable[[CodedClip], Samples]] = {
        "synthesizer": lambda each: corpus.audio(each.clip),
        "bigvgan": lambda each: speaker.vocode(torch.from_numpy(corpus.mel(each.clip))),
    }
    if load_part(work, "dit") is not None:
        stages["dit and bigvgan"] = lambda each: speaker.vocode(speaker.mel(each.codes, each.clip.speaker))
    clips = list(_clips(work, count))
    results: dict[str, dict[str, float]] = {}
    for stage, speak in stages.items():
        errors, words, distance = dict.fromkeys(VOICES, 0), dict.fromkeys(VOICES, 0), dict.fromkeys(VOICES, 0.0)
        for each in clips:
            name, truth, samples = each.clip.speaker, world.plain_words(each.clip.text).split(), speak(each)
            recognized = recognizer.words(samples, RATE)
            wrong = word_errors(truth, recognized)
            if wrong:
                print(f"{stage}, {name}: {' '.join(truth)} -> {' '.join(recognized)}")
            errors[name] += wrong
            words[name] += len(truth)
            whole = torch.from_numpy(samples[: len(samples) // HOP * HOP])[None]
            distance[name] += float((log_mel(whole)[0].T - torch.from_numpy(corpus.mel(each.clip))).abs().mean())
        results[stage] = {name: errors[name] / words[name] for name in VOICES}
        results[stage] |= {f"{name} mel distance": distance[name] / (len(clips) / len(VOICES)) for name in VOICES}
        print(stage, {name: round(value, 4) for name, value in results[stage].items()}, flush=True)
    return results


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--solver", default="euler")
    parser.add_argument("--evaluations", type=int, default=None)
    parser.add_argument("--guidance", type=float, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = SolverSettings.from_options(arguments.solver, arguments.evaluations, arguments.guidance)
    results = evaluate(arguments.work, arguments.count, settings)
    (arguments.work / "speech_evaluation.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
