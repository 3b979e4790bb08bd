"""Replies that must be JSON of a schema, or calls of functions: llguidance says which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.reader import Bundle
from omni_edge.serve.faults import RequestError
from omni_edge.serve.tools import CALL_END, CALL_START, Tool, ToolSet

# JSON is written as Python writes it, which is what the model was trained on.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Makes the masks of replies with a grammar. Loaded in about a second.

    Args:
        bundle: the model's.

    Raises:
        RequestError: llguidance is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        try:
            import llguidance  # noqa: PLC0415 -- an extra
        except ImportError:
            raise RequestError(
                "This server writes JSON by a schema, and calls of functions that are required, only with llguidance. "
                "Install it: pip install 'omni-edge[grammar]'",
                code="unsupported_parameter",
            ) from None
        manifest = bundle.manifest
        self._matcher = llguidance.LLMatcher
        self._vocab_size = manifest.thinker.vocab_size
        self._tokenizer = llguidance.LLTokenizer(
            bundle.file(manifest.text.tokenizer).read_text("utf-8"),
            n_vocab=self._vocab_size,
            eos_token=list(manifest.text.eos_tokens),
        )

    def mask(self, schema: dict[str, Any] | None, tools: ToolSet) -> GrammarMask:
        """The mask of one reply.

        Args:
            schema: of a reply that is JSON; None: it is none.
            tools: functions that it may call instead; without a schema it must call one.

        Raises:
            RequestError: a schema cannot be used.
        """
        choices: list[str] = []
        rules: list[str] = []
        if tools.tools:
            choices.append('call ("\\n" call)*' if tools.parallel else "call")
            rules += _call_rules(tools.tools)
        if schema is not None and not tools.required:
            choices.append("json")
            rules.append(f"json: {_json_rule(schema)}")
        grammar = self._matcher.grammar_from_lark("\n".join([f"start: {' | '.join(choices)}", *rules]))
        matcher = self._matcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0][:200]
            raise RequestError(f"The JSON schema cannot be used: {reason}", code="invalid_schema")
        return GrammarMask(matcher, self._vocab_size)


class GrammarMask:
    """The tokens that a grammar allows next; see `omni_edge.decoders.sampling.TokenMask`.

    Args:
        matcher: an `llguidance.LLMatcher`, which nothing else uses.
        vocab_size: number of logits.
    """

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        """bool [vocabulary]; the tokens that close the turn where nothing else can follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)

    def accept(self, token: int) -> None:
        """`token` was drawn."""
        self._matcher.consume_token(token)


def _call_rules(tools: Sequence[Tool]) -> list[str]:
    names = [f"call{number}" for number in range(len(tools))]
    bodies = [f"{name}: {_json_rule(tool.call_schema)}" for name, tool in zip(names, tools, strict=True)]
    start, end = json.dumps(f"{CALL_START}\n"), json.dumps(f"\n{CALL_END}")
    return [f"call: {start} ({' | '.join(names)}) {end}", *bodies]


def _json_rule(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': _LAYOUT})}"
