"""The tokenizer, the form of a conversation and the sampling defaults, from the checkpoint's small files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from omni_edge.bundle.manifest import SamplingSection, TextSection
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig

TOKENIZER_FILE = "tokenizer.json"
# The system prompt under which the Talker was trained; the model's authors require it for speech.
SPEECH_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
DEFAULT_SYSTEM = "You are a helpful assistant."
# ChatML, the only form that Qwen2.5-Omni's templates produce; `_check_template` holds a checkpoint's own against it.
_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"
_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
_END_OF_TEXT = "<|endoftext|>"
# Defaults of the reference's `generate` (transformers `Qwen2_5OmniForConditionalGeneration`, `GenerationConfig`).
_THINKER_MAX_NEW_TOKENS = 1024
_GENERATION_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
TALKER_SAMPLING = SamplingSection(temperature=0.9, top_k=40, top_p=0.8, repetition_penalty=1.05, max_new_tokens=4096)


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> Tokenizer:
    """Puts `tokenizer.json` into `folder`, converting vocab.json + merges.txt where the checkpoint has only those."""
    source, target = checkpoint.path / TOKENIZER_FILE, folder / TOKENIZER_FILE
    if source.exists():
        shutil.copyfile(source, target)
    elif (checkpoint.path / "vocab.json").exists():
        from transformers import AutoTokenizer  # noqa: PLC0415  (slow to import, and only these checkpoints need it)

        AutoTokenizer.from_pretrained(str(checkpoint.path)).backend_tokenizer.save(str(target))
    else:
        raise CheckpointError(f"{checkpoint.path} has neither {TOKENIZER_FILE} nor vocab.json. Download it completely.")
    try:
        return Tokenizer.from_file(str(target))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{source} is not a tokenizer file ({error}). Download it again.") from None


def text_section(checkpoint: Checkpoint, config: OmniConfig, tokenizer: Tokenizer) -> TextSection:
    """Special ids and the marks of a conversation.

    Raises:
        CheckpointError: the tokenizer lacks a mark, or the chat template is none that we can write.
    """
    _check_template(checkpoint)
    for token in (_TURN_START, _TURN_END):
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"The tokenizer has no token {token!r}. Is it the tokenizer of a Qwen2.5-Omni model?")
    thinker = config.thinker
    return TextSection(
        tokenizer=TOKENIZER_FILE,
        vocab_size=thinker.text.vocab_size,
        eos_tokens=_eos_tokens(checkpoint, config, tokenizer),
        turn_start=_TURN_START,
        turn_end=_TURN_END,
        roles=_ROLES,
        default_system=DEFAULT_SYSTEM,
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
    """The checkpoint's own defaults for text, else the reference's: greedy, 1024 tokens."""
    own = checkpoint.read_json("generation_config.json", optional=True)
    chosen = {name: own[name] if own.get(name) is not None else value for name, value in _GENERATION_DEFAULTS.items()}
    return SamplingSection(
        temperature=float(chosen["temperature"]) if own.get("do_sample") else 0.0,
        top_k=int(chosen["top_k"]),
        top_p=float(chosen["top_p"]),
        repetition_penalty=float(chosen["repetition_penalty"]),
        max_new_tokens=int(own.get("max_new_tokens") or _THINKER_MAX_NEW_TOKENS),
    )


def _eos_tokens(checkpoint: Checkpoint, config: OmniConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    own = checkpoint.read_json("generation_config.json", optional=True).get("eos_token_id")
    value: Any = own if own is not None else config.raw["thinker_config"]["text_config"].get("eos_token_id")
    if value is None:
        value = [token for name in (_TURN_END, _END_OF_TEXT) if (token := tokenizer.token_to_id(name)) is not None]
    return tuple(int(token) for token in (value if isinstance(value, list) else [value]))


def _check_template(checkpoint: Checkpoint) -> None:
    """Renders the checkpoint's chat template on a probe and compares it with what the runtime writes."""
    template = _template(checkpoint)
    if template is None:
        return
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415  (an export-only dependency)

    messages = [
        {"role": "system", "content": [{"type": "text", "text": "S"}]},
        {"role": "user", "content": [{"type": "text", "text": "U"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
        {"role": "user", "content": [{"type": "text", "text": "V"}]},
    ]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        rendered = environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    except Exception as error:
        raise CheckpointError(f"The chat template of {checkpoint.path} cannot be rendered ({error}).") from None
    turns = "".join(
        f"{_TURN_START}{message['role']}\n{message['content'][0]['text']}{_TURN_END}\n"  # type: ignore[index]
        for message in messages
    )
    if rendered != f"{turns}{_TURN_START}assistant\n":
        raise CheckpointError(
            f"The chat template of {checkpoint.path} does not write plain ChatML turns, the only form this runtime "
            f"speaks. It rendered {rendered!r}."
        )


def _template(checkpoint: Checkpoint) -> str | None:
    jinja = checkpoint.path / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = checkpoint.read_json(name, optional=True).get("chat_template")
        if isinstance(value, str):
            return value
    return None
