"""One reply: the loop that draws a token, appends it, prefills it and speaks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.conversation.context import Context
from omni_edge.conversation.speech import Speech
from omni_edge.conversation.stop_strings import StopStrings
from omni_edge.decoders.sampling import TokenSource
from omni_edge.decoders.tokenizer import TextStream
from omni_edge.events import AudioChunk, Event, FinishReason, Metrics, TextDelta, TurnDone


@dataclass
class Reply:
    """A reply in progress. Whenever it is abandoned, the context holds what was said so far.

    Attributes:
        context: the conversation that it continues; its `logits` are those of the first token.
        sampler: chooses the tokens.
        limit: tokens at most.
        eos: tokens that close the turn.
        stream: turns tokens into text.
        speech: speaks the tokens; None for a reply in text only.
        began: end of the user's input (s, `time.perf_counter`).
        prefill_seconds: spent in the Thinker before the first token (s).
        stop: texts that end it.
        unspoken: texts that end its speech.
        tokens: those drawn so far, the closing one included.
    """

    context: Context
    sampler: TokenSource
    limit: int
    eos: tuple[int, ...]
    stream: TextStream
    speech: Speech | None
    began: float
    prefill_seconds: float
    stop: StopStrings
    unspoken: StopStrings
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prompt_tokens = self.context.prefilled
        self._decode_seconds = 0.0
        self._steps = 0
        self._first_text: float | None = None
        self._first_audio: float | None = None
        # States of tokens that may begin a text that is not spoken.
        self._waiting: list[NDArray[np.float32]] = []

    def events(self, cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Text and speech as they come, then `TurnDone`."""
        finish: FinishReason = "length"
        while len(self.tokens) < self.limit:
            if cancelled():
                finish = "cancelled"
                break
            token = self._draw()
            if token in self.eos:
                finish = "stop"
                break
            # A token that finds no room is shown, but not part of the conversation.
            full = self.context.prefilled >= self.context.capacity
            if not full:
                self.context.append(token)
            text = self.stream.push(token)
            yield TextDelta(self.stop.push(text), (token,))
            if self.stop.found:
                finish = "stop"
                break
            if len(self.tokens) == self.limit:
                break
            # Once more: whoever took the text may have cancelled, or continued the conversation without this reply.
            if cancelled():
                finish = "cancelled"
                break
            if full:
                finish = "context_full"
                break
            state = self._decode()
            if self.speech is not None:
                yield from self._playable(self._speak(self.speech, text, state))
        if rest := self.stop.close(self.stream.close()):
            yield TextDelta(rest)
        if self.speech is not None and finish != "cancelled":
            yield from self._playable(self._speak_waiting(self.speech))
            yield from self._playable(self.speech.finish(cancelled))
            if cancelled():
                finish = "cancelled"
        yield TurnDone(
            text=self.stop.text,
            token_ids=tuple(self.tokens),
            codec_tokens=tuple(self.speech.codec_tokens) if self.speech else (),
            prompt_tokens=self._prompt_tokens,
            finish_reason=finish,
            metrics=self._metrics(),
        )

    def _draw(self) -> int:
        logits = self.context.logits
        assert logits is not None  # the turn was prefilled
        token = self.sampler.draw(logits)
        self.tokens.append(token)
        if self._first_text is None:
            self._first_text = time.perf_counter()
        return token

    def _decode(self) -> NDArray[np.float32]:
        """Prefills the token that was appended; returns the state [hidden] that the Talker speaks it from."""
        began = time.perf_counter()
        block = self.context.prefill(speaking=True)
        assert block is not None  # a token was appended
        self._decode_seconds += time.perf_counter() - began
        self._steps += 1
        state: NDArray[np.float32] = block.states[-1]
        return state

    def _speak(self, speech: Speech, text: str, state: NDArray[np.float32]) -> Iterator[AudioChunk]:
        """Speaks a token with its new text, unless the text is one that is written only."""
        self.unspoken.push(text)
        if self.unspoken.found:
            self._waiting.clear()
            return
        self._waiting.append(state)
        if not self.unspoken.holds:
            yield from self._speak_waiting(speech)

    def _speak_waiting(self, speech: Speech) -> Iterator[AudioChunk]:
        waiting, self._waiting = self._waiting, []
        for state in waiting:
            yield from speech.feed(state)

    def _playable(self, chunks: Iterator[AudioChunk]) -> Iterator[AudioChunk]:
        for chunk in chunks:
            if self._first_audio is None:
                self._first_audio = time.perf_counter()
            yield chunk

    def _metrics(self) -> Metrics:
        now = time.perf_counter()
        steps = self._steps
        speech = self.speech
        talker = speech.talker_seconds if speech else 0.0
        dit = speech.vocoder_state.dit_seconds if speech else 0.0
        bigvgan = speech.vocoder_state.bigvgan_seconds if speech else 0.0
        audio = speech.samples / speech.vocoder.sample_rate if speech else 0.0
        compute = self.prefill_seconds + self._decode_seconds + talker + dit + bigvgan
        return Metrics(
            ttft=(self._first_text or now) - self.began,
            ttfa=self._first_audio - self.began if self._first_audio is not None else None,
            prefill=self.prefill_seconds,
            decode=self._decode_seconds,
            talker=talker,
            dit=dit,
            bigvgan=bigvgan,
            total=now - self.began,
            audio=audio,
            decode_rate=steps / self._decode_seconds if steps else None,
            codec_rate=len(speech.codec_tokens) / talker if speech and talker else None,
            rtf=compute / audio if audio else None,
        )
