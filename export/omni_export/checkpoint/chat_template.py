"""A checkpoint's chat template: held against the form that the runtime writes, and asked for its default system prompt.

The template is rendered by transformers, so that it has what it has there (`raise_exception`, `strftime_now`, ...).
"""

from __future__ import annotations

from typing import Any

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Checkpoint

# ChatML, the only form that Qwen2.5-Omni's templates produce.
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
_REPLY = f"{TURN_START}assistant\n"
_PROBE = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
_SHOWN_CHARACTERS = 400
_TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def default_system(checkpoint: Checkpoint, fallback: str) -> str:
    """The system prompt that the template writes where a conversation has none; "" where it writes no system turn.

    Args:
        checkpoint: its template is used.
        fallback: what stands without a template, or where the template insists on a system prompt.

    Raises:
        CheckpointError: the template cannot be rendered, or writes no plain ChatML turns.
    """
    template = _template(checkpoint)
    if template is None:
        return fallback
    tokens = _special_tokens(checkpoint)
    expected = _turns(_PROBE) + _REPLY
    for as_text in (False, True):
        try:
            rendered = _render(template, _PROBE, tokens, as_text=as_text)
        except Exception as error:  # a template may raise anything
            rendered, reason = None, str(error)
        if rendered == expected:
            break
    else:
        if rendered is None:
            raise CheckpointError(f"The chat template of {checkpoint.path} cannot be rendered ({reason}).")
        raise CheckpointError(
            f"The chat template of {checkpoint.path} does not write plain ChatML turns, the only form this runtime "
            f"writes. It rendered {rendered[:_SHOWN_CHARACTERS]!r}."
        )
    try:
        opening = _render(template, _PROBE[1:2], tokens, as_text=as_text)
    except Exception:
        return fallback
    opening = opening.removesuffix(_turns(_PROBE[1:2]) + _REPLY)
    before, after = f"{TURN_START}system\n", f"{TURN_END}\n"
    if opening and not (opening.startswith(before) and opening.endswith(after)):
        raise CheckpointError(
            f"The chat template of {checkpoint.path} opens a conversation without a system prompt by "
            f"{opening[:_SHOWN_CHARACTERS]!r}, which is no ChatML turn."
        )
    return opening.removeprefix(before).removesuffix(after)


def _turns(turns: list[tuple[str, str]]) -> str:
    return "".join(f"{TURN_START}{role}\n{text}{TURN_END}\n" for role, text in turns)


def _render(template: str, turns: list[tuple[str, str]], tokens: dict[str, str], *, as_text: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415  (slow to import)

    messages = [
        {"role": role, "content": text if as_text else [{"type": "text", "text": text}]} for role, text in turns
    ]
    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=template, add_generation_prompt=True, **tokens
    )
    return str(rendered[0])


def _template(checkpoint: Checkpoint) -> str | None:
    """The template that transformers' processor takes."""
    for name in ("processor_config.json", "chat_template.json"):
        if own := checkpoint.json(name).text("chat_template", ""):
            return own
    if jinja := checkpoint.text("chat_template.jinja"):
        return jinja
    tokenizer = checkpoint.json("tokenizer_config.json")
    value: Any = tokenizer.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise tokenizer.wrong("chat_template", "a text, or a list with a template named 'default'")
    return value or None


def _special_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    """The tokens that templates may name: texts, or objects with a `content`."""
    raw = checkpoint.json("tokenizer_config.json").raw
    tokens = {name: raw.get(name) for name in _TOKEN_NAMES}
    plain = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: token for name, token in plain.items() if isinstance(token, str)}
