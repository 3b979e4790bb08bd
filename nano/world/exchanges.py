"""Exchanges drawn from a seed: the user's input, turn by turn, and the only right replies."""

from __future__ import annotations

import random
from dataclasses import dataclass

from nano.world import wording
from nano.world.scenes import COLOURS, DIRECTIONS, RELATIONS, SHAPES, WORDS, Figure, PictureScene, VideoScene
from nano.world.sentences import Split, find_requests, follow_ups, is_held_out

# The system prompts of the published model, with speech and without.
SPEECH_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
TEXT_SYSTEM = "You are a helpful assistant."
_SOUND_COLOURS = 4


@dataclass(frozen=True)
class Text:
    """Typed words, as in `Request.text`; `typed` adds capitals and punctuation."""

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
    """The user's input, media before words, and the only right reply.

    Attributes:
        parts: the input's parts in order.
        reply: the reply to the letter.
        clue: a word of the question, and the word that belongs to it in the picture. As a target of its own it saves
            hundreds of training steps.
    """

    parts: tuple[Part, ...]
    reply: str
    clue: tuple[str, str] | None = None


@dataclass(frozen=True)
class Exchange:
    """A conversation of one or two turns.

    Attributes:
        family: one of FAMILIES.
        turns: the turns in order.
        system: the system prompt.
    """

    family: str
    turns: tuple[Turn, ...]
    system: str = SPEECH_SYSTEM


# The families and their weights in training.
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


def draw(
    rng: random.Random,
    split: Split = "train",
    family: str | None = None,
    spoken: bool | None = None,
) -> Exchange:
    """One exchange.

    Args:
        rng: draws everything else.
        split: "held_out" gives exchanges that training never draws. Single shapes, digits, words and movements have few
            kinds; their held-out scenes differ by the seed.
        family: one of FAMILIES; None draws by weight.
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
        request = rng.choice(find_requests(family, "train" if family == "small_talk" else split))
        turns = (Turn((_words(request.text, spoken),), request.reply),)
    return Exchange(family, turns, SPEECH_SYSTEM if rng.random() < 0.75 else TEXT_SYSTEM)


def _words(text: str, spoken: bool) -> Part:
    return Speech(text) if spoken else Text(text)


def _conversation(rng: random.Random, split: Split, spoken: bool) -> tuple[Turn, ...]:
    while True:
        first = rng.choice(find_requests(rng.choice(("timer", "light", "sum")), "train"))
        following = follow_ups(first)
        if not following or rng.random() < 0.35:
            text, reply = rng.choice(wording.REPEAT), wording.repeat_reply(first.text)
        else:
            text, reply = rng.choice(following)
        if is_held_out("conversation", first.text, reply) == (split == "held_out"):
            break
    # A fifth of the second turns change between speech and typing.
    second_spoken = spoken if rng.random() < 0.8 else not spoken
    return (
        Turn((_words(first.text, spoken),), first.reply),
        Turn((_words(text, second_spoken),), reply),
    )


# -- pictures ------------------------------------------------------------------------------------------------------


# Kinds of questions about pictures. Colours among several shapes and printed words are learned last, so training draws
# them more often.
_PICTURES = ("single", "pair", "count", "colour", "where", "where", "digit", "word", "follow_up")
_LESSONS = (*_PICTURES, "colour", "colour", "word", "word", "where")


def _picture(rng: random.Random, split: Split, spoken: bool) -> tuple[Turn, ...]:
    seed = _scene_seed(rng, split)
    kind = rng.choice(_PICTURES if split == "held_out" else _LESSONS)
    figures: tuple[Figure, ...] = ()
    clue = None
    if kind in {"single", "follow_up"}:
        figures = (rng.choice(wording.FIGURES),)
        scene, text = PictureScene.from_figures(figures, seed), rng.choice(wording.WHAT)
        reply = wording.single_reply(figures[0])
    elif kind == "pair":
        figures = left, right = _draw_pair(rng, split)
        scene, text = PictureScene.from_figures(figures, seed, "left"), rng.choice(wording.WHAT)
        reply = wording.pair_reply(left, right)
    elif kind == "count":
        figures = tuple(rng.choices(wording.FIGURES, k=rng.choice(wording.COUNTS)))
        scene, text = PictureScene.from_figures(figures, seed), rng.choice(wording.COUNT)
        reply = wording.count_reply(len(figures))
    elif kind == "colour":
        shapes = rng.sample(SHAPES, rng.choice((1, 2, 2, 3)))
        figures = tuple(Figure(rng.choice(COLOURS), shape) for shape in shapes)
        asked = rng.choice(figures)
        scene, text = PictureScene.from_figures(figures, seed), rng.choice(wording.COLOUR).format(asked.shape)
        reply, clue = wording.colour_reply(asked), (asked.shape, asked.colour)
    elif kind == "where":
        figures = first, second = _draw_pair(rng, split)
        relation = rng.choice(RELATIONS)
        scene, text = (
            PictureScene.from_figures(figures, seed, relation),
            wording.WHERE.format(f"{first.colour} {first.shape}"),
        )
        reply = wording.where_reply(first, relation, second)
    elif kind == "digit":
        digit = rng.randrange(10)
        scene, text = PictureScene(text=str(digit), seed=seed), rng.choice(wording.DIGIT)
        reply = wording.digit_reply(digit)
    else:
        word = rng.choice(WORDS)
        scene, text = PictureScene(text=word, seed=seed), rng.choice(wording.READ)
        reply = wording.read_reply(word)
    turn = Turn((Picture(scene), _words(text, spoken)), reply, clue)
    if kind == "follow_up":
        return turn, Turn((_words(wording.COLOUR_IT, spoken),), wording.colour_it_reply(figures[0].colour))
    return (turn,)


def _draw_pair(rng: random.Random, split: Split) -> tuple[Figure, Figure]:
    while True:
        first, second = rng.sample(wording.FIGURES, 2)
        if is_held_out("pair", first.colour, first.shape, second.colour, second.shape) == (split == "held_out"):
            return first, second


def _scene_seed(rng: random.Random, split: Split) -> int:
    """A seed: even ones are for training, odd ones are held out."""
    return 2 * rng.randrange(1 << 30) + (split == "held_out")


# -- videos --------------------------------------------------------------------------------------------------------


def _video(rng: random.Random, split: Split, spoken: bool) -> Turn:
    seed = _scene_seed(rng, split)
    if rng.random() < 0.6:
        figure, direction = rng.choice(wording.FIGURES), rng.choice(DIRECTIONS)
        scene = VideoScene(kind="move", figure=figure, direction=direction, seed=seed)
        text, reply = rng.choice(wording.MOVE), wording.move_reply(figure, direction)
    else:
        count = rng.choice(wording.BLINKS)
        scene = VideoScene(kind="blink", blinks=count, seed=seed)
        text, reply = rng.choice(wording.BLINK), wording.blink_reply(count)
    return Turn((Video(scene), _words(text, spoken)), reply)


def _sound_and_picture(rng: random.Random, split: Split, spoken: bool) -> Turn:
    while True:
        colours = tuple(rng.sample(COLOURS, _SOUND_COLOURS))
        at = rng.randrange(_SOUND_COLOURS)
        if is_held_out("sound", *colours, at) == (split == "held_out"):
            break
    scene = VideoScene(kind="sound", colours=colours, sound_at=at, seed=_scene_seed(rng, split))
    return Turn((Video(scene), _words(rng.choice(wording.SOUND), spoken)), wording.sound_reply(colours[at]))
