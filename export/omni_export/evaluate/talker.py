"""The Talker's predictions, teacher-forced: the codec tokens that the reference draws to speak its own replies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omni_edge.bundle.manifest import SamplingSection
from omni_edge.decoders.sampling import Sampler
from omni_edge.decoders.talker import Talker
from omni_edge.model import Model
from omni_export.evaluate.metrics import TokenScores
from omni_export.evaluate.reference_decoder import ReferenceDecoder, ReferenceInput, ReferenceState
from omni_export.evaluate.thinker import Reply
from omni_export.evaluate.turns import text_embeds
from omni_export.verify.reference import ReferenceModules

Array = NDArray[np.float32]

_PREFIX = "talker"


@dataclass
class Utterance:
    """The codec tokens of a reply and the Talker's input that they were drawn with.

    Attributes:
        reply: what is spoken.
        codec: the codec tokens drawn, one that ends the utterance included.
        inputs: the Talker's codec input at each position, int64 [n].
        positions: int64 [3, n].
        hidden: float32 [drawn tokens, hidden]; the reference's states that they were drawn from.
    """

    reply: Reply
    codec: list[int]
    inputs: NDArray[np.int64]
    positions: NDArray[np.int64]
    hidden: Array

    def states(self, reply_states: Array, marks: Marks) -> Array:
        """The states at each position of the Talker's input, float32 [n, embedding].

        Args:
            reply_states: float32 [prompt + reply, embedding], of either side's Thinker.
            marks: the embeds of the same side.
        """
        prompt = self.reply.prompt_length
        spoken = [reply_states[:prompt], marks.voice[None], reply_states[prompt:], marks.text_end[None]]
        joined = np.concatenate(spoken)
        missing = self.inputs.size - len(joined)
        return np.concatenate([joined, np.tile(marks.text_pad, (max(0, missing), 1))])[: self.inputs.size]


@dataclass(frozen=True)
class Marks:
    """Embeds of text tokens that the Talker gets beside the reply's states, float32 [embedding] each."""

    voice: Array
    text_end: Array
    text_pad: Array


class ReferenceTalker:
    """The reference's Talker, one layer in memory at a time."""

    def __init__(self, modules: ReferenceModules, none_codec: int) -> None:
        weights, config = modules.weights, modules.config.talker_config
        self.decoder = ReferenceDecoder(weights, f"{_PREFIX}.model", config, f"{_PREFIX}.codec_head.weight")
        self._projection = weights.tensor(f"{_PREFIX}.thinker_to_talker_proj.weight")
        self._bias = weights.tensor(f"{_PREFIX}.thinker_to_talker_proj.bias")
        self._table = weights.tensor(f"{_PREFIX}.model.embed_tokens.weight")
        self._none_codec = none_codec

    def step(
        self, codec: NDArray[np.int64], states: Array, positions: NDArray[np.int64], state: ReferenceState
    ) -> Array:
        """Appends positions; returns the hidden state of the last one, float32 [hidden].

        Args:
            codec: int64 [n].
            states: float32 [n, embedding].
            positions: int64 [3, n].
            state: is updated.
        """
        embeds = torch.from_numpy(states.copy())
        given = torch.from_numpy(codec != self._none_codec)
        embeds[given] += self._table[torch.from_numpy(codec)[given]]
        with torch.no_grad():
            projected = torch.nn.functional.linear(embeds, self._projection, self._bias).numpy()
        hidden: Array = self.decoder.step([ReferenceInput(projected, positions, state)])[0][-1]
        return hidden


def reference_marks(model: Model, modules: ReferenceModules, voice_token: int) -> Marks:
    """The reference's marks for the speaker whose text token is `voice_token`."""
    assert model.manifest.talker is not None
    section = model.manifest.talker
    tokens = np.array([voice_token, section.text_end_token, section.text_pad_token])
    return Marks(*text_embeds(tokens, modules))


def bundle_marks(model: Model, talker: Talker, voice: str) -> Marks:
    """The bundle's marks for the speaker `voice`."""
    return Marks(model.voice_embed(voice), talker.text_end, talker.text_pad)


def speak(
    reply: Reply, talker: Talker, reference: ReferenceTalker, marks: Marks, sampling: SamplingSection, seed: int
) -> Utterance:
    """The reference speaks its own reply; at most `sampling.max_new_tokens` codec tokens, drawn with `seed`."""
    section, prompt = talker.section, reply.prompt_length
    sampler = Sampler(sampling, (seed,), talker.decoder.section.vocab_size, talker.suppressed)
    sampler.observe(np.array([section.codec_mask, section.codec_pad, section.codec_start]))
    following = replace(reply.turn.following)
    inputs = [section.none_codec] * prompt + [section.codec_pad, section.codec_start]
    positions = [reply.turn.positions, following.text(2)]
    waiting = iter([*reply.states[prompt:], marks.text_end])
    state, codec, hidden = ReferenceState(), [], []
    states = np.concatenate([reply.states[:prompt], marks.voice[None], next(waiting)[None]])
    taken = 0
    while True:
        fresh = np.array(inputs[taken:]), states, np.concatenate(positions, axis=1)[:, taken:]
        hidden.append(reference.step(*fresh, state))
        codec.append(sampler.draw(next(reference.decoder.logits(hidden[-1][None]))))
        if talker.is_end(codec[-1]) or len(codec) == sampling.max_new_tokens:
            break
        taken = len(inputs)
        inputs.append(codec[-1])
        positions.append(following.continued(1))
        states = next(waiting, marks.text_pad)[None]
    return Utterance(reply, codec, np.array(inputs), np.concatenate(positions, axis=1), np.stack(hidden))


def score_utterance(
    utterance: Utterance, states: Array, talker: Talker, reference: ReferenceTalker, scores: TokenScores
) -> None:
    """Adds the bundle's predictions of an utterance's codec tokens to `scores`.

    Args:
        utterance: the codec tokens.
        states: of all positions, float32 [n, embedding], of either side.
        talker: the bundle's.
        reference: the reference's.
        scores: are added to.
    """
    count = utterance.inputs.size
    cache = talker.state(count).cache
    start = count - len(utterance.codec) + 1
    expected = reference.decoder.logits(utterance.hidden)
    for token, stop in zip(utterance.codec, range(start, count + 1), strict=True):
        at = slice(cache.offset, stop)
        given: dict[str, NDArray[Any]] = {"codec_ids": utterance.inputs[None, at], "states": states[None, at]}
        _, logits = talker.decoder.step(given, utterance.positions[:, at], cache)
        scores.add(next(expected), logits, token)
