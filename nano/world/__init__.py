"""The closed world of omni-nano: what may be said to it and what it answers.

Everything is enumerated or drawn from a seed, so that training, evaluation and the speech side agree to the letter.
`wording` has the words, `sentences` lists everything that is said and answered, `exchanges` draws conversations, with
pictures, videos and second turns.

What is held out from training: for timers and lights the combination of slots, for sums one wording of every second sum
(every sum is heard in other words), for two-shape pictures the pair of shapes, for conversations the pair of turns, and
a quarter of the sentences about the outside world.
"""

from nano.world.exchanges import (
    FAMILIES,
    SPEECH_SYSTEM,
    TEXT_SYSTEM,
    Exchange,
    Part,
    Picture,
    Speech,
    Text,
    Turn,
    Video,
    draw,
)
from nano.world.sentences import (
    Request,
    Split,
    draw_reply,
    question_texts,
    replies_by_family,
    reply_split,
    reply_texts,
    requests,
    spoken_texts,
    word_salad,
)
from nano.world.wording import grammar, number, plain_words, typed

__all__ = [
    "FAMILIES",
    "SPEECH_SYSTEM",
    "TEXT_SYSTEM",
    "Exchange",
    "Part",
    "Picture",
    "Request",
    "Speech",
    "Split",
    "Text",
    "Turn",
    "Video",
    "draw",
    "draw_reply",
    "grammar",
    "number",
    "plain_words",
    "question_texts",
    "replies_by_family",
    "reply_split",
    "reply_texts",
    "requests",
    "spoken_texts",
    "typed",
    "word_salad",
]
