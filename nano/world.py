"""The closed world of omni-nano: what may be said to it and what it answers.

Everything is enumerated or drawn from a seed, so that training, evaluation and the speech side agree to the letter.
`requests()` lists the one-turn requests, `draw()` makes whole exchanges (with pictures, videos and second turns) and
`reply_texts()` lists every sentence that the model may have to speak.

What is held out from training: for timers and lights the combination of slots, for sums one wording of every second sum
(every sum is heard in other words), for two-shape pictures the pair of shapes, for conversations the pair of turns, and
a quarter of the sentences about the outside world.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Literal

from nano.scenes import COLOURS, DIRECTIONS, RELATIONS, SHAPES, WORDS, Figure, PictureScene, VideoScene

Split = Literal["train", "held_out"]
# The system prompts of the published model: the first with speech (as its authors require), the second without.
SPEECH_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
TEXT_SYSTEM = "You are a helpful assistant."

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
ROOMS = ("kitchen", "bedroom", "bathroom", "office", "garage", "garden")
DEVICES = ("light", "fan")
STATES = ("on", "off")
UNITS = ("seconds", "minutes", "hours")
_DURATIONS = (*range(1, 21), 30, 45)
_LARGEST_OPERAND = 10
_ADDENDS = range(1, 6)
_OPERATIONS = ("plus", "minus")
# One combination in so many is held out.
_HELD_OUT_PART = 6

UNKNOWN = "Sorry, I do not know that."
NOTHING_SEEN = "I do not see anything."
NOTHING_SAID = "You did not say anything yet."


def number(value: int) -> str:
    """`value` in words."""
    return {30: "thirty", 45: "forty five"}.get(value) or NUMBERS[value]


def duration(value: int, unit: str) -> str:
    """A number and its unit in words, singular where it is one."""
    return f"{number(value)} {unit[:-1] if value == 1 else unit}"


def is_held_out(*key: object) -> bool:
    """Whether the combination `key` belongs to the held-out ones; the same everywhere and for ever."""
    return _hash(*key) % _HELD_OUT_PART == 0


def _hash(*key: object) -> int:
    return zlib.crc32("|".join(map(str, key)).encode())


@dataclass(frozen=True)
class Request:
    """One thing to say that needs no picture and no earlier turn.

    Attributes:
        family: timer, light, sum, small_talk or outside.
        text: as spoken: lower case, numbers in words, no punctuation.
        reply: the only right answer.
        slots: what it is about; follow-ups build on it.
        split: whether it is heard in training.
    """

    family: str
    text: str
    reply: str
    slots: tuple[str | int, ...] = ()
    split: Split = "train"


_TIMER = ("set a timer for {}", "start a timer for {}", "remind me in {}")
_SWITCH = ("turn {state} the {room} {device}", "turn the {room} {device} {state}", "switch {state} the {room} {device}")
_SUM = ("what is {}", "how much is {}", "tell me {}")
_SMALL_TALK = {
    "I do not have a clock, sorry.": ("what time is it", "tell me the time", "what is the time"),
    "Hello, how can I help you?": ("hello", "hi there", "good morning", "good evening"),
    "You are welcome.": ("thank you", "thanks a lot", "thank you very much"),
    "Goodbye, see you soon.": ("goodbye", "see you later", "good night"),
    "I am a small demo model.": ("who are you", "what are you", "what is your name"),
    "I can hear, see and speak.": ("what can you do", "how can you help me"),
    NOTHING_SEEN: ("what do you see", "what can you see"),
    NOTHING_SAID: ("what did i say", "what did i just say"),
}
_OUTSIDE_TRAIN = """
who is the president|what is the capital of france|how is the weather today|will it rain tomorrow|play some music
tell me a joke|sing me a song|call my mother|read my email|send a message to john|book a table for dinner
how tall is the mountain|who wrote this story|where is my phone|open the front door|buy some bread and butter
when does the train leave|how far is the moon|what does a lawyer do|why is the sky blue|translate this into german
how old is the queen|who won the football game|find a good restaurant|what is your favourite food|do you like horses
show me the news|order a pizza for me|how do i cook rice|where can i buy shoes|what day is it today
how many people live in china|tell me about history|which bus goes to the station|is the bank still open
what is the price of gold|drive me to work|lock the car|feed the dog|close the window|clean the floor
how deep is the ocean|who painted this wall|when was the war|what language do they speak|can you dance
do you love me|are you happy|how fast is a rabbit|where do penguins live|what is a computer
wash my clothes|cancel my meeting|water the flowers|take a photograph|is it cold outside
where is the nearest hospital|who invented the telephone|give me a recipe for soup|how long is the river
"""
_OUTSIDE_HELD_OUT = """
what is the capital of spain|play my favourite song|how is the traffic today|who wrote the letter|call a doctor
where is my wallet|order some flowers for me|how old is the moon|why is the grass green|tell me a story
when does the shop open|find a cheap hotel|what does a doctor do|is it warm outside|send an email to my brother
how do i bake bread|who won the race|where do lions live|translate this into french|what is a telescope
"""


def _sentences(block: str) -> list[str]:
    return [part.strip() for line in block.strip().splitlines() for part in line.split("|")]


def _timers() -> list[Request]:
    found = []
    for value, unit, wording in product(_DURATIONS, UNITS, _TIMER):
        spoken = duration(value, unit)
        split: Split = "held_out" if is_held_out("timer", value, unit) else "train"
        reply = f"Timer set for {spoken}."
        found.append(Request("timer", wording.format(spoken), reply, (value, unit), split))
    return found


def _switches() -> list[Request]:
    found = []
    for room, device, state, wording in product(ROOMS, DEVICES, STATES, _SWITCH):
        split: Split = "held_out" if is_held_out("room_device", room, device, state) else "train"
        text = wording.format(room=room, device=device, state=state)
        found.append(Request("light", text, f"The {room} {device} is {state}.", (room, device, state), split))
    return found


def _sums() -> list[Request]:
    found = []
    operands = range(_LARGEST_OPERAND + 1)
    for first, second, operation in product(operands, operands, _OPERATIONS):
        result = first + second if operation == "plus" else first - second
        if result < 0:
            continue
        spoken = f"{number(first)} {operation} {number(second)}"
        reply = f"{spoken} is {number(result)}.".capitalize()
        # Of half of the sums one wording is held out, so that every sum is heard.
        unheard = _hash("sum", spoken) % (2 * len(_SUM))
        for index, wording in enumerate(_SUM):
            split: Split = "held_out" if index == unheard else "train"
            found.append(Request("sum", wording.format(spoken), reply, (result,), split))
    return found


@lru_cache(maxsize=1)
def requests() -> tuple[Request, ...]:
    """Every one-turn request, in a fixed order."""
    found = _timers() + _switches() + _sums()
    found += [Request("small_talk", text, reply) for reply, texts in _SMALL_TALK.items() for text in texts]
    found += [Request("outside", text, UNKNOWN) for text in _sentences(_OUTSIDE_TRAIN)]
    found += [Request("outside", text, UNKNOWN, split="held_out") for text in _sentences(_OUTSIDE_HELD_OUT)]
    return tuple(found)


@lru_cache(maxsize=32)
def _requests(family: str, split: Split) -> tuple[Request, ...]:
    return tuple(request for request in requests() if request.family == family and request.split == split)


# -- exchanges ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Typed words, as in `Request.text`; `typed` gives them a surface."""

    text: str


@dataclass(frozen=True)
class Speech:
    """Spoken words, as in `Request.text`."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A still picture."""

    scene: PictureScene


@dataclass(frozen=True)
class Video:
    """A video; its sound track belongs to it where `scene.has_sound`."""

    scene: VideoScene


Part = Text | Speech | Picture | Video


@dataclass(frozen=True)
class Turn:
    """What the user gives, media before words, and the only right reply."""

    parts: tuple[Part, ...]
    reply: str


@dataclass(frozen=True)
class Exchange:
    """A conversation of one or two turns.

    Attributes:
        family: see FAMILIES.
        turns: in order.
        system: the system prompt.
    """

    family: str
    turns: tuple[Turn, ...]
    system: str = SPEECH_SYSTEM
    spoken: bool = field(default=False)


# What training draws, with its weight.
FAMILIES = {
    "timer": 10,
    "light": 8,
    "sum": 12,
    "small_talk": 6,
    "outside": 7,
    "conversation": 12,
    "picture": 25,
    "video": 8,
    "sound_and_picture": 12,
}


def typed(text: str, rng: random.Random) -> str:
    """How a person might type `text`: capitals, punctuation, digits, both spellings of colour."""
    words = text.split()
    if rng.random() < 0.3:
        words = [str(NUMBERS.index(word)) if word in NUMBERS else word for word in words]
    if rng.random() < 0.3:
        words = ["color" if word == "colour" else word for word in words]
    words = ["I" if word == "i" and rng.random() < 0.5 else word for word in words]
    text = " ".join(words)
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    question = words[0].lower() in {"what", "which", "where", "who", "how", "why", "when", "is", "do", "are", "can"}
    return text + rng.choice(("", "?" if question else "."))


def draw(
    rng: random.Random,
    split: Split = "train",
    family: str | None = None,
    spoken: bool | None = None,
) -> Exchange:
    """One exchange.

    Args:
        rng: decides everything that is left open.
        split: "held_out" gives only what training never draws (for single shapes, digits, words and movements, whose
            kinds are few: scenes that training does not draw because their seeds are others).
        family: of FAMILIES; None draws by weight.
        spoken: whether the words are speech; None draws.
    """
    family = family or rng.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    spoken = rng.random() < 0.6 if spoken is None else spoken
    if family == "conversation":
        turns = _conversation(rng, split, spoken)
    elif family == "picture":
        turns = _picture(rng, split, spoken)
    elif family == "video":
        turns = (_video(rng, split, spoken),)
    elif family == "sound_and_picture":
        turns = (_sound_and_picture(rng, split, spoken),)
    else:
        # The few kinds of small talk are the same in both splits.
        request = rng.choice(_requests(family, "train" if family == "small_talk" else split))
        turns = (Turn((_words(request.text, spoken),), request.reply),)
    return Exchange(family, turns, SPEECH_SYSTEM if rng.random() < 0.75 else TEXT_SYSTEM, spoken)


def _words(text: str, spoken: bool) -> Part:
    return Speech(text) if spoken else Text(text)


# -- second turns ------------------------------------------------------------------------------------------------

_REPEAT = ("what did i say", "what did i just say")
_CHANGE = ("make it {}", "change it to {}")
_TURN_IT = "turn it {}"
_ADD = "now add {}"
_MOST = 20


def _follow_ups(request: Request) -> list[tuple[str, str]]:
    """The (text, reply) pairs that may follow `request`, apart from asking what was said."""
    if request.family == "timer":
        unit = str(request.slots[1])
        return [
            (wording.format(number(value)), f"Timer set for {duration(value, unit)}.")
            for value in _DURATIONS
            for wording in _CHANGE
            if value != request.slots[0]
        ]
    if request.family == "light":
        room, device, state = request.slots
        other = STATES[1 - STATES.index(str(state))]
        return [(_TURN_IT.format(other), f"The {room} {device} is {other}.")]
    if request.family == "sum":
        result = int(request.slots[0])
        return [
            (
                _ADD.format(number(value)),
                f"{number(result)} plus {number(value)} is {number(result + value)}.".capitalize(),
            )
            for value in _ADDENDS
            if result + value <= _MOST
        ]
    return []


def _conversation(rng: random.Random, split: Split, spoken: bool) -> tuple[Turn, ...]:
    while True:
        first = rng.choice(_requests(rng.choice(("timer", "light", "sum")), "train"))
        follow_ups = _follow_ups(first)
        if not follow_ups or rng.random() < 0.35:
            text, reply = rng.choice(_REPEAT), f"You said: {first.text}."
        else:
            text, reply = rng.choice(follow_ups)
        if is_held_out("conversation", first.text, reply) == (split == "held_out"):
            break
    # Mixed on purpose: a person who spoke first may type next.
    second_spoken = spoken if rng.random() < 0.8 else not spoken
    return (
        Turn((_words(first.text, spoken),), first.reply),
        Turn((_words(text, second_spoken),), reply),
    )


# -- pictures ----------------------------------------------------------------------------------------------------

_WHAT = ("what do you see", "what is in the picture", "what is this")
_COUNT = ("how many shapes are there", "how many shapes do you see")
_COLOUR = ("what colour is the {}", "which colour is the {}")
_COLOUR_IT = "what colour is it"
_WHERE = "where is the {}"
_NUMBER = ("what number is this", "which number do you see")
_READ = ("what does it say", "what is written here")
_COUNTS = range(1, 5)


def _a(figure: Figure) -> str:
    return f"{'an' if figure.colour[0] in 'aeiou' else 'a'} {figure.colour} {figure.shape}"


def _figures() -> list[Figure]:
    return [Figure(colour, shape) for colour, shape in product(COLOURS, SHAPES)]


def _pair_reply(left: Figure, right: Figure) -> str:
    return f"{_a(left)} and {_a(right)}.".capitalize()


def _where_reply(first: Figure, relation: str, second: Figure) -> str:
    words = {"left": "left of", "right": "right of"}.get(relation, relation)
    return f"The {first.colour} {first.shape} is {words} the {second.colour} {second.shape}."


def _count_reply(count: int) -> str:
    return f"{number(count)} {'shape' if count == 1 else 'shapes'}.".capitalize()


def _draw_pair(rng: random.Random, split: Split) -> tuple[Figure, Figure]:
    while True:
        first, second = rng.sample(_figures(), 2)
        if is_held_out("pair", first.colour, first.shape, second.colour, second.shape) == (split == "held_out"):
            return first, second


def _picture(rng: random.Random, split: Split, spoken: bool) -> tuple[Turn, ...]:
    seed = _scene_seed(rng, split)
    kind = rng.choice(("single", "pair", "count", "colour", "where", "where", "digit", "word", "follow_up"))
    figures: tuple[Figure, ...] = ()
    if kind in {"single", "follow_up"}:
        figures = (rng.choice(_figures()),)
        scene, text, reply = PictureScene.of(figures, seed), rng.choice(_WHAT), f"{_a(figures[0])}.".capitalize()
    elif kind == "pair":
        figures = _draw_pair(rng, split)
        scene, text, reply = PictureScene.of(figures, seed, "left"), rng.choice(_WHAT), _pair_reply(*figures)
    elif kind == "count":
        figures = tuple(rng.choices(_figures(), k=rng.choice(_COUNTS)))
        scene, text, reply = PictureScene.of(figures, seed), rng.choice(_COUNT), _count_reply(len(figures))
    elif kind == "colour":
        shapes = rng.sample(SHAPES, rng.choice((1, 2, 2, 3)))
        figures = tuple(Figure(rng.choice(COLOURS), shape) for shape in shapes)
        asked = rng.choice(figures)
        scene, text = PictureScene.of(figures, seed), rng.choice(_COLOUR).format(asked.shape)
        reply = f"The {asked.shape} is {asked.colour}."
    elif kind == "where":
        figures = _draw_pair(rng, split)
        relation = rng.choice(RELATIONS)
        scene, text = PictureScene.of(figures, seed, relation), _WHERE.format(f"{figures[0].colour} {figures[0].shape}")
        reply = _where_reply(figures[0], relation, figures[1])
    elif kind == "digit":
        digit = rng.randrange(10)
        scene, text, reply = PictureScene(text=str(digit), seed=seed), rng.choice(_NUMBER), f"It is {number(digit)}."
    else:
        word = rng.choice(WORDS)
        scene, text, reply = PictureScene(text=word, seed=seed), rng.choice(_READ), f"It says {word}."
    first = Turn((Picture(scene), _words(text, spoken)), reply)
    if kind == "follow_up":
        return first, Turn((_words(_COLOUR_IT, spoken),), f"It is {figures[0].colour}.")
    return (first,)


def _scene_seed(rng: random.Random, split: Split) -> int:
    """Even seeds are for training, odd ones are held out."""
    return 2 * rng.randrange(1 << 30) + (split == "held_out")


# -- videos ------------------------------------------------------------------------------------------------------

_MOVE = ("which way does it move", "where does it go")
_BLINK = ("how many times does it blink", "how often does the light blink")
_SOUND = ("which colour came with the sound", "what colour was it at the sound")
_BLINKS = range(1, 5)
_SOUND_COLOURS = 4


def _move_reply(figure: Figure, direction: str) -> str:
    return f"The {figure.colour} {figure.shape} moves {direction}."


def _blink_reply(count: int) -> str:
    return f"It blinks {number(count)} {'time' if count == 1 else 'times'}."


def _sound_reply(colour: str) -> str:
    return f"It was {colour}."


def _video(rng: random.Random, split: Split, spoken: bool) -> Turn:
    seed = _scene_seed(rng, split)
    if rng.random() < 0.6:
        figure, direction = rng.choice(_figures()), rng.choice(DIRECTIONS)
        scene = VideoScene(kind="move", figure=figure, direction=direction, seed=seed)
        text, reply = rng.choice(_MOVE), _move_reply(figure, direction)
    else:
        count = rng.choice(_BLINKS)
        scene = VideoScene(kind="blink", blinks=count, seed=seed)
        text, reply = rng.choice(_BLINK), _blink_reply(count)
    return Turn((Video(scene), _words(text, spoken)), reply)


def _sound_and_picture(rng: random.Random, split: Split, spoken: bool) -> Turn:
    while True:
        colours = tuple(rng.sample(COLOURS, _SOUND_COLOURS))
        at = rng.randrange(_SOUND_COLOURS)
        if is_held_out("sound", *colours, at) == (split == "held_out"):
            break
    scene = VideoScene(kind="sound", colours=colours, sound_at=at, seed=_scene_seed(rng, split))
    return Turn((Video(scene), _words(rng.choice(_SOUND), spoken)), _sound_reply(colours[at]))


# -- everything that may be said ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def question_texts() -> tuple[str, ...]:
    """What is said about pictures and videos, and in second turns."""
    figures = [f"{figure.colour} {figure.shape}" for figure in _figures()]
    found = [*_WHAT, *_COUNT, _COLOUR_IT, *_NUMBER, *_READ, *_MOVE, *_BLINK, *_SOUND, *_REPEAT]
    found += [wording.format(shape) for wording in _COLOUR for shape in SHAPES]
    found += [_WHERE.format(figure) for figure in figures]
    found += [wording.format(number(value)) for wording in _CHANGE for value in _DURATIONS]
    found += [_TURN_IT.format(state) for state in STATES]
    found += [_ADD.format(number(value)) for value in _ADDENDS]
    return tuple(dict.fromkeys(found))


def word_salad(count: int) -> tuple[str, ...]:
    """`count` rows of three to five words that users say, in no order and without sense; no held-out duration in them.

    Who hears only sentences learns which words go together, and hears what is likely in the place of what was said.
    """
    rng = random.Random(count)
    words = sorted({word for text in spoken_texts("train") for word in text.split()})
    numbers = sorted({word for value in _DURATIONS for word in number(value).split()})
    held_out = [duration(value, unit) for value in _DURATIONS for unit in UNITS if is_held_out("timer", value, unit)]
    found: dict[str, None] = {}
    while len(found) < count:
        row = [rng.choice(rng.choice((words, numbers, UNITS))) for _ in range(rng.randint(3, 5))]
        text = " ".join(row)
        if not any(f" {span} " in f" {text} " for span in held_out):
            found[text] = None
    return tuple(found)


def spoken_texts(split: Split) -> tuple[str, ...]:
    """Every text that a user speaks in `split`, as in `Request.text`; questions about media count as training texts."""
    found = [request.text for request in requests() if request.split == split]
    if split == "train":
        found += question_texts()
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=1)
def replies_by_family() -> dict[str, tuple[str, ...]]:
    """Every reply, by the kind of sentence; `draw_reply` gives each kind its weight."""
    figures = _figures()
    pairs = [(first, second) for first, second in product(figures, figures) if first != second]
    sums = {reply for request in _sums() for _, reply in _follow_ups(request)}
    repeated = [request for request in (*_timers(), *_switches(), *_sums()) if request.split == "train"]
    families = {
        "timer": [request.reply for request in _timers()],
        "light": [request.reply for request in _switches()],
        "sum": [request.reply for request in _sums()] + sorted(sums),
        "small_talk": [*_SMALL_TALK, UNKNOWN],
        "repeat": [f"You said: {request.text}." for request in repeated],
        "single": [f"{_a(figure)}.".capitalize() for figure in figures],
        "pair": [_pair_reply(*pair) for pair in pairs],
        "count": [_count_reply(count) for count in _COUNTS],
        "colour": [f"The {shape} is {colour}." for colour, shape in product(COLOURS, SHAPES)]
        + [f"It is {colour}." for colour in COLOURS],
        "where": [_where_reply(first, relation, second) for first, second in pairs for relation in RELATIONS],
        "read": [f"It is {number(digit)}." for digit in range(10)] + [f"It says {word}." for word in WORDS],
        "move": [_move_reply(figure, direction) for figure, direction in product(figures, DIRECTIONS)],
        "blink": [_blink_reply(count) for count in _BLINKS],
        "sound": [_sound_reply(colour) for colour in COLOURS],
    }
    return {family: tuple(dict.fromkeys(replies)) for family, replies in families.items()}


# Kinds of sentence with fewer than this many are trained whole by the speaking side.
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
    """Every sentence that the model may have to speak, each once."""
    return tuple(dict.fromkeys(reply for replies in replies_by_family().values() for reply in replies))


def reply_split(reply: str) -> Split:
    """Whether the speaking side trains on `reply`: small kinds of sentence are trained whole."""
    small = any(reply in replies for replies in replies_by_family().values() if len(replies) < _SMALL_KIND)
    return "held_out" if not small and is_held_out("spoken reply", reply) else "train"


def draw_reply(rng: random.Random, split: Split = "train") -> str:
    """A reply to speak: the kinds of sentence by weight, so that the many positions do not drown the rest."""
    while True:
        family = rng.choices(list(_REPLY_WEIGHTS), list(_REPLY_WEIGHTS.values()))[0]
        reply = rng.choice(replies_by_family()[family])
        if reply_split(reply) == split:
            return reply


def plain_words(reply: str) -> str:
    """`reply` as a recognizer writes it: lower case, no punctuation."""
    return "".join(letter for letter in reply.lower() if letter.isalpha() or letter == " ").strip()


def grammar() -> str:
    """JSGF of all replies, for a recognizer; words as in `plain_words`. Wider than the world by combination only."""
    rules: dict[str, list[str]] = {
        "number": [number(value) for value in (*range(_MOST + 1), 30, 45)],
        "unit": [word for unit in UNITS for word in (unit, unit[:-1])],
        "room": list(ROOMS),
        "device": list(DEVICES),
        "state": list(STATES),
        "operation": list(_OPERATIONS),
        "colour": list(COLOURS),
        "shape": list(SHAPES),
        "figure": ["<colour> <shape>"],
        "place": ["left of", "right of", *(relation for relation in RELATIONS if relation in {"above", "below"})],
        "request": [
            *(wording.format("<number> <unit>") for wording in _TIMER),
            *(wording.format(state="<state>", room="<room>", device="<device>") for wording in _SWITCH),
            *(wording.format("<number> <operation> <number>") for wording in _SUM),
        ],
        "word": list(WORDS),
        "direction": list(DIRECTIONS),
        "fixed": [plain_words(reply) for reply in replies_by_family()["small_talk"]],
    }
    public = [
        "timer set for <number> <unit>",
        "the <room> <device> is <state>",
        "<number> <operation> <number> is <number>",
        "<fixed>",
        "you said <request>",
        "(a | an) <figure>",
        "(a | an) <figure> and (a | an) <figure>",
        "<number> (shape | shapes)",
        "the <shape> is <colour>",
        "it is (<colour> | <number>)",
        "the <figure> is <place> the <figure>",
        "it says <word>",
        "the <figure> moves <direction>",
        "it blinks <number> (time | times)",
        "it was <colour>",
    ]
    lines = ["#JSGF V1.0;", "grammar replies;", f"public <reply> = {' | '.join(public)};"]
    lines += [f"<{name}> = {' | '.join(choices)};" for name, choices in rules.items()]
    return "\n".join(lines) + "\n"
