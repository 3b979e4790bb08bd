"""The tokenizer, the form of a conversation and the sampling defaults, from the checkpoint's small files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from omni_edge.bundle.manifest import SamplingSection, TextSection
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.chat_template import TURN_END, TURN_START, default_system
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.checkpoint.json_object import read_bytes

TOKENIZER_FILE = "tokenizer.json"
# The system prompt under which the Talker was trained; the model's authors require it for speech.
SPEECH_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
# The default of the published chat template.
DEFAULT_SYSTEM = "You are a helpful assistant."
_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
_END_OF_TEXT = "<|endoftext|>"
# Defaults of the reference's `generate` (transformers `Qwen2_5OmniForConditionalGeneration`, `GenerationConfig`).
_THINKER_MAX_NEW_TOKENS = 1024
TALKER_SAMPLING = SamplingSection(temperature=0.9, top_k=40, top_p=0.8, repetition_penalty=1.05, max_new_tokens=4096)


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer and the content of its `tokenizer.json`."""

    tokenizer: Tokenizer
    content: bytes

    def write(self, folder: Path) -> None:
        """Puts `tokenizer.json` into `folder`."""
        (folder / TOKENIZER_FILE).write_bytes(self.content)


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerFile:
    """`tokenizer.json`, or vocab.json and merges.txt converted where the checkpoint has only those.

    Raises:
        CheckpointError: there is neither, or it is damaged.
    """
    source = checkpoint.path / TOKENIZER_FILE
    if source.exists():
        content = read_bytes(source)
    elif (checkpoint.path / "vocab.json").exists():
        from transformers import AutoTokenizer  # noqa: PLC0415  (slow to import, and only these checkpoints need it)

        source = checkpoint.path / "vocab.json"
        read_bytes(source)
        try:
            converted = AutoTokenizer.from_pretrained(str(checkpoint.path))
            content = converted.backend_tokenizer.to_str(pretty=True).encode("utf-8")
        except Exception as error:  # whatever the library stumbles over
            raise _no_tokenizer(source, error) from None
    else:
        raise CheckpointError(f"{checkpoint.path} has neither {TOKENIZER_FILE} nor vocab.json. Download it completely.")
    try:
        return TokenizerFile(Tokenizer.from_str(content.decode("utf-8")), content)
    except Exception as error:  # the library raises bare Exception
        raise _no_tokenizer(source, error) from None


def _no_tokenizer(source: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return CheckpointError(f"{source} is not a tokenizer file ({reason}). Download it again.")


def text_section(checkpoint: Checkpoint, config: OmniConfig, tokenizer: Tokenizer) -> TextSection:
    """Special ids and the marks of a conversation.

    Raises:
        CheckpointError: the tokenizer lacks a mark, or the chat template has another form than the runtime writes.
    """
    system = default_system(checkpoint, DEFAULT_SYSTEM)
    for token in (TURN_START, TURN_END):
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"The tokenizer has no token {token!r}. Is it the tokenizer of a Qwen2.5-Omni model?")
    thinker = config.thinker
    if tokenizer.get_vocab_size() > thinker.text.vocab_size:
        raise CheckpointError(
            f"The tokenizer has {tokenizer.get_vocab_size()} tokens, and config.json has "
            f"thinker_config.text_config.vocab_size {thinker.text.vocab_size}. The files do not belong together."
        )
    return TextSection(
        tokenizer=TOKENIZER_FILE,
        vocab_size=thinker.text.vocab_size,
        eos_tokens=_eos_tokens(checkpoint, config, tokenizer),
        turn_start=TURN_START,
        turn_end=TURN_END,
        roles=_ROLES,
        default_system=system,
        speech_system=SPEECH_SYSTEM,
        audio_token=thinker.audio_token,
        image_token=thinker.image_token,
        video_token=thinker.video_token,
        audio_start_token=thinker.audio_start_token,
        audio_end_token=thinker.audio_end_token,
        vision_start_token=thinker.vision_start_token,
        vision_end_token=thinker.vision_end_token,
    )


def sampling_section(checkpoint: Checkpoint) -> SamplingSection:
    """The checkpoint's own defaults for text, else the reference's: greedy, 1024 tokens.

    Raises:
        CheckpointError: `generation_config.json` has a wrong value.
    """
    own = checkpoint.json("generation_config.json")
    temperature = own.number("temperature", default=1.0)
    return SamplingSection(
        temperature=temperature if own.flag("do_sample", False) else 0.0,
        top_k=own.integer("top_k", default=50),
        top_p=own.number("top_p", default=1.0),
        repetition_penalty=own.number("repetition_penalty", default=1.0),
        max_new_tokens=own.integer("max_new_tokens", default=_THINKER_MAX_NEW_TOKENS, minimum=1),
    )


def _eos_tokens(checkpoint: Checkpoint, config: OmniConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    own = checkpoint.json("generation_config.json").get("eos_token_id")
    value: Any = own if own is not None else config.raw["thinker_config"]["text_config"].get("eos_token_id")
    if value is None:
        value = [token for name in (TURN_END, _END_OF_TEXT) if (token := tokenizer.token_to_id(name)) is not None]
    tokens = value if isinstance(value, list) else [value]
    if not tokens or not all(type(token) is int and 0 <= token < config.thinker.text.vocab_size for token in tokens):
        raise CheckpointError(
            f"eos_token_id is {json.dumps(value)}: it must be a token id below {config.thinker.text.vocab_size}, or a "
            "list of them. Download generation_config.json again."
        )
    return tuple(tokens)
