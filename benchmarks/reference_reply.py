"""Times a whole spoken reply of the reference in torch, whose first sound comes when all is computed.

    python benchmarks/reference_reply.py /tmp/omni-3b              # 14 GB of memory, some minutes
    python benchmarks/reference_reply.py --quick                   # a tiny checkpoint

It does the work of `omni-edge bench --stage reply`: 5 s of sound, 20 text tokens, 300 codec tokens. token2wav takes
the reference's 36 evaluations with guidance. As transformers loads them, Thinker and Talker are in bfloat16 and
token2wav is in float32. It prints a JSON line: seconds of the Thinker, of the Talker, of token2wav, and of all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference_checkpoint import argument_parser, parsed, versions
from transformers import Qwen2_5OmniForConditionalGeneration, WhisperFeatureExtractor

from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.models.token2wav.dit import SAMPLE_RATE
from omni_export.verify.reference import ReferenceModules

# Samples per second of the question; the reply has SAMPLE_RATE.
RATE = 16_000
SECONDS = 5.0
PROMPT = 64
AUDIO_TOKENS_PER_SECOND = 25


def clocked(module: Any, name: str, seconds: dict[str, float], key: str) -> None:
    """Adds the time of every call of `module.name` to `seconds[key]`."""
    call: Callable[..., Any] = getattr(module, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - began

    setattr(module, name, timed)


def question(config: Any) -> dict[str, torch.Tensor]:
    """A prompt of text tokens with 5 s of noise in it."""
    sound = (0.1 * np.random.default_rng(0).standard_normal(int(SECONDS * RATE))).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=config.audio_config.num_mel_bins)
    features = extractor(
        sound, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt", padding="max_length"
    )
    audio = [config.audio_token_id] * int(SECONDS * AUDIO_TOKENS_PER_SECOND)
    text = [5 + index % 200 for index in range(PROMPT)]
    marks = [config.audio_start_token_id, *audio, config.audio_end_token_id]
    return {
        "input_ids": torch.tensor([text[: PROMPT // 2] + marks + text[PROMPT // 2 :]]),
        "input_features": features.input_features,
        "feature_attention_mask": features.attention_mask,
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--text-tokens", type=int, default=20)
    parser.add_argument("--codec-tokens", type=int, default=300)
    with parsed(parser) as given:
        print(json.dumps(reply(given.checkpoint, given.text_tokens, given.codec_tokens, given.threads)))


def reply(checkpoint: Path, text_tokens: int, codec_tokens: int, threads: int) -> dict[str, Any]:
    """Loads the reference and times one reply; seconds of loading, of each stage and of all."""
    began = time.perf_counter()
    # transformers 5.23 ignores the published spelling of the DiT's sizes, so the configuration is passed in.
    source = Checkpoint(checkpoint)
    config = ReferenceModules(source, OmniConfig.parse(source.config)).config
    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(checkpoint, config=config, dtype=torch.bfloat16).eval()
    model.token2wav.float()
    loaded = time.perf_counter() - began
    seconds: dict[str, float] = {}
    clocked(model.thinker, "generate", seconds, "thinker")
    clocked(model.talker, "generate", seconds, "talker")
    clocked(model.token2wav, "forward", seconds, "token2wav")
    # Random weights would also draw tokens that token2wav has no embedding for.
    without_sound = range(config.token2wav_config.dit_config.num_embeds, config.talker_config.vocab_size)
    began = time.perf_counter()
    with torch.inference_mode():
        _, samples = model.generate(
            **question(model.config.thinker_config),
            speaker=next(iter(model.speaker_map)),
            thinker_max_new_tokens=text_tokens,
            thinker_min_new_tokens=text_tokens,
            talker_max_new_tokens=codec_tokens,
            talker_min_new_tokens=codec_tokens,
            talker_bad_words_ids=[[token] for token in without_sound] or None,
        )
    total = time.perf_counter() - began
    return {
        "stage": "reply",
        "load": loaded,
        **seconds,
        "total": total,
        "audio_seconds": samples.numel() / SAMPLE_RATE,
        "threads": threads,
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
