"""The Talker: the Thinker's states in, position by position; codec tokens out.

Source: transformers `Qwen2_5OmniForConditionalGeneration.generate` (how its input is put together) and
`Qwen2_5OmniTalkerForConditionalGeneration`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import SamplingSection, TalkerSection
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.decoders.sampling import Sampler
from omni_edge.decoders.thinker import ThinkerStates
from omni_edge.decoders.tmrope import Ids, Positions


@dataclass
class TalkerState:
    """The Talker's cache of one conversation.

    Attributes:
        cache: first the Thinker's positions, behind them the codec tokens of the reply being spoken.
        prefilled: number of the Thinker's positions in it.
    """

    cache: KVCache
    prefilled: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self.cache.nbytes

    @property
    def full(self) -> bool:
        """Whether the cache has no room for another codec token."""
        return self.cache.offset >= self.cache.capacity

    def trim(self, offset: int) -> None:
        """Forgets the spoken codec tokens and the Thinker's positions from `offset` on."""
        self.prefilled = min(self.prefilled, offset)
        self.cache.trim(self.prefilled)

    def reset(self) -> None:
        """Forgets the conversation."""
        self.trim(0)


@dataclass
class Utterance:
    """A reply while it is spoken.

    Attributes:
        sampler: draws its codec tokens.
        positions: the ids that come next.
        last: the codec token that was drawn last.
    """

    sampler: Sampler
    positions: Positions
    last: int


class Talker:
    """The Talker step and the rules of its input; immutable.

    Args:
        decoder: the `talker` graph.
        section: its special tokens.
        codec_limit: codec tokens from here on have no sound.
        text_end, text_pad: float32 [embedding]; embeds of the marks that follow the reply's text.

    Attributes:
        suppressed: codec tokens that are never drawn, ascending.
    """

    def __init__(
        self,
        decoder: Decoder,
        section: TalkerSection,
        *,
        codec_limit: int,
        text_end: NDArray[np.float32],
        text_pad: NDArray[np.float32],
    ) -> None:
        self.decoder = decoder
        self.section = section
        # The reference draws from the unused rows behind the codebook too, and fails when one comes.
        unused = set(range(codec_limit, decoder.section.vocab_size)) - {section.codec_pad, section.codec_end}
        self.suppressed = sorted(unused | {section.codec_start})
        self.text_end = text_end
        self.text_pad = text_pad

    def state(self, capacity: int) -> TalkerState:
        """An empty context of `capacity` positions."""
        return TalkerState(self.decoder.cache(capacity))

    def prefill(self, block: ThinkerStates, state: TalkerState) -> None:
        """Appends Thinker positions; the codec tokens spoken since the last call are forgotten.

        In a later turn the reference's Talker has the earlier replies as text positions only: the codec tokens that it
        spoke then are no longer part of its context.
        """
        state.cache.trim(state.prefilled)
        codec = np.full((1, len(block)), self.section.none_codec, np.int64)
        self._step(codec, block.states, block.positions, state.cache)
        state.prefilled = state.cache.offset

    def begin(
        self,
        *,
        voice: NDArray[np.float32],
        first: NDArray[np.float32],
        positions: Positions,
        sampling: SamplingSection,
        seed: tuple[int, ...],
        state: TalkerState,
    ) -> Utterance:
        """Starts speaking a reply.

        Args:
            voice: float32 [embedding]; embed of the speaker's text token.
            first: float32 [embedding]; state of the reply's first token.
            positions: the ids after the prompt's.
            sampling: how codec tokens are drawn.
            seed: names the random stream.
            state: holds the prompt.
        """
        section = self.section
        state.cache.trim(state.prefilled)
        sampler = Sampler(sampling, seed, self.decoder.section.vocab_size, self.suppressed)
        # The reference's penalty looks at the prompt's placeholders too.
        sampler.observe(np.array([section.codec_mask, section.codec_pad, section.codec_start]))
        codec = np.array([[section.codec_pad, section.codec_start]])
        logits = self._step(codec, np.stack([voice, first]), positions.text(2), state.cache)
        return Utterance(sampler, positions, sampler.draw(logits))

    def speak(self, thinker_state: NDArray[np.float32], utterance: Utterance, state: TalkerState) -> int:
        """The next codec token.

        Args:
            thinker_state: float32 [embedding]; that of the reply's next token, or text_end, then text_pad.
            utterance: the reply.
            state: the conversation's cache.
        """
        codec = np.array([[utterance.last]])
        logits = self._step(codec, thinker_state[None], utterance.positions.continued(1), state.cache)
        utterance.last = utterance.sampler.draw(logits)
        return utterance.last

    def is_end(self, codec: int) -> bool:
        """Whether `codec` closes the utterance."""
        return codec in (self.section.codec_pad, self.section.codec_end)

    def _step(
        self, codec: NDArray[np.int64], states: NDArray[np.float32], positions: Ids, cache: KVCache
    ) -> NDArray[np.float32]:
        return self.decoder.step({"codec_ids": codec, "states": states[None]}, positions, cache)[1]
