"""The words of the closed world: its things, the wording of requests and replies, and a grammar of replies.

Requests are in lower case, with numbers in words and without punctuation; replies are whole sentences.
"""

from __future__ import annotations

import random
from itertools import product

from nano.world.scenes import COLOURS, DIRECTIONS, RELATIONS, SHAPES, WORDS, Figure

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
LARGEST = len(NUMBERS) - 1
ROOMS = ("kitchen", "bedroom", "bathroom", "office", "garage", "garden")
DEVICES = ("light", "fan")
STATES = ("on", "off")
UNITS = ("seconds", "minutes", "hours")
# Numbers beyond LARGEST occur in durations alone.
_LONG = {30: "thirty", 45: "forty five"}
DURATIONS = (*range(1, LARGEST + 1), *_LONG)
OPERATIONS = ("plus", "minus")
OPERANDS = range(11)
ADDENDS = range(1, 6)
FIGURES = tuple(Figure(colour, shape) for colour, shape in product(COLOURS, SHAPES))
# Numbers of shapes in a picture, and of blinks.
COUNTS = range(1, 5)
BLINKS = range(1, 5)


def number(value: int) -> str:
    """`value` in words."""
    return _LONG.get(value) or NUMBERS[value]


def duration(value: int, unit: str) -> str:
    """A number and its unit (of UNITS) in words, singular where it is one."""
    return f"{number(value)} {unit[:-1] if value == 1 else unit}"


def typed(text: str, rng: random.Random) -> str:
    """`text` with typed variations: capitals, punctuation, digits, both spellings of colour."""
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


def plain_words(reply: str) -> str:
    """`reply` in a recognizer's form: lower case, no punctuation."""
    return "".join(letter for letter in reply.lower() if letter.isalpha() or letter == " ").strip()


# -- asking --------------------------------------------------------------------------------------------------------

TIMER = ("set a timer for {}", "start a timer for {}", "remind me in {}")
SWITCH = ("turn {state} the {room} {device}", "turn the {room} {device} {state}", "switch {state} the {room} {device}")
SUM = ("what is {}", "how much is {}", "tell me {}")
# Reply -> the requests that it answers.
SMALL_TALK = {
    "I do not have a clock, sorry.": ("what time is it", "tell me the time", "what is the time"),
    "Hello, how can I help you?": ("hello", "hi there", "good morning", "good evening"),
    "You are welcome.": ("thank you", "thanks a lot", "thank you very much"),
    "Goodbye, see you soon.": ("goodbye", "see you later", "good night"),
    "I am a small demo model.": ("who are you", "what are you", "what is your name"),
    "I can hear, see and speak.": ("what can you do", "how can you help me"),
    "I do not see anything.": ("what do you see", "what can you see"),
    "You did not say anything yet.": ("what did i say", "what did i just say"),
}


def _sentences(block: str) -> tuple[str, ...]:
    return tuple(part.strip() for line in block.strip().splitlines() for part in line.split("|"))


UNKNOWN = "Sorry, I do not know that."
# Requests about the outside world, whose reply is UNKNOWN: for training, and held out.
OUTSIDE = _sentences("""
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
""")
OUTSIDE_HELD_OUT = _sentences("""
what is the capital of spain|play my favourite song|how is the traffic today|who wrote the letter|call a doctor
where is my wallet|order some flowers for me|how old is the moon|why is the grass green|tell me a story
when does the shop open|find a cheap hotel|what does a doctor do|is it warm outside|send an email to my brother
how do i bake bread|who won the race|where do lions live|translate this into french|what is a telescope
""")
# Second turns.
REPEAT = ("what did i say", "what did i just say")
CHANGE = ("make it {}", "change it to {}")
TURN_IT = "turn it {}"
ADD = "now add {}"
COLOUR_IT = "what colour is it"
# Pictures.
WHAT = ("what do you see", "what is in the picture", "what is this")
COUNT = ("how many shapes are there", "how many shapes do you see")
COLOUR = ("what colour is the {}", "which colour is the {}")
WHERE = "where is the {}"
DIGIT = ("what number is this", "which number do you see")
READ = ("what does it say", "what is written here")
# Videos.
MOVE = ("which way does it move", "where does it go")
BLINK = ("how many times does it blink", "how often does the light blink")
SOUND = ("which colour came with the sound", "what colour was it at the sound")


# -- answering -----------------------------------------------------------------------------------------------------


def timer_reply(value: int, unit: str) -> str:
    """The reply to TIMER and CHANGE."""
    return f"Timer set for {duration(value, unit)}."


def switch_reply(room: str, device: str, state: str) -> str:
    """The reply to SWITCH and TURN_IT."""
    return f"The {room} {device} is {state}."


def sum_reply(first: int, operation: str, second: int, result: int) -> str:
    """The reply to SUM and ADD."""
    return f"{number(first)} {operation} {number(second)} is {number(result)}.".capitalize()


def repeat_reply(text: str) -> str:
    """The reply to REPEAT after `text`."""
    return f"You said: {text}."


def single_reply(figure: Figure) -> str:
    """The reply to WHAT with one figure."""
    return f"{_a(figure)}.".capitalize()


def pair_reply(left: Figure, right: Figure) -> str:
    """The reply to WHAT with two figures."""
    return f"{_a(left)} and {_a(right)}.".capitalize()


def _a(figure: Figure) -> str:
    return f"{'an' if figure.colour[0] in 'aeiou' else 'a'} {figure.colour} {figure.shape}"


def count_reply(count: int) -> str:
    """The reply to COUNT."""
    return f"{number(count)} {'shape' if count == 1 else 'shapes'}.".capitalize()


def colour_reply(figure: Figure) -> str:
    """The reply to COLOUR."""
    return f"The {figure.shape} is {figure.colour}."


def colour_it_reply(colour: str) -> str:
    """The reply to COLOUR_IT."""
    return f"It is {colour}."


def where_reply(first: Figure, relation: str, second: Figure) -> str:
    """The reply to WHERE; `relation` is one of RELATIONS."""
    words = {"left": "left of", "right": "right of"}.get(relation, relation)
    return f"The {first.colour} {first.shape} is {words} the {second.colour} {second.shape}."


def digit_reply(digit: int) -> str:
    """The reply to DIGIT."""
    return f"It is {number(digit)}."


def read_reply(word: str) -> str:
    """The reply to READ."""
    return f"It says {word}."


def move_reply(figure: Figure, direction: str) -> str:
    """The reply to MOVE."""
    return f"The {figure.colour} {figure.shape} moves {direction}."


def blink_reply(count: int) -> str:
    """The reply to BLINK."""
    return f"It blinks {number(count)} {'time' if count == 1 else 'times'}."


def sound_reply(colour: str) -> str:
    """The reply to SOUND."""
    return f"It was {colour}."


def grammar() -> str:
    """JSGF of all replies, with words as in `plain_words`; it also allows combinations that do not occur."""
    rules: dict[str, list[str]] = {
        "number": [number(value) for value in (*range(LARGEST + 1), *_LONG)],
        "unit": [word for unit in UNITS for word in (unit, unit[:-1])],
        "room": list(ROOMS),
        "device": list(DEVICES),
        "state": list(STATES),
        "operation": list(OPERATIONS),
        "colour": list(COLOURS),
        "shape": list(SHAPES),
        "figure": ["<colour> <shape>"],
        "place": ["left of", "right of", *(relation for relation in RELATIONS if relation in {"above", "below"})],
        "request": [
            *(wording.format("<number> <unit>") for wording in TIMER),
            *(wording.format(state="<state>", room="<room>", device="<device>") for wording in SWITCH),
            *(wording.format("<number> <operation> <number>") for wording in SUM),
        ],
        "word": list(WORDS),
        "direction": list(DIRECTIONS),
        "fixed": [plain_words(reply) for reply in (*SMALL_TALK, UNKNOWN)],
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
