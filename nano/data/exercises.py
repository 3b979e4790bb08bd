"""Exercises: exchanges as messages with text, samples and pixels, and the right reply. No torch.

`training_exercise(seed, cache)` draws one for training; `evaluation_set(name, cache)` yields a fixed held-out set.
Messages have the form that chat templates take:

    {"role": "system" | "user" | "assistant", "content": [part, ...]}
    {"type": "text", "text": str}
    {"type": "audio", "audio": float32 [n] at 16 kHz}
    {"type": "image", "image": uint8 [height, width, 3], RGB}
    {"type": "video", "video": uint8 [frames, height, width, 3], RGB, "fps": float, "audio": float32 [n] | None}

A video's "audio" is its own sound track (`use_audio_in_video`), never a question.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nano import world
from nano.data.speech_cache import SpeechCache
from nano.data.voices import RATE, Samples, augment
from nano.world.scenes import FRAMES_PER_SECOND, render_picture, render_sound, render_video

Message = dict[str, Any]
# Silence around a clip without a room.
_QUIET_S = 0.15
# Name of a set -> number of drawn exercises; 0: one for each clip.
EVALUATION_SETS = {
    "spoken_unseen_combinations": 0,
    "spoken_unseen_voice": 0,
    "typed_unseen_combinations": 300,
    "pictures": 400,
    "videos": 300,
    "sound_and_picture": 300,
    "conversation": 300,
    "outside": 200,
}
# Sets that need no cache of spoken words.
TYPED_SETS = ("typed_unseen_combinations", "pictures", "videos")
# Most draws until an exchange needs only clips that exist; with a complete cache a few suffice.
_TRIES = 2000
_FAMILY_OF_SET = {
    "pictures": "picture",
    "videos": "video",
    "sound_and_picture": "sound_and_picture",
    "conversation": "conversation",
}


@dataclass(frozen=True)
class Exercise:
    """The input of the model and the right reply.

    Attributes:
        family: one of world.FAMILIES.
        messages: the system prompt, then all turns; the last turn has the user's part alone.
        reply: the right reply to the last turn.
        texts: the spoken or typed words of each turn, as in `world.Request.text`.
        notes: labels for tables: "input" (spoken or typed), "voice", "room" (clean or noisy).
        clue: the last turn's, as in `world.Turn`.
    """

    family: str
    messages: list[Message]
    reply: str
    texts: tuple[str, ...]
    notes: dict[str, str] = field(default_factory=dict)
    clue: tuple[str, str] | None = None


def training_exercise(
    seed: int, cache: SpeechCache | None, family: str | None = None, spoken: bool | None = None
) -> Exercise:
    """The training exercise of `seed`.

    Args:
        seed: every number gives another exercise.
        cache: spoken words; without it, and for texts that it does not have yet, words are typed.
        family: one of world.FAMILIES; None draws by weight.
        spoken: whether words are speech; None draws.
    """
    rng = random.Random(seed)
    exchange = world.draw(rng, "train", family, spoken if cache else False)
    return make_exercise(exchange, rng, cache, "train")


def evaluation_set(name: str, cache: SpeechCache | None, count: int | None = None) -> Iterator[Exercise]:
    """The first `count` exercises of a held-out set, the same every time.

    Half of the spoken ones are clean; half have a kind of noise that training does not have.

    Raises:
        ValueError: there is no set of that name, or it needs a cache (all sets but TYPED_SETS).
        RuntimeError: the cache is not complete.
    """
    if name not in EVALUATION_SETS:
        raise ValueError(f"there is no evaluation set {name!r}; there are {', '.join(EVALUATION_SETS)}")
    if name not in TYPED_SETS and cache is None:
        raise ValueError(f"{name} needs spoken words: run `python -m nano.data.speech_cache` and pass its SpeechCache")
    exercises = _clips_of_set(name, cache) if name.startswith("spoken") and cache else _drawn_set(name, cache)
    for number, exercise in enumerate(exercises):
        if number == count:
            return
        yield exercise


def _clips_of_set(name: str, cache: SpeechCache) -> Iterator[Exercise]:
    requests = {request.text: request for request in world.requests()}
    split = "unseen_voice" if name == "spoken_unseen_voice" else "unseen_combination"
    number = 0
    for clip_number in cache.numbers(split):
        clip = cache.clips[clip_number]
        request = requests.get(clip.text)
        # Questions about media need their media, and the outside world has its own set.
        if request is None or (split == "unseen_combination" and request.family == "outside"):
            continue
        samples, room = _in_room(cache.samples(clip_number), clip_number, number % 2 == 1)
        content = [{"type": "audio", "audio": samples}]
        notes = {"input": "spoken", "voice": clip.voice, "room": room}
        yield Exercise(
            request.family,
            [_message("system", world.SPEECH_SYSTEM), {"role": "user", "content": content}],
            request.reply,
            (clip.text,),
            notes,
        )
        number += 1


def _drawn_set(name: str, cache: SpeechCache | None) -> Iterator[Exercise]:
    for number in range(EVALUATION_SETS[name]):
        rng = random.Random(f"{name} {number}")
        spoken = number % 2 == 0 and name != "typed_unseen_combinations" and cache is not None
        for _ in range(_TRIES):
            if name == "typed_unseen_combinations":
                family = ("timer", "light", "sum")[number % 3]
            else:
                family = _FAMILY_OF_SET.get(name, "outside")
            exchange = world.draw(rng, "held_out", family, spoken)
            split = "unseen_combination" if family == "outside" else "unseen_take"
            if cache is None or all(cache.find(text, split) for text in _spoken_texts(exchange)):
                yield make_exercise(exchange, rng, cache, split)
                break
        else:
            raise RuntimeError(
                f"{name} needs clips that the cache does not have yet: let nano.data.speech_cache finish"
            )


def _spoken_texts(exchange: world.Exchange) -> list[str]:
    return [part.text for turn in exchange.turns for part in turn.parts if isinstance(part, world.Speech)]


def make_exercise(exchange: world.Exchange, rng: random.Random, cache: SpeechCache | None, split: str) -> Exercise:
    """Makes text, samples and pixels of `exchange`.

    Args:
        exchange: the turns and their replies.
        rng: draws the clips, their rooms and the surface of typed words.
        cache: spoken words; without it, and for texts without a clip, words are typed.
        split: split of the clips, as in `nano.data.speech_cache`. All of "train" and half of the others are in a room.
    """
    messages = [_message("system", exchange.system)]
    notes = {"input": "typed"}
    texts = []
    for turn in exchange.turns:
        content = []
        for part in turn.parts:
            if isinstance(part, world.Speech | world.Text):
                texts.append(part.text)
            content.append(_content(part, rng, cache, split, notes))
        messages += [{"role": "user", "content": content}, _message("assistant", turn.reply)]
    last = exchange.turns[-1]
    return Exercise(exchange.family, messages[:-1], last.reply, tuple(texts), notes, last.clue)


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _content(
    part: world.Part, rng: random.Random, cache: SpeechCache | None, split: str, notes: dict[str, str]
) -> dict[str, Any]:
    if isinstance(part, world.Picture):
        return {"type": "image", "image": render_picture(part.scene)}
    if isinstance(part, world.Video):
        sound = render_sound(part.scene) if part.scene.has_sound else None
        return {"type": "video", "video": render_video(part.scene), "fps": FRAMES_PER_SECOND, "audio": sound}
    clips = cache.find(part.text, split) if cache and isinstance(part, world.Speech) else []
    if not cache or not clips:
        return {"type": "text", "text": world.typed(part.text, rng)}
    number = rng.choice(clips)
    if split == "train":
        samples, room = augment(cache.samples(number), np.random.default_rng(rng.randrange(1 << 62))), "noisy"
    else:
        samples, room = _in_room(cache.samples(number), rng.randrange(1 << 62), rng.random() < 0.5)
    notes |= {"input": "spoken", "voice": cache.clips[number].voice, "room": room}
    return {"type": "audio", "audio": samples}


def _in_room(samples: Samples, seed: int, noisy: bool) -> tuple[Samples, str]:
    """A clip in its room for an evaluation, and the room's name."""
    if noisy:
        return augment(samples, np.random.default_rng(seed), "held_out"), "noisy"
    return np.pad(samples, round(_QUIET_S * RATE)), "clean"
