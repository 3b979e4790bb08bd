"""The closed world of omni-nano: requests and their replies.

All of it is enumerated or drawn from a seed, so that training, evaluation and speech agree to the letter. `wording` has
the words, `sentences` lists all requests and replies, `exchanges` draws conversations with pictures, videos and second
turns.

Held out from training are, for timers and lights, combinations of slots; for every second sum, one wording; for
pictures, pairs of shapes; for conversations, pairs of turns; and a quarter of the sentences about the outside world.
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
    random_word_texts,
    replies_by_family,
    reply_split,
    reply_texts,
    requests,
    spoken_texts,
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
    "random_word_texts",
    "replies_by_family",
    "reply_split",
    "reply_texts",
    "requests",
    "spoken_texts",
    "typed",
]
