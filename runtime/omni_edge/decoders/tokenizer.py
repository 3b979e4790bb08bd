"""The tokenizer: text to tokens and back."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from omni_edge.bundle.manifest import TextSection
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import BundleError


class TextTokenizer:
    """The bundle's tokenizer; immutable.

    A user's text is always text: `<|im_end|>` in a prompt becomes several tokens, never the mark of a turn.
    """

    def __init__(self, path: Path, section: TextSection) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"{path} is not a tokenizer file ({error}). Export the bundle again.") from None
        self._tokenizer.encode_special_tokens = True
        self.turn_start = self._special(section.turn_start)
        self.turn_end = self._special(section.turn_end)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> TextTokenizer:
        """The tokenizer that the manifest names."""
        section = bundle.manifest.text
        return cls(bundle.file(section.tokenizer), section)

    def _special(self, token: str) -> int:
        value = self._tokenizer.token_to_id(token)
        if value is None:
            raise BundleError(f"The tokenizer has no token {token!r}. Export the bundle again.")
        return int(value)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A decoder for tokens that come one at a time."""
        return TextStream(self._tokenizer)


class TextStream:
    """Decodes tokens one at a time. A character that is split over several tokens comes with the last one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._text = ""

    @property
    def text(self) -> str:
        """Everything yielded so far."""
        return self._text

    def push(self, token: int) -> str:
        """The new text that `token` completes; often empty."""
        self._ids.append(token)
        piece = self._stream.step(self._tokenizer, token) or ""
        self._text += piece
        return str(piece)

    def close(self) -> str:
        """The rest of the text; an unfinished character becomes U+FFFD."""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        rest = whole[len(self._text) :] if whole.startswith(self._text) else ""
        self._text += rest
        return rest
