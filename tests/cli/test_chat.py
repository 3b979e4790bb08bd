"""`omni-edge chat`: turns, attachments and commands, from a pipe and from a terminal."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from omni_cli.commands import chat
from omni_cli.commands.chat_loop import Chat
from omni_edge import AudioChunk, OmniEdge, Sampling, TurnDone
from omni_edge.errors import DeviceError
from omni_edge.media.load import load_image
from support.commands import GREEDY, SHORT, run_edge

OPTIONS = (*GREEDY, *SHORT)


def silent_session(engine: OmniEdge) -> Chat:
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    return Chat(engine, session, [], max_new_tokens=6)


def test_every_line_of_a_pipe_is_a_turn(bundle: Path, engine: OmniEdge) -> None:
    result = run_edge("chat", "-m", bundle, "--no-speech", *OPTIONS, input="Hello.\nAnd again?\n\n")
    assert result.exit_code == 0, result.output
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    expected = ""
    for turn in ("Hello.", "And again?"):
        session.push(turn)
        done = list(session.reply(max_new_tokens=6))[-1]
        assert isinstance(done, TurnDone)
        expected += done.text + "\n"
    assert result.stdout == expected


def test_attachments_belong_to_the_next_turn(engine: OmniEdge, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent_session(engine).run([f"/image {files / 'photo.jpg'}", "What is it?"])
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    session.push(load_image(files / "photo.jpg"))
    session.push("What is it?")
    done = list(session.reply(max_new_tokens=6))[-1]
    assert isinstance(done, TurnDone)
    assert capsys.readouterr().out == done.text + "\n"


def test_an_empty_line_sends_what_is_attached(
    engine: OmniEdge, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent_session(engine).run(["", f"/audio {files / 'question.wav'}", ""])
    assert capsys.readouterr().out.count("\n") >= 1


def test_replies_are_kept_in_the_folder(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "replies"
    result = run_edge("chat", "-m", bundle, "-o", folder, *OPTIONS, "--seed", 1, input="One.\nTwo.\n")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == ["reply-001.wav", "reply-002.wav"]
    for path in folder.iterdir():
        with wave.open(str(path)) as file:
            assert file.getframerate() == 24_000
            assert file.getnframes() > 0


def test_no_loudspeaker_is_said_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def __init__(self, rate: int, device: object = None) -> None:
            raise DeviceError("no output device")

    monkeypatch.setattr(chat, "Loudspeaker", Missing)
    result = run_edge("chat", "-m", bundle, *OPTIONS, input="One.\nTwo.\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("No loudspeaker") == 1
    assert "-o FOLDER" in result.stderr


class Vanishing:
    """A loudspeaker that is unplugged after the first block."""

    def __init__(self) -> None:
        self.heard = 0

    def begin(self) -> None:
        pass

    def write(self, samples: np.ndarray) -> None:
        if self.heard:
            raise DeviceError("the loudspeaker is gone")
        self.heard += samples.size

    def end(self) -> None:
        pass

    def stop(self) -> None:
        pass


def test_a_loudspeaker_that_vanishes_is_reported_once_and_the_text_goes_on(
    engine: OmniEdge, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = Sampling(temperature=0)
    session = engine.session(seed=1, sampling=greedy, talker_sampling=greedy)
    speaker = Vanishing()
    chat = Chat(engine, session, [speaker], max_new_tokens=6, max_codec_tokens=90)
    chat.run(["One.", "Two."])
    printed = capsys.readouterr()
    assert printed.err.count("gone") == 1
    assert printed.out.count("\n") >= 2
    assert speaker.heard > 0


def test_the_conversation_and_the_last_reply_can_be_saved(engine: OmniEdge, tmp_path: Path) -> None:
    greedy = Sampling(temperature=0)
    session = engine.session(seed=1, sampling=greedy, talker_sampling=greedy)
    chat = Chat(engine, session, [Vanishing()], max_new_tokens=6, max_codec_tokens=30)
    chat.run(["Hello.", f"/save {tmp_path / 'talk.txt'}", f"/save {tmp_path / 'reply.wav'}"])
    other = engine.session(seed=1, sampling=greedy, talker_sampling=greedy)
    other.push("Hello.")
    events = list(other.reply(max_new_tokens=6, max_codec_tokens=30))
    done = events[-1]
    assert isinstance(done, TurnDone)
    assert (tmp_path / "talk.txt").read_text("utf-8") == f"user: Hello.\nassistant: {done.text}\n"
    with wave.open(str(tmp_path / "reply.wav")) as file:
        assert file.getnframes() == sum(event.samples.size for event in events if isinstance(event, AudioChunk))


def test_voice_and_reset(engine: OmniEdge, capsys: pytest.CaptureFixture[str]) -> None:
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    chat = Chat(engine, session, [], max_new_tokens=6)
    chat.run(["/voice Ethan", "/voice"])
    assert session.voice == "Ethan"
    assert "Chelsie, Ethan; now Ethan" in capsys.readouterr().err
    chat.run(["Hello."])
    first = capsys.readouterr().out
    chat.run(["Hello."])
    assert session.offset > 0
    capsys.readouterr()
    chat.run(["/reset", "Hello."])
    assert capsys.readouterr().out == first


def test_in_a_pipe_the_first_error_ends_it(bundle: Path) -> None:
    for line, code, part in (
        ("/dance", 2, "/help"),
        ("/voice Nobody", 2, "Chelsie, Ethan"),
        ("/image", 2, "needs the name"),
        ("/audio nothing.wav", 4, "nothing.wav"),
        ("/save", 2, "talk.txt"),
        ("/save reply.wav", 2, "no speech"),
        ("/save no/such/talk.txt", 2, "cannot be written"),
    ):
        result = run_edge("chat", "-m", bundle, "--no-speech", *OPTIONS, input=f"{line}\nHello.\n")
        assert (result.exit_code, result.stdout) == (code, ""), line
        assert part in result.stderr
        assert "Traceback" not in result.stderr


def test_a_chat_in_a_terminal_continues_after_errors(engine: OmniEdge, capsys: pytest.CaptureFixture[str]) -> None:
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    Chat(engine, session, [], max_new_tokens=6, continue_after_errors=True).run(
        ["/dance", "/help", "Hello.", "/quit", "Never."]
    )
    printed = capsys.readouterr()
    assert "There is no /dance" in printed.err
    assert "/audio FILE" in printed.err
    assert session.offset > 0


class Terminal:
    """`omni-edge chat` in a pseudo-terminal."""

    def __init__(self, *arguments: object) -> None:
        pty = pytest.importorskip("pty", reason="needs a POSIX terminal")
        self.master, slave = pty.openpty()
        # stdin becomes the controlling terminal, so that Ctrl-C typed into it is a signal.
        program = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from omni_cli.app import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "chat", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.unread = ""

    def until(self, text: str) -> None:
        """Reads until `text` has come; what comes after it is for the next call."""
        while text not in self.unread:
            self._read()
        self.unread = self.unread.partition(text)[2]

    def some(self, count: int) -> None:
        """Reads until `count` characters have come."""
        while len(self.unread) < count:
            self._read()

    def _read(self) -> None:
        assert select.select([self.master], [], [], 60)[0], self.unread
        self.unread += os.read(self.master, 4096).decode("utf-8", "replace")

    def leave(self) -> int:
        """Reads to the end (the program's last output would block otherwise); returns the exit code."""
        with suppress(OSError):
            while select.select([self.master], [], [], 60)[0] and os.read(self.master, 4096):
                pass
        return self.process.wait(30)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.fixture
def terminal(bundle: Path) -> Iterator[Terminal]:
    # A penalty far below 1 rewards repetition: the reply never ends by itself.
    endless = ("--temp", 0, "--repeat-penalty", "1e-6", "--max-new-tokens", 100_000, "--context", 32_000)
    terminal = Terminal("-m", bundle, "--no-speech", *endless)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.master)


def test_ctrl_c_cuts_a_reply_short_and_keeps_the_conversation(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type("Hello.\n")
    terminal.until("Hello.\r\n")
    terminal.some(30)
    terminal.type("\x03")
    terminal.until("> ")
    terminal.type("/voice\n")
    terminal.until("now Chelsie")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.leave() == 0


def test_ctrl_c_at_the_prompt_leaves(terminal: Terminal) -> None:
    terminal.until("> ")
    # Python's input() sleeps through a signal that comes in the instant between its prompt and its wait.
    while terminal.process.poll() is None:
        terminal.type("\x03")
        with suppress(subprocess.TimeoutExpired):
            terminal.process.wait(5)
    assert terminal.leave() == 130
