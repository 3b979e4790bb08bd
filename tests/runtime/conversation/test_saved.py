"""A conversation that was put away continues as if it had not stopped; a file that is not whole is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_edge import (
    ChunkSchedule,
    ConversationError,
    ImageFrame,
    OmniEdge,
    PcmBlock,
    ResourceError,
    Sampling,
    Session,
    SolverSettings,
    TurnDone,
    UsageError,
)
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.sampling import Sampler
from support.turns import PUSHED, RATE, answer, hum, push, waves

TOKENS = 7
PREFIX = struct.Struct("<8sIIQ")


def assert_same(left: Session, right: Session, tokens: int = TOKENS) -> None:
    """Both give the same reply, to the last sample."""
    (expected, sound), (actual, again) = answer(left, tokens), answer(right, tokens)
    assert actual.token_ids == expected.token_ids
    assert actual.codec_tokens == expected.codec_tokens
    assert actual.prompt_tokens == expected.prompt_tokens
    np.testing.assert_array_equal(again, sound)


@pytest.mark.parametrize("speech", [False, True])
@pytest.mark.parametrize("name", list(PUSHED))
def test_a_conversation_continues_as_if_it_had_not_stopped(
    engine: OmniEdge, tmp_path: Path, name: str, speech: bool
) -> None:
    # Drawn at random: the streams of random numbers have to continue too.
    session = engine.session(seed=5, speech=speech, voice="Ethan", sampling=Sampling(temperature=1.2))
    push(session, name)
    answer(session, TOKENS)
    session.save(tmp_path / "talk")
    resumed = engine.resume(tmp_path / "talk")
    assert (resumed.offset, resumed.capacity, resumed.speech) == (session.offset, session.capacity, speech)
    assert resumed.voice == "Ethan"
    for each in (session, resumed):
        push(each, "picture")
    assert_same(session, resumed)
    for each in (session, resumed):
        each.push("And now?")
    assert_same(session, resumed)


@pytest.mark.parametrize("name", list(PUSHED))
def test_in_the_middle_of_a_turn(engine: OmniEdge, tmp_path: Path, name: str) -> None:
    session = engine.session(seed=5, sampling=Sampling(temperature=0))
    session.push("Hello.")
    answer(session, tokens=3)
    session.push("First this: ")
    push(session, name)
    session.push(" and a begi")
    session.save(tmp_path / "talk")
    resumed = engine.resume(tmp_path / "talk")
    for each in (session, resumed):
        each.push("nning of text.")
    assert resumed.offset == session.offset
    assert_same(session, resumed)


def test_an_empty_conversation_and_an_interrupted_reply(engine: OmniEdge, tmp_path: Path) -> None:
    session = engine.session(seed=5)
    session.save(tmp_path / "empty")
    resumed = engine.resume(tmp_path / "empty")
    for each in (session, resumed):
        each.push("Count.")
    held = session.reply(max_new_tokens=40), resumed.reply(max_new_tokens=40)
    for reply in held:
        for _ in range(9):
            next(reply)
    session.save(tmp_path / "interrupted")
    assert session.offset == resumed.offset
    again = engine.resume(tmp_path / "interrupted")
    for each in (resumed, again):
        each.push("Stop. What now?")
    assert_same(resumed, again)
    # Saving did not end the reply.
    assert isinstance(list(held[0])[-1], TurnDone)


def test_random_streams_are_named_by_replies_that_left_too(
    engine: OmniEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[int] = []

    def recorded(rules: Any, stream: tuple[int, ...], *rest: Any, **options: Any) -> Sampler:
        streams.append(stream[-1])
        return Sampler(rules, stream, *rest, **options)

    monkeypatch.setattr("omni_edge.conversation.reply_start.Sampler", recorded)
    session = engine.session(seed=5, speech=False, sampling=Sampling(temperature=1.2))
    for text in ("one", "two"):
        session.push(text)
        answer(session, TOKENS)
    left = session.evict(0, session.capacity)
    assert left is not None
    assert left.turns == 1
    session.save(tmp_path / "talk")
    resumed = engine.resume(tmp_path / "talk")
    for each in (session, resumed):
        each.push("three")
    assert_same(session, resumed)
    assert streams == [1, 2, 3, 3]


def test_all_settings_come_back(engine: OmniEdge, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "seed": (1 << 63) - 1,
        "system": "Ä \U0001f642",
        "context": 700,
        "sampling": Sampling(1.1, 20, 0.9, 1.2),
        "talker_sampling": Sampling(0.7, 30, 0.8, 1.3),
        "solver": SolverSettings("ab2", 3, guidance=0.0, sway=-0.5),
        "chunks": ChunkSchedule.named("exact"),
        "max_pixels": 3136,
    }
    session = engine.session(**settings)
    session.push("Hello.")
    session.voice = "Ethan"
    session.save(tmp_path / "talk")
    resumed = engine.resume(tmp_path / "talk")
    assert resumed._settings == replace(session._settings, voice="Ethan")
    for each in (session, resumed):
        each.push(ImageFrame(waves(200, 200)))
    assert_same(session, resumed)
    paced = engine.session(chunks=ChunkSchedule.named("paced"))
    paced.save(tmp_path / "paced")
    assert engine.resume(tmp_path / "paced")._settings == paced._settings


def test_another_process_takes_it_up(bundle: Path, engine: OmniEdge, tmp_path: Path) -> None:
    session = engine.session(seed=5)
    push(session, "video with sound")
    answer(session, TOKENS)
    session.save(tmp_path / "talk")
    program = """
import sys
import numpy as np
from omni_edge import AudioChunk, OmniEdge
session = OmniEdge.load(sys.argv[1], threads=1).resume(sys.argv[2])
session.push("Go on.")
events = list(session.reply(max_new_tokens=7, max_codec_tokens=30))
np.savez(sys.argv[3], tokens=events[-1].token_ids, codec=events[-1].codec_tokens,
         samples=np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)]))
"""
    result = tmp_path / "result.npz"
    subprocess.run([sys.executable, "-c", program, bundle, tmp_path / "talk", result], check=True)
    session.push("Go on.")
    done, samples = answer(session, TOKENS)
    other = np.load(result)
    assert other["tokens"].tolist() == list(done.token_ids)
    assert other["codec"].tolist() == list(done.codec_tokens)
    np.testing.assert_array_equal(other["samples"], samples)


def test_only_the_used_part_is_stored(engine: OmniEdge, tmp_path: Path) -> None:
    sizes = {}
    for context in (500, 8000):
        session = engine.session(context=context, seed=1)
        session.push("Hello.")
        answer(session, TOKENS)
        session.save(tmp_path / str(context))
        sizes[context] = (tmp_path / str(context)).stat().st_size
    assert abs(sizes[500] - sizes[8000]) < 100
    assert sizes[8000] < session.nbytes / 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["500", "8000"]


def test_an_open_live_sound_is_refused(engine: OmniEdge, tmp_path: Path) -> None:
    session = engine.session()
    session.push(PcmBlock(hum(1), RATE))
    with pytest.raises(UsageError, match=r"A live sound is open. Complete it \(end=True\)"):
        session.save(tmp_path / "talk")
    assert list(tmp_path.iterdir()) == []


# -- files that are not whole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talk(engine: OmniEdge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved conversation, with states that the Talker has still to take and a turn that is open."""
    path = tmp_path_factory.mktemp("talk") / "talk"
    session = engine.session(seed=5)
    session.push("Hello.")
    answer(session, TOKENS)
    session.push("More.")
    session.save(path)
    return path


def resealed(data: bytes) -> bytes:
    """`data` with the digest that belongs to it."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def with_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """`data` with another header, length and digest right."""
    magic, version, length, _ = PREFIX.unpack(data[: PREFIX.size])
    header = json.loads(data[PREFIX.size : PREFIX.size + length])
    change(header)
    text = json.dumps(header).encode()
    body = text + data[PREFIX.size + length :]
    return resealed(PREFIX.pack(magic, version, len(text), PREFIX.size + len(body)) + body)


def place(data: bytes, name: str) -> int:
    """Where an array begins."""
    length = PREFIX.unpack(data[: PREFIX.size])[2]
    start = PREFIX.size + length
    for entry in json.loads(data[PREFIX.size : start])["arrays"]:
        if entry["name"] == name:
            return start
        start += int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
    raise KeyError(name)


def overwritten(data: bytes, name: str, value: bytes) -> bytes:
    start = place(data, name)
    return resealed(data[:start] + value + data[start + len(value) :])


def drop_last_array(header: dict[str, Any]) -> None:
    header["arrays"].pop()


def rename_array(header: dict[str, Any]) -> None:
    header["arrays"][0]["name"] = "other"


NAN = np.array([np.nan], np.float32).tobytes()
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is not a saved conversation"),
    "another file": (lambda data: b"RIFF" + data, "is not a saved conversation"),
    "truncated": (lambda data: data[:-1000], r"has \d+ bytes instead of \d+. Copy it again, completely"),
    "a tail": (lambda data: data + b"x", r"has \d+ bytes instead of \d+"),
    "one bit": (lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:], "is damaged: its SHA-256 differs"),
    "the digest": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is damaged"),
    "a later version": (
        lambda data: resealed(data[:8] + (2).to_bytes(4, "little") + data[12:]),
        "has format version 2; this version reads 1. Open it with the version that saved it",
    ),
    "a header beyond the file": (lambda data: resealed(data[:12] + b"\xff" * 4 + data[16:]), r"has \d+ bytes instead"),
    "no JSON": (lambda data: resealed(data[:30] + b"\xff" + data[31:]), "its header is not valid"),
    "an unknown field": (lambda data: with_header(data, lambda h: h.update(x=1)), "unknown fields"),
    "an unknown setting": (
        lambda data: with_header(data, lambda h: h["conversation"]["settings"]["solver"].update(method="odd")),
        "its header is not valid",
    ),
    "a setting out of range": (
        lambda data: with_header(data, lambda h: h["conversation"]["settings"].update(seed=-1)),
        "The seed is -1",
    ),
    "a context that is too small": (
        lambda data: with_header(data, lambda h: h["conversation"]["settings"].update(context=3)),
        "positions in a context of 3",
    ),
    "turns that do not add up": (
        lambda data: with_header(data, lambda h: h["conversation"].update(reply_stops=[1, 2, 3])),
        "its turns do not follow each other",
    ),
    "another bundle": (
        lambda data: with_header(data, lambda h: h["conversation"].update(bundle="0" * 64)),
        "was held with another bundle. Load the bundle that it was saved with",
    ),
    "an array that lacks": (lambda data: with_header(data, rename_array), "lacks the array tokens"),
    "arrays that do not fill it": (lambda data: with_header(data, drop_last_array), "do not fill it"),
    "NaN in the Thinker's cache": (
        lambda data: overwritten(data, "thinker.keys.0", NAN),
        r"thinker\.keys\.0 holds values that are no numbers",
    ),
    "NaN in the Talker's cache": (lambda data: overwritten(data, "talker.values.1", NAN), r"talker\.values\.1 holds"),
    "NaN in the states": (lambda data: overwritten(data, "states", NAN), "states holds values that are no numbers"),
    "an unknown token": (
        lambda data: overwritten(data, "tokens", (1 << 40).to_bytes(8, "little")),
        "tokens holds values outside",
    ),
    "a negative id": (
        lambda data: overwritten(data, "pending.ids", (-5).to_bytes(8, "little", signed=True)),
        r"pending\.ids holds values outside",
    ),
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_a_damaged_file_is_refused(engine: OmniEdge, talk: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damaged = tmp_path / "damaged"
    damaged.write_bytes(damage(talk.read_bytes()))
    with pytest.raises(ConversationError, match=message) as caught:
        engine.resume(damaged)
    assert caught.value.exit_code == 3
    assert str(damaged) in str(caught.value)


def test_a_missing_file_and_another_bundle(bundle: Path, talk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "bundle.json").read_text("utf-8"))
    manifest["generator"] = "another export"
    (other / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    engine = OmniEdge.load(other, threads=1)
    assert Bundle(other).manifest_sha256() != Bundle(bundle).manifest_sha256()
    with pytest.raises(ConversationError, match="was held with another bundle"):
        engine.resume(talk)
    with pytest.raises(ConversationError, match="cannot be read"):
        engine.resume(tmp_path / "nothing")
    with pytest.raises(ConversationError, match="cannot be read"):
        engine.resume(tmp_path)


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.ENOSPC, ResourceError, r"The disk is full: the conversation needs \d+ MB in"),
        (errno.EACCES, UsageError, "cannot be written"),
    ],
)
def test_a_file_is_written_whole_or_not_at_all(
    engine: OmniEdge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[Exception],
    message: str,
) -> None:
    session = engine.session(seed=1)
    session.push("Hello.")
    answer(session, TOKENS)
    path = tmp_path / "talk"
    session.save(path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", fail)
    session.push("More.")
    with pytest.raises(error, match=message):
        session.save(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["talk"]
    with pytest.raises(UsageError, match="cannot be written"):
        session.save(tmp_path / "nowhere" / "talk")
