"""Every sentence of the closed world: requests, replies, and which of them are held out from training."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Literal

from nano.world import wording
from nano.world.scenes import COLOURS, DIRECTIONS, RELATIONS, SHAPES, WORDS

Split = Literal["train", "held_out"]
# One in this many combinations is held out.
_HELD_OUT_PART = 6


def is_held_out(*key: object) -> bool:
    """Whether the combination `key` is held out; depends on `key` alone."""
    return _hash(*key) % _HELD_OUT_PART == 0


def _hash(*key: object) -> int:
    return zlib.crc32("|".join(map(str, key)).encode())


# -- requests ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A request that needs no picture and no earlier turn.

    Attributes:
        family: timer, light, sum, small_talk or outside.
        text: lower case, numbers in words, no punctuation.
        reply: the only right reply.
        slots: its values, which follow-ups refer to.
        split: whether it is in the training data.
    """

    family: str
    text: str
    reply: str
    slots: tuple[str | int, ...] = ()
    split: Split = "train"


def _timers() -> list[Request]:
    found = []
    for value, unit, form in product(wording.DURATIONS, wording.UNITS, wording.TIMER):
        split: Split = "held_out" if is_held_out("timer", value, unit) else "train"
        text = form.format(wording.duration(value, unit))
        found.append(Request("timer", text, wording.timer_reply(value, unit), (value, unit), split))
    return found


def _switches() -> list[Request]:
    found = []
    for room, device, state, form in product(wording.ROOMS, wording.DEVICES, wording.STATES, wording.SWITCH):
        split: Split = "held_out" if is_held_out("room_device", room, device, state) else "train"
        text = form.format(room=room, device=device, state=state)
        found.append(Request("light", text, wording.switch_reply(room, device, state), (room, device, state), split))
    return found


def _sums() -> list[Request]:
    found = []
    for first, second, operation in product(wording.OPERANDS, wording.OPERANDS, wording.OPERATIONS):
        result = first + second if operation == "plus" else first - second
        if result < 0:
            continue
        spoken = f"{wording.number(first)} {operation} {wording.number(second)}"
        reply = wording.sum_reply(first, operation, second, result)
        # One wording of half of the sums is held out; every sum occurs in training.
        held_out = _hash("sum", spoken) % (2 * len(wording.SUM))
        for index, form in enumerate(wording.SUM):
            split: Split = "held_out" if index == held_out else "train"
            found.append(Request("sum", form.format(spoken), reply, (result,), split))
    return found


@lru_cache(maxsize=1)
def requests() -> tuple[Request, ...]:
    """Every one-turn request, in a fixed order."""
    found = _timers() + _switches() + _sums()
    found += [Request("small_talk", text, reply) for reply, texts in wording.SMALL_TALK.items() for text in texts]
    found += [Request("outside", text, wording.UNKNOWN) for text in wording.OUTSIDE]
    found += [Request("outside", text, wording.UNKNOWN, split="held_out") for text in wording.OUTSIDE_HELD_OUT]
    return tuple(found)


@lru_cache(maxsize=32)
def find_requests(family: str, split: Split) -> tuple[Request, ...]:
    """The requests of one family and split."""
    return tuple(request for request in requests() if request.family == family and request.split == split)


def follow_ups(request: Request) -> list[tuple[str, str]]:
    """The (text, reply) pairs that may follow `request`, apart from questions of what was said."""
    if request.family == "timer":
        unit = str(request.slots[1])
        return [
            (form.format(wording.number(value)), wording.timer_reply(value, unit))
            for value in wording.DURATIONS
            for form in wording.CHANGE
            if value != request.slots[0]
        ]
    if request.family == "light":
        room, device, state = map(str, request.slots)
        other = wording.STATES[1 - wording.STATES.index(state)]
        return [(wording.TURN_IT.format(other), wording.switch_reply(room, device, other))]
    if request.family == "sum":
        result = int(request.slots[0])
        return [
            (wording.ADD.format(wording.number(value)), wording.sum_reply(result, "plus", value, result + value))
            for value in wording.ADDENDS
            if result + value <= wording.LARGEST
        ]
    return []


# -- requests as text ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def question_texts() -> tuple[str, ...]:
    """Questions about pictures and videos, and second turns."""
    found = [*wording.WHAT, *wording.COUNT, wording.COLOUR_IT, *wording.DIGIT, *wording.READ]
    found += [*wording.MOVE, *wording.BLINK, *wording.SOUND, *wording.REPEAT]
    found += [form.format(shape) for form in wording.COLOUR for shape in SHAPES]
    found += [wording.WHERE.format(f"{figure.colour} {figure.shape}") for figure in wording.FIGURES]
    found += [form.format(wording.number(value)) for form in wording.CHANGE for value in wording.DURATIONS]
    found += [wording.TURN_IT.format(state) for state in wording.STATES]
    found += [wording.ADD.format(wording.number(value)) for value in wording.ADDENDS]
    return tuple(dict.fromkeys(found))


def spoken_texts(split: Split) -> tuple[str, ...]:
    """Every text that a user speaks in `split`, as in `Request.text`; questions about media count as training texts."""
    found = [request.text for request in requests() if request.split == split]
    if split == "train":
        found += question_texts()
    return tuple(dict.fromkeys(found))


def random_word_texts(count: int) -> tuple[str, ...]:
    """`count` rows of three to five random words of the requests, without held-out durations.

    A recognizer that is trained on sentences alone learns which words go together, and errs towards likely sentences.
    """
    rng = random.Random(count)
    words = sorted({word for text in spoken_texts("train") for word in text.split()})
    numbers = sorted({word for value in wording.DURATIONS for word in wording.number(value).split()})
    kinds: tuple[Sequence[str], ...] = (words, numbers, wording.UNITS)
    durations = product(wording.DURATIONS, wording.UNITS)
    held_out = [wording.duration(value, unit) for value, unit in durations if is_held_out("timer", value, unit)]
    found: dict[str, None] = {}
    while len(found) < count:
        row = [rng.choice(rng.choice(kinds)) for _ in range(rng.randint(3, 5))]
        text = " ".join(row)
        if not any(f" {span} " in f" {text} " for span in held_out):
            found[text] = None
    return tuple(found)


# -- replies ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def replies_by_family() -> dict[str, tuple[str, ...]]:
    """Every reply, by kind of sentence; `draw_reply` has the weights of the kinds."""
    figures, pairs = wording.FIGURES, list(permutations(wording.FIGURES, 2))
    sums = {reply for request in _sums() for _, reply in follow_ups(request)}
    repeated = [request for request in (*_timers(), *_switches(), *_sums()) if request.split == "train"]
    families = {
        "timer": [request.reply for request in _timers()],
        "light": [request.reply for request in _switches()],
        "sum": [request.reply for request in _sums()] + sorted(sums),
        "small_talk": [*wording.SMALL_TALK, wording.UNKNOWN],
        "repeat": [wording.repeat_reply(request.text) for request in repeated],
        "single": [wording.single_reply(figure) for figure in figures],
        "pair": [wording.pair_reply(*pair) for pair in pairs],
        "count": [wording.count_reply(count) for count in wording.COUNTS],
        "colour": [*map(wording.colour_reply, figures), *map(wording.colour_it_reply, COLOURS)],
        "where": [wording.where_reply(first, relation, second) for first, second in pairs for relation in RELATIONS],
        "read": [*map(wording.digit_reply, range(10)), *map(wording.read_reply, WORDS)],
        "move": [wording.move_reply(figure, direction) for figure, direction in product(figures, DIRECTIONS)],
        "blink": [wording.blink_reply(count) for count in wording.BLINKS],
        "sound": [wording.sound_reply(colour) for colour in COLOURS],
    }
    return {family: tuple(dict.fromkeys(replies)) for family, replies in families.items()}


# Kinds with fewer sentences than this are used whole to train Talker and token2wav.
_SMALL_KIND = 40
_REPLY_WEIGHTS = {
    "timer": 14,
    "light": 8,
    "sum": 14,
    "small_talk": 6,
    "repeat": 14,
    "single": 5,
    "pair": 10,
    "count": 2,
    "colour": 5,
    "where": 12,
    "read": 5,
    "move": 6,
    "blink": 2,
    "sound": 2,
}


def reply_texts() -> tuple[str, ...]:
    """Every reply, each once."""
    return tuple(dict.fromkeys(reply for replies in replies_by_family().values() for reply in replies))


def reply_split(reply: str) -> Split:
    """The split of `reply` in the training of Talker and token2wav; small kinds of sentence are trained whole."""
    small = any(reply in replies for replies in replies_by_family().values() if len(replies) < _SMALL_KIND)
    return "held_out" if not small and is_held_out("spoken reply", reply) else "train"


def draw_reply(rng: random.Random, split: Split = "train") -> str:
    """Draws a reply; weights of the kinds keep the many sentences about positions from prevailing."""
    while True:
        family = rng.choices(list(_REPLY_WEIGHTS), list(_REPLY_WEIGHTS.values()))[0]
        reply = rng.choice(replies_by_family()[family])
        if reply_split(reply) == split:
            return reply
