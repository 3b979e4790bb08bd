"""The built-in model's replies to the README's examples, spoken and typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from omni_edge import OmniEdge, TurnDone
from omni_edge.events import Event
from omni_edge.media.load import load_audio
from support.commands import events, run_edge

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "turn-on-the-kitchen-light.wav"
ANSWER = "The kitchen light is on."
_CONTINUES = "... "
_LARGEST_BYTES = 15_000_000


def readme_conversations() -> list[list[tuple[str, str]]]:
    """The README's table of questions: turns of (question, answer), by conversation."""
    table = (ROOT / "README.md").read_text("utf-8").partition("| you | omni-nano |\n| --- | --- |\n")[2]
    rows = re.findall(r"\| (.+?) \| (.+?) \|\n", table.partition("\n\n")[0] + "\n")
    begun = 0
    numbered = []
    for question, answer in rows:
        begun += not question.startswith(_CONTINUES)
        numbered.append((begun, question.removeprefix(_CONTINUES), answer))
    return [[turn[1:] for turn in turns] for _, turns in groupby(numbered, key=lambda turn: turn[0])]


CONVERSATIONS = readme_conversations()


@pytest.fixture(scope="module")
def nano() -> OmniEdge:
    """The built-in model, loaded once."""
    return OmniEdge.load(threads=1)


def test_the_table_is_read() -> None:
    assert len(CONVERSATIONS) > 4
    assert max(len(turns) for turns in CONVERSATIONS) == 2


def test_a_spoken_request_is_understood() -> None:
    result = run_edge("run", "--audio", EXAMPLE, "--no-speech")
    assert (result.exit_code, result.stdout) == (0, f"{ANSWER}\n"), result.output


@pytest.mark.parametrize("voice", ["Chelsie", "Ethan"])
def test_the_reply_is_spoken_and_comes_to_its_end(voice: str) -> None:
    done = events(run_edge("run", "--audio", EXAMPLE, "--voice", voice, "--seed", 1, "--json"))[-1]
    assert (done["text"], done["finish_reason"]) == (ANSWER, "stop")
    assert 0.8 < done["metrics"]["audio"] < 3.0


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=lambda turns: turns[-1][0])
@pytest.mark.parametrize("speech", [True, False])
def test_the_readme_says_what_it_answers(nano: OmniEdge, turns: list[tuple[str, str]], speech: bool) -> None:
    session = nano.session(speech=speech, seed=1)
    for question, answer in turns:
        session.push(question)
        assert _text(session.reply()) == answer


def test_a_conversation_may_begin_aloud(nano: OmniEdge) -> None:
    session = nano.session(seed=1)
    session.push(load_audio(EXAMPLE))
    assert _text(session.reply()) == ANSWER
    session.push("turn it off")
    assert _text(session.reply()) == "The kitchen light is off."


def test_it_is_small_and_says_where_it_comes_from(nano: OmniEdge) -> None:
    assert nano.nbytes <= _LARGEST_BYTES
    assert "nano" in nano.manifest.origin.source
    assert nano.manifest.origin.licence.lower().startswith("apache")


def _text(reply: Iterator[Event]) -> str:
    (done,) = [event for event in reply if isinstance(event, TurnDone)]
    return done.text
