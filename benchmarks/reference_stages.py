"""The reference implementation in torch, float32, one stage at a time.

    python benchmarks/reference_stages.py /tmp/omni-3b                    # every stage; at most 3 GB of memory
    python benchmarks/reference_stages.py /tmp/omni-3b --stage dit --stage bigvgan
    python benchmarks/reference_stages.py --quick                         # a tiny checkpoint

It prints a JSON line per figure, for the inputs and in the units of `omni-edge bench`: 5 s of sound, a picture of
448 x 448, Talker decoding at 128 and 2048 positions, and BigVGAN over 1 s. The DiT makes one evaluation with guidance
over 3 s; its time is also given as the RTF of the reference's 36 evaluations.
The Thinker is measured by `compare.py` with the peer `reference`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from reference_checkpoint import argument_parser, parsed, versions

from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.verify.reference import ReferenceModules

EVALUATIONS = 36
FRAMES_PER_SECOND = 100
SOUND_SECONDS, DIT_SECONDS, BIGVGAN_SECONDS = 5, 3, 1
PICTURE = 448
STEPS = 16


@dataclass(frozen=True)
class Result:
    """Seconds of each run; `scale` makes them the figure: RTF, s, or (inverse) tok/s."""

    stage: str
    name: str
    unit: str
    seconds: tuple[float, ...]
    scale: float = 1.0

    @property
    def runs(self) -> list[float]:
        return [self.scale / value if self.unit == "tok/s" else self.scale * value for value in self.seconds]


class Stages:
    """Each stage's figures.

    Args:
        checkpoint: the folder of a checkpoint.
        runs: of each figure, after one that does not count.
        contexts: at which the Talker is measured.
    """

    def __init__(self, checkpoint: Path, runs: int, contexts: tuple[int, ...]) -> None:
        source = Checkpoint(checkpoint)
        self._config = OmniConfig.parse(source.config)
        self._modules = ReferenceModules(source, self._config)
        self._runs = runs
        self._contexts = contexts

    def audio(self) -> Iterator[Result]:
        model = self._modules.audio_encoder()
        mel = torch.randn(model.config.num_mel_bins, SOUND_SECONDS * FRAMES_PER_SECOND)
        seconds = self._seconds(lambda: model(mel, feature_lens=torch.tensor([mel.shape[1]])))
        yield Result("audio", f"encoder, {SOUND_SECONDS} s", "RTF", seconds, 1 / SOUND_SECONDS)

    def vision(self) -> Iterator[Result]:
        model = self._modules.vision_encoder()
        config = model.config
        side = PICTURE // config.patch_size
        patches = torch.randn(side * side, config.in_channels * config.temporal_patch_size * config.patch_size**2)
        grid = torch.tensor([[1, side, side]])
        yield Result(
            "vision", f"encoder, {PICTURE}x{PICTURE}", "s", self._seconds(lambda: model(patches, grid_thw=grid))
        )

    def talker(self) -> Iterator[Result]:
        model = self._modules.talker()
        width = model.thinker_to_talker_proj.in_features
        for context in self._contexts:
            cache = transformers.DynamicCache()
            states = torch.randn(1, context, width)
            with torch.inference_mode():
                model.model(inputs_embeds=model.thinker_to_talker_proj(states), past_key_values=cache, use_cache=True)

            def speak(cache: Any = cache, states: Any = states[:, :1], context: int = context) -> None:
                for _ in range(STEPS):
                    embeds = model.thinker_to_talker_proj(states)
                    hidden = model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
                    model.codec_head(hidden.last_hidden_state[:, -1]).argmax()
                cache.crop(context - cache.get_seq_length())

            yield Result("talker", f"codec tokens at {context}", "tok/s", self._seconds(speak), STEPS)

    def dit(self) -> Iterator[Result]:
        model = self._modules.dit()
        config = model.config
        frames = DIT_SECONDS * FRAMES_PER_SECOND
        inputs = {
            "hidden_states": torch.randn(1, frames, config.mel_dim),
            "condition_vector": torch.randn(1, frames, config.mel_dim),
            "speaker_embedding": torch.randn(1, frames, config.enc_emb_dim),
            "quantized_code": torch.zeros(1, frames // config.repeats, dtype=torch.long),
            "time_step": torch.tensor(0.5),
        }
        seconds = self._seconds(lambda: model(**inputs))
        yield Result("dit", f"one evaluation with guidance, {frames} frames", "s", seconds)
        yield Result("dit", f"{EVALUATIONS} evaluations with guidance", "RTF", seconds, EVALUATIONS / DIT_SECONDS)

    def bigvgan(self) -> Iterator[Result]:
        model = self._modules.bigvgan()
        mel = torch.randn(1, model.config.mel_dim, BIGVGAN_SECONDS * FRAMES_PER_SECOND)
        seconds = self._seconds(lambda: model(mel))
        yield Result("bigvgan", f"{BIGVGAN_SECONDS} s", "RTF", seconds, 1 / BIGVGAN_SECONDS)

    @torch.inference_mode()
    def _seconds(self, call: Callable[[], object]) -> tuple[float, ...]:
        call()
        found = []
        for _ in range(self._runs):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
        return tuple(found)


STAGES = ("audio", "vision", "talker", "dit", "bigvgan")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--stage", action="append", choices=STAGES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="*", default=[128, 2048])
    with parsed(parser) as arguments:
        stages = Stages(arguments.checkpoint, arguments.runs, tuple(arguments.contexts))
        for name in arguments.stage or STAGES:
            for result in getattr(stages, name)():
                figure = {"stage": result.stage, "name": result.name, "unit": result.unit, "runs": result.runs}
                line = {**figure, "median": median(result.runs), "threads": arguments.threads, "versions": versions()}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
