"""Trains the DiT by flow matching: straight lines lead from noise to the mel of the codec tokens and the speaker.

The model is the reference's, with its block masks, its ECAPA encoder and its codec embedding. Half of the times are
near those of the default solver. A tenth of the examples have no condition, as guidance requires.

    python -m nano.training.train_dit --work nano-work
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniDiTConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5_OmniAdaLayerNormZero,
    Qwen2_5_OmniAdaLayerNormZero_Final,
    Qwen2_5OmniToken2WavDiTModel,
)

from nano.data.mel24 import HOP
from nano.data.speech_corpus import VOICES, Corpus
from nano.model.architecture import SPEAKER_FILE, SPEAKER_WIDTH, SPEAKERS, TOKEN2WAV, load_tokenizer, save_part
from nano.training.loop import Journal, Recipe, stage_arguments, train_part
from nano.training.train_codec import CodedClip, load_codes
from omni_edge.vocoder.solver import SolverSettings

SEED = 13
STEPS = 2000
BATCH = 8
LONGEST = 240  # mel frames
RECIPE = Recipe(rate=1e-3, warm_up=200, betas=(0.9, 0.98), weight_decay=0.01, clip=1.0, average=0.998)
# Part of the examples without codec tokens and speaker; part with a time of the default solver.
_UNCONDITIONAL, _SAMPLED_TIMES = 0.1, 0.5
_REFERENCE_FRAMES = 200


def dit() -> Qwen2_5OmniToken2WavDiTModel:
    """The model, initialized so that every block is the identity."""
    # No dropout: the model is small for its data.
    config = Qwen2_5OmniDiTConfig(**TOKEN2WAV["dit_config"], dropout=0.0)
    config._attn_implementation = "sdpa"
    model = Qwen2_5OmniToken2WavDiTModel(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    for module in model.modules():
        if isinstance(module, Qwen2_5_OmniAdaLayerNormZero | Qwen2_5_OmniAdaLayerNormZero_Final):
            nn.init.zeros_(module.linear.weight)
    nn.init.zeros_(model.proj_out.weight)
    return model


def speakers(work: Path) -> dict[str, dict[str, int | Tensor]]:
    """WORK/weights/spk_dict.pt in the published form, written if it is missing.

    `cond` is a random vector per voice, `ref_mel` the middle of one sentence.
    """
    path = work / "weights" / SPEAKER_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        corpus, tokenizer = Corpus.load(work), load_tokenizer(work)
        generator = torch.Generator().manual_seed(SEED)
        entries = {}
        for name, token in SPEAKERS.items():
            clip = next(clip for clip in corpus.clips if clip.speaker == name and clip.length > 260 * HOP)
            mel = torch.from_numpy(corpus.mel(clip))
            entries[name] = {
                "bos_token": tokenizer.token_to_id(token),
                "cond": torch.randn(1, SPEAKER_WIDTH, generator=generator, device="cpu"),
                "ref_mel": mel[30 : 30 + _REFERENCE_FRAMES].clone()[None],
            }
        torch.save(entries, path)
    known: dict[str, dict[str, int | Tensor]] = torch.load(path, weights_only=True)
    return known


class Examples:
    """Batches of crops of equal length."""

    def __init__(self, work: Path) -> None:
        self._corpus = Corpus.load(work)
        self._spoken = [spoken for spoken in load_codes(work) if spoken.clip.split == "train"]
        known = speakers(work)
        self._cond = {name: known[name]["cond"][0] for name in VOICES}  # type: ignore[index]
        self._reference = {name: known[name]["ref_mel"][0] for name in VOICES}  # type: ignore[index]

    def batch(self, random: np.random.Generator) -> dict[str, Tensor]:
        """The arguments of the reference's forward; `hidden_states` is the mel [BATCH, frames, bins]."""
        picked = [self._spoken[index] for index in random.choice(len(self._spoken), BATCH)]
        codes = min(LONGEST // 2, *(len(spoken.codes) for spoken in picked))
        parts = [self._crop(spoken, codes, random) for spoken in picked]
        names = [spoken.clip.speaker for spoken in picked]
        known = {
            "hidden_states": torch.from_numpy(np.stack([mel for _, mel in parts])),
            "quantized_code": torch.from_numpy(np.stack([tokens for tokens, _ in parts])),
            "condition_vector": torch.stack([self._reference[name] for name in names]),
            "speaker_embedding": torch.stack([self._cond[name] for name in names])[:, None].repeat(1, 2 * codes, 1),
        }
        dropped = torch.from_numpy(random.random(BATCH) < _UNCONDITIONAL)
        for name in ("quantized_code", "condition_vector", "speaker_embedding"):
            known[name][dropped] = 0
        return {name: part.to(torch.get_default_device()) for name, part in known.items()}

    def mean(self) -> Tensor:
        """The mean mel frame, float32 [bins]."""
        return torch.from_numpy(np.asarray(self._corpus.mels[:100_000], np.float32).mean(axis=0))

    def _crop(self, spoken: CodedClip, codes: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        # A third each of beginnings, ends and other crops, as in short replies.
        room = len(spoken.codes) - codes
        first = (0, room, int(random.integers(room + 1)))[random.integers(3)]
        tokens = spoken.codes[first : first + codes].astype(np.int64)
        return tokens, self._corpus.mel(spoken.clip)[2 * first : 2 * (first + codes)]


def times(random: np.random.Generator) -> Tensor:
    """float32 [BATCH] in [0, 1]: uniform, or near a time of the default solver."""
    uniform = random.random(BATCH)
    near = random.choice(SolverSettings().times(), BATCH) + random.normal(0, 0.01, BATCH)
    chosen = np.where(random.random(BATCH) < _SAMPLED_TIMES, near, uniform)
    return torch.as_tensor(np.clip(chosen, 0, 1).astype(np.float32))


def train(work: Path, steps: int) -> None:
    """Writes WORK/weights/dit.safetensors every few minutes; continues an interrupted run."""
    torch.manual_seed(SEED)
    examples = Examples(work)
    model = dit()
    # Noise has zero mean, so the mean velocity is the mean mel, which is far from zero.
    model.proj_out.bias.data.copy_(examples.mean())

    def losses(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        random = np.random.default_rng((SEED, step))
        inputs = examples.batch(random)
        mel = inputs.pop("hidden_states")
        noise = torch.as_tensor(random.standard_normal(mel.shape, np.float32))
        time = times(random)
        state = noise + time[:, None, None] * (mel - noise)
        velocity = model(hidden_states=state, time_step=time, apply_cfg=False, **inputs)
        loss = (velocity - (mel - noise)).square().mean()
        return loss, {"velocity": loss}

    journal = Journal(work, "dit", ("velocity",))
    train_part(model, RECIPE, journal, steps, losses, lambda kept: save_part(work, "dit", kept.state_dict()))


def main() -> None:
    """Command line: see the module's text."""
    train(**stage_arguments(__doc__, STEPS))


if __name__ == "__main__":
    main()
