"""The tokenizer of omni-nano: byte-level BPE learned from the world's own sentences.

    python -m nano.data.tokenizer --work nano-work      (writes nano-work/tokenizer/)

It splits text into words as Qwen2 does and has the published special tokens. The two system prompts are single tokens;
otherwise their thirty positions would be a third of most prompts.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nano import world

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
]
FOLDER = "tokenizer"
# Number of bytes and merges; the special tokens follow.
_LEARNED = 768 - len(SPECIAL_TOKENS) - 2
_TYPED_COPIES = 4
_SEED = 7
# The published `Qwen2Tokenizer`'s.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _sentences() -> Iterator[str]:
    rng = random.Random(_SEED)
    for _ in range(200):
        yield from ("system\n", "user\n", "assistant\n", "hi there")
    for text in world.spoken_texts("train"):
        yield text
        for _ in range(_TYPED_COPIES):
            yield world.typed(text, rng)
    for replies in world.replies_by_family().values():
        yield from rng.choices(replies, k=400)


@lru_cache(maxsize=1)
def learn() -> Tokenizer:
    """Trains the tokenizer; the result is the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_LEARNED,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(prompt, normalized=False) for prompt in (world.SPEECH_SYSTEM, world.TEXT_SYSTEM)])
    return tokenizer


def write_tokenizer(folder: Path) -> Tokenizer:
    """Writes tokenizer.json, vocab.json, merges.txt and tokenizer_config.json into `folder` (created)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = learn()
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_prefix_space": False,
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return tokenizer


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    folder = parser.parse_args().work / FOLDER
    tokenizer = write_tokenizer(folder)
    print(f"{folder}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
