"""Going back: a context that was cut continues token for token like one that never had more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_edge import (
    ContextFullError,
    OmniEdge,
    PcmBlock,
    ResourceError,
    Sampling,
    Session,
    SessionSettings,
    UsageError,
)
from omni_edge.conversation.context import Context
from omni_edge.conversation.prompt import Prompt
from omni_edge.decoders.talker import Talker
from omni_edge.decoders.thinker import INSIDE, Thinker, ThinkerBlock
from support.turns import PUSHED, RATE, answer, hum, push

TOKENS = 12
PENALIZED = Sampling(temperature=0, repetition_penalty=1.5)


def push_and_reply(session: Session, name: str) -> None:
    push(session, name)
    session.reply()


def assert_same(left: Session, right: Session) -> None:
    (expected, sound), (actual, again) = answer(left, TOKENS), answer(right, TOKENS)
    assert actual.token_ids == expected.token_ids
    assert actual.codec_tokens == expected.codec_tokens
    assert actual.prompt_tokens == expected.prompt_tokens
    np.testing.assert_allclose(again, sound, atol=1e-4)


@pytest.mark.parametrize("speech", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 5])
@pytest.mark.parametrize("name", list(PUSHED))
def test_a_reply_that_was_cut_short_is_one_that_ended_there(
    exact_engine: OmniEdge, name: str, kept: int, speech: bool
) -> None:
    settings = SessionSettings(seed=4, speech=speech, sampling=PENALIZED, talker_sampling=PENALIZED)
    cut, ended = exact_engine.session(settings), exact_engine.session(settings)
    push(cut, name)
    first, _ = answer(cut, TOKENS)
    assert len(first.token_ids) == 12
    # A second turn, so that the cut goes far behind what the Talker has taken.
    push(cut, "picture")
    answer(cut, TOKENS)
    cut.trim(first.prompt_tokens + kept)
    assert cut.offset == first.prompt_tokens + kept

    push(ended, name)
    if kept:
        answer(ended, kept)
    else:
        # A reply of no token: abandoned before its first one.
        ended.reply()
    for each in (cut, ended):
        push(each, "sound")
    assert_same(ended, cut)
    for each in (cut, ended):
        each.push("And then?")
    assert_same(ended, cut)


def test_only_replies_can_be_cut(engine: OmniEdge) -> None:
    session = engine.session(seed=4, speech=False, sampling=PENALIZED)
    with pytest.raises(UsageError, match=r"within its replies, not at 0. They lie at \(none yet\)"):
        session.trim(0)
    session.push("Count.")
    first, _ = answer(session, 5)
    start = first.prompt_tokens
    session.trim(session.offset)
    assert session.offset == start + 5
    session.push("More.")
    # The reply's last token was still waiting.
    before = session.offset
    for offset in (start - 1, start + 6, before):
        with pytest.raises(UsageError, match=f"not at {offset}. They lie at {start} to {start + 5}"):
            session.trim(offset)
    assert session.offset == before
    session.trim(start + 5)
    other = engine.session(seed=4, speech=False, sampling=PENALIZED)
    other.push("Count.")
    answer(other, 5)
    for each in (session, other):
        each.push("Less.")
    assert_same(other, session)


def test_cutting_ends_the_reply_and_a_live_sound(exact_engine: OmniEdge) -> None:
    session, other = (exact_engine.session(seed=4, sampling=PENALIZED) for _ in range(2))
    for each in (session, other):
        each.push("Count.")
    held = session.reply(max_new_tokens=40)
    for _ in range(9):
        next(held)
    start = session._turns.reply_starts[0]
    session.trim(start + 6)
    assert list(held)[-1].finish_reason == "cancelled"  # type: ignore[union-attr]
    answer(other, 6)
    session.push(PcmBlock(hum(2.5), RATE))
    session.trim(start + 6)
    for each in (session, other):
        each.push("Go on.")
    assert_same(other, session)


# -- the context itself ------------------------------------------------------------------------------------------


def fresh(engine: OmniEdge) -> Context:
    return Context(engine.model, SessionSettings(context=600).complete(engine.manifest))


def write(prompt: Prompt, name: str, engine: OmniEdge) -> None:
    """Something of a kind, with random embeds; text before and after it."""
    random = np.random.default_rng(1)
    hidden = engine.manifest.thinker.hidden_size

    def embeds(count: int) -> np.ndarray:
        return random.standard_normal((count, hidden)).astype(np.float32)

    prompt.user()
    prompt.write("See: ")
    if name == "sound":
        prompt.begin_sound()
        prompt.sound(embeds(9))
        prompt.end_sound()
    elif name == "picture":
        prompt.picture(embeds(12), 3, 4)
    elif name != "text":
        prompt.video(embeds(24), (4, 2, 3), 1.0, embeds(60) if name == "video with sound" else None)
    prompt.write(" well.")
    prompt.end_turn()


def prefix(blocks: list[ThinkerBlock], count: int) -> list[ThinkerBlock]:
    """The first `count` positions of the blocks."""
    kept = []
    for block in blocks:
        size = min(len(block), count)
        count -= size
        kept.append(
            ThinkerBlock(
                block.tokens[:size], block.embeds[:size], block.positions[:, :size], block.next_ids[:size], block.media
            )
        )
    return [block for block in kept if len(block)]


def decode(context: Context, count: int) -> tuple[list[int], list[np.ndarray]]:
    """Greedy tokens behind two new ones, and the Talker's logits over everything up to there."""
    context.pending.write("Hm")
    context.prefill()
    tokens = []
    for _ in range(count):
        assert context.logits is not None
        tokens.append(int(context.logits.argmax()))
        context.append(tokens[-1])
        context.prefill(speaking=True)
    context.pending.write("!")
    context.prefill()
    assert context.talker is not None
    assert context.talker.prefilled == context.prefilled
    offset = context.prefilled
    caches = [*context._cache.views(offset).values(), *context.talker.cache.views(offset).values()]
    return tokens, [array.copy() for array in caches]


@pytest.mark.parametrize("name", list(PUSHED))
def test_every_valid_offset(exact_engine: OmniEdge, name: str) -> None:
    whole, part = fresh(exact_engine), fresh(exact_engine)
    probe = fresh(exact_engine).pending
    write(probe, name, exact_engine)
    blocks = probe.take()
    total = sum(map(len, blocks))
    valid = [False] * (total + 1)
    for cut in range(total + 1):
        whole.reset()
        whole.pending._blocks, whole.pending.positions = list(blocks), probe.positions
        whole.prefill()
        decode(whole, 3)
        valid[cut] = whole.can_trim(cut)
        if not valid[cut]:
            with pytest.raises(ValueError, match=f"cannot be cut at {cut}"):
                whole.trim(cut)
            continue
        whole.trim(cut)
        assert (whole.offset, whole.prefilled, whole.logits) == (cut, cut, None)

        part.reset()
        kept = prefix(blocks, cut)
        part.pending._blocks = kept
        if kept:
            part.pending.positions.next = int(kept[-1].next_ids[-1])
            part.pending.positions.highest = max(int(block.positions.max()) for block in kept)
        part.prefill()
        assert whole.tokens.tolist() == part.tokens.tolist()
        assert whole.positions == part.positions
        (tokens, caches), (expected, others) = decode(whole, 6), decode(part, 6)
        assert tokens == expected
        for array, other in zip(caches, others, strict=True):
            np.testing.assert_allclose(array, other, atol=1e-4)
    ids = np.concatenate([block.next_ids for block in blocks])
    assert valid == [True, *(ids != INSIDE)]
    assert valid.count(False) == {"picture": 11, "video": 23, "video with sound": 24 + 60 + 3}.get(name, 0)
    assert not whole.can_trim(-1)
    assert not whole.can_trim(whole.prefilled + 1)


@pytest.mark.parametrize("room", [Thinker, Talker])
@pytest.mark.parametrize("name", list(PUSHED))
def test_an_error_leaves_the_conversation_as_it_was(
    engine: OmniEdge, monkeypatch: pytest.MonkeyPatch, name: str, room: type
) -> None:
    session, other = (engine.session(seed=4, sampling=PENALIZED) for _ in range(2))
    for each in (session, other):
        each.push("Count.")
        answer(each, 5)
    before = session.offset
    method = {Thinker: "step", Talker: "prefill"}[room]
    run = getattr(room, method)

    def fail(self: Any, *arguments: Any) -> None:
        run(self, *arguments)
        raise ResourceError("Not enough memory.")

    with monkeypatch.context() as patch:
        patch.setattr(room, method, fail)
        with pytest.raises(ResourceError):
            push_and_reply(session, name)
    if name == "text":
        # The text had been pushed before; it was the closing of the turn that failed.
        other.push(PUSHED[name][0])
    assert session.offset == (other.offset if name == "text" else before)
    for each in (session, other):
        push(each, "sound")
    assert_same(other, session)


def test_a_turn_that_cannot_be_closed_stays_open(engine: OmniEdge) -> None:
    session = engine.session(speech=False, system="S", context=40)
    session.push("Hi")
    session._context.pending.write("x" * (40 - session.offset - 3))
    before = session.offset
    for _ in range(2):
        with pytest.raises(ContextFullError):
            session.reply()
        assert session.offset == before
