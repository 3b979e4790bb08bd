"""The Thinker's predictions, teacher-forced: a text token by token, and the reference's own replies to turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.decoders.thinker import Thinker, ThinkerBlock, ThinkerStates
from omni_edge.decoders.tmrope import Positions
from omni_edge.model import Model
from omni_export.evaluate.metrics import TokenScores
from omni_export.evaluate.reference_decoder import ReferenceDecoder, ReferenceInput, ReferenceState
from omni_export.evaluate.turns import EMBEDDING, Turn, text_embeds
from omni_export.verify.reference import ReferenceModules

Array = NDArray[np.float32]
OnToken = Callable[[int, int], None]
"""Called with the number of tokens scored so far and the number of all."""

HEAD = "thinker.lm_head.weight"


@dataclass
class Reply:
    """The reference's greedy reply to a turn.

    Attributes:
        turn: what it answers.
        tokens: the tokens that it drew, one that ends the text included.
        blocks: those that do not end the text, one a block.
        hidden: float32 [n, hidden]; the reference's hidden states of prompt and reply.
        embeds: float32 [n, hidden]; the reference's embeds, zeros in the place of media.
    """

    turn: Turn
    tokens: list[int] = field(default_factory=list)
    blocks: list[ThinkerBlock] = field(default_factory=list)
    hidden: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    embeds: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def prompt_length(self) -> int:
        """Positions before the reply."""
        return len(self.turn.reference_embeds)

    @property
    def states(self) -> Array:
        """The states of all positions as the Talker takes them, float32 [n, hidden]."""
        return self.hidden + self.embeds


def reference_thinker(modules: ReferenceModules) -> ReferenceDecoder:
    """The reference's Thinker, one layer in memory at a time."""
    # A tied head is the embedding table.
    head = HEAD if HEAD in modules.weights else EMBEDDING
    return ReferenceDecoder(modules.weights, "thinker.model", modules.config.thinker_config.text_config, head)


def passages(tokens: list[int], length: int) -> list[NDArray[np.int64]]:
    """The tokens in passages of at most `length`, int64 [2 or more] each."""
    cuts = [np.array(tokens[start : start + length], np.int64) for start in range(0, len(tokens), length)]
    return [cut for cut in cuts if cut.size > 1]


def text_states(texts: list[NDArray[np.int64]], reference: ReferenceDecoder, modules: ReferenceModules) -> list[Array]:
    """The reference's hidden states of each passage, float32 [n, hidden]."""
    return reference.step(
        [ReferenceInput(text_embeds(text, modules), Positions().text(text.size), ReferenceState()) for text in texts]
    )


def score_text(
    texts: list[NDArray[np.int64]], hidden: list[Array], model: Model, reference: ReferenceDecoder, on_token: OnToken
) -> TokenScores:
    """Predicts every token of each passage from those before it, one position at a time in the bundle.

    Args:
        texts: the passages.
        hidden: `text_states` of them.
        model: the bundle.
        reference: the reference's Thinker.
        on_token: called after every token.
    """
    scores, total = TokenScores(), sum(text.size - 1 for text in texts)
    for text, states in zip(texts, hidden, strict=True):
        cache, ids = model.thinker.cache(text.size), Positions().text(text.size)
        embeds = model.thinker.embed(text)
        for index, expected in enumerate(reference.logits(states[:-1])):
            at = slice(index, index + 1)
            block = ThinkerBlock(text[at], embeds[at], ids[:, at], ids[0, at] + 1)
            _, logits = model.thinker.step([block], cache)
            scores.add(expected, logits, int(text[index + 1]))
            on_token(len(scores), total)
    return scores


def reply_to(
    turns: list[Turn], limit: int, model: Model, reference: ReferenceDecoder, modules: ReferenceModules
) -> list[Reply]:
    """The reference's greedy replies, all of them token by token in the same passes over its weights."""
    replies = [Reply(turn) for turn in turns]
    states = [ReferenceState() for _ in turns]
    inputs = [
        ReferenceInput(turn.reference_embeds, turn.positions, state) for turn, state in zip(turns, states, strict=True)
    ]
    hidden: list[list[Array]] = [[] for _ in turns]
    embeds = [[np.where(turn.media[:, None], np.float32(0), turn.reference_embeds)] for turn in turns]
    active = list(range(len(turns)))
    while active:
        results = reference.step(inputs)
        inputs, going_on = [], []
        for number, result in zip(active, results, strict=True):
            reply = replies[number]
            hidden[number].append(result)
            if len(reply.tokens) == limit:
                continue
            token = int(next(reference.logits(result[-1:])).argmax())
            reply.tokens.append(token)
            if token in model.manifest.text.eos_tokens:
                continue
            reply.turn.prompt.decoded(token)
            block = reply.turn.prompt.take()[0]
            reply.blocks.append(block)
            embeds[number].append(text_embeds(block.tokens, modules))
            inputs.append(ReferenceInput(embeds[number][-1], block.positions, states[number]))
            going_on.append(number)
        active = going_on
    for reply, states_of, embeds_of in zip(replies, hidden, embeds, strict=True):
        reply.hidden, reply.embeds = np.concatenate(states_of), np.concatenate(embeds_of)
    return replies


def score_reply(
    reply: Reply, prompt: list[ThinkerBlock], thinker: Thinker, reference: ReferenceDecoder, scores: TokenScores
) -> Array:
    """Adds the bundle's predictions of a reply's tokens to `scores`.

    Args:
        reply: the reply.
        prompt: the blocks before it, of either side's encoders.
        thinker: the bundle's.
        reference: the reference's Thinker.
        scores: are added to.

    Returns:
        the bundle's states of all positions as the Talker takes them, float32 [n, hidden].
    """
    start = reply.prompt_length - 1
    expected = reference.logits(reply.hidden[start : start + len(reply.tokens)])
    states = []
    for (state, logits), token in zip(_steps(reply, prompt, thinker), [*reply.tokens, None], strict=False):
        states.append(state.states.copy())
        if token is not None:
            scores.add(next(expected), logits, token)
    return np.concatenate(states)


def _steps(reply: Reply, prompt: list[ThinkerBlock], thinker: Thinker) -> Iterator[tuple[ThinkerStates, Array]]:
    """States and logits behind the prompt and behind each of the reply's blocks."""
    cache = thinker.cache(sum(map(len, prompt)) + len(reply.blocks))
    yield thinker.step(prompt, cache)
    for block in reply.blocks:
        yield thinker.step([block], cache)
