"""The speech of a reply: Thinker states in, samples out. Talker and vocoder run as far as their input allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import SamplingSection
from omni_edge.decoders.talker import Talker, TalkerState, Utterance
from omni_edge.decoders.tmrope import Positions
from omni_edge.events import AudioChunk
from omni_edge.vocoder.vocoder import Vocoder, VocoderState


@dataclass
class Speech:
    """Speaks one reply while its text is still being decoded.

    Attributes:
        talker: speaks codec tokens.
        talker_state: the context's cache, which holds the prompt.
        vocoder: makes samples of codec tokens.
        vocoder_state: a fresh utterance.
        voice: float32 [embedding]; embed of the speaker's text token.
        positions: the ids after the prompt's.
        sampling: how codec tokens are drawn.
        limit: codec tokens at most.
        seed: names the random stream.
        codec_tokens: those spoken so far.
        talker_seconds: time spent in the Talker (s).
        samples: number of samples so far.
    """

    talker: Talker
    talker_state: TalkerState
    vocoder: Vocoder
    vocoder_state: VocoderState
    voice: NDArray[np.float32]
    positions: Positions
    sampling: SamplingSection
    limit: int
    seed: tuple[int, ...]
    codec_tokens: list[int] = field(default_factory=list)
    talker_seconds: float = 0.0
    samples: int = 0
    _utterance: Utterance | None = None
    _finished: bool = False

    def feed(self, thinker_state: NDArray[np.float32]) -> Iterator[AudioChunk]:
        """Takes the state [embedding] of the next reply token; yields what became playable."""
        if not self._finished:
            yield from self._emit(self._speak(thinker_state))

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[AudioChunk]:
        """Speaks on behind a complete text, until the Talker closes the utterance or `cancelled` returns True."""
        if self._utterance is None:
            return
        thinker_state = self.talker.text_end
        while not self._finished:
            if cancelled():
                return
            yield from self._emit(self._speak(thinker_state))
            thinker_state = self.talker.text_pad
        yield from self._emit(None, end=True)

    def _speak(self, thinker_state: NDArray[np.float32]) -> int | None:
        began = time.perf_counter()
        if self._utterance is None:
            self._utterance = self.talker.begin(
                voice=self.voice,
                first=thinker_state,
                positions=self.positions,
                sampling=self.sampling,
                seed=self.seed,
                state=self.talker_state,
            )
            codec = self._utterance.last
        else:
            codec = self.talker.speak(thinker_state, self._utterance, self.talker_state)
        self.talker_seconds += time.perf_counter() - began
        if self.talker.is_end(codec):
            self._finished = True
            return None
        self.codec_tokens.append(codec)
        self._finished = len(self.codec_tokens) >= self.limit or self.talker_state.full
        return codec

    def _emit(self, codec: int | None, end: bool = False) -> Iterator[AudioChunk]:
        if codec is None and not end:
            return
        tokens = np.array([] if codec is None else [codec], np.int64)
        samples = self.vocoder.step(tokens, self.vocoder_state, end)
        if samples is not None and samples.size:
            yield AudioChunk(samples, self.vocoder.sample_rate, self.samples)
            self.samples += samples.size
