"""`omni-edge chat` that listens, with virtual devices: what it says, does on keys, and keeps."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_cli import echo_canceller
from omni_cli.commands import chat, chat_listening
from omni_edge import Duplex, OmniEdge, Sampling
from support.commands import run_edge
from support.portaudio import Stream, VirtualPortAudio, device
from support.spoken import DATA, LoudnessDetector, question, silence
from support.turns import answer

OPTIONS = ("--temp", "0", "--talker-temp", "0", "--max-new-tokens", "6", "--max-codec-tokens", "40")


class TypedKeys:
    """Stands for the terminal's keys; the test presses them."""

    pressed: Callable[[str], None]
    ready = threading.Event()

    def __init__(self, pressed: Callable[[str], None]) -> None:
        type(self).pressed = staticmethod(pressed)

    def __enter__(self) -> TypedKeys:
        self.ready.set()
        return self

    def __exit__(self, *unused: object) -> None:
        self.ready.clear()

    def line(self, prompt: str) -> str:
        return "Hello."


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> VirtualPortAudio:
    module = VirtualPortAudio([device("Mic", inputs=1, rate=16_000), device("Loudspeaker", outputs=2)])
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(chat, "_interactive", lambda: True)
    monkeypatch.setattr(chat_listening, "Keys", TypedKeys)
    monkeypatch.setattr(chat_listening, "Duplex", Recorded)
    monkeypatch.setattr(chat_listening, "VoiceDetector", LoudnessDetector)
    # What is installed makes no difference here: `auto` takes half duplex.
    monkeypatch.setattr(echo_canceller, "installed", lambda: False)
    return module


@pytest.fixture
def user(portaudio: VirtualPortAudio) -> Iterator[Callable[[Callable[[Stream, Stream], None]], None]]:
    """Runs what a user does, on a thread of its own, as soon as the conversation listens: (microphone, loudspeaker)."""
    threads: list[threading.Thread] = []
    failed: list[BaseException] = []

    def start(act: Callable[[Stream, Stream], None]) -> None:
        def run() -> None:
            try:
                assert TypedKeys.ready.wait(120)
                microphone = next(each for each in portaudio.streams if "blocksize" in each.settings)
                speaker = next((each for each in portaudio.streams if each is not microphone), microphone)
                act(microphone, speaker)
            except BaseException as error:
                failed.append(error)
            finally:
                TypedKeys.pressed("q")

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(120)
    assert failed == []


def say(microphone: Stream, samples: np.ndarray) -> None:
    for start in range(0, samples.size - 319, 320):
        microphone.feed(samples[start : start + 320])


class Recorded(Duplex):
    """A live conversation that the test can look at."""

    last: Duplex
    seen = threading.Event()

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        type(self).last = self
        self.seen.clear()

    def push_camera(self, *frame: Any) -> None:
        super().push_camera(*frame)
        self.seen.set()


def play(microphone: Stream, speaker: Stream, whole: bool = True) -> None:
    """Plays, and records silence, until something or the `whole` reply was heard."""
    heard = False
    for _ in range(30_000):
        heard = bool(speaker.pull(480).any()) or heard
        microphone.feed(silence(0.02))
        if heard and not (whole and Recorded.last.answering):
            return
        threading.Event().wait(0.002)
    raise AssertionError("nothing came")


def test_a_spoken_question_is_answered_by_voice_and_text(
    bundle: Path, engine: OmniEdge, user: Callable[..., None], tmp_path: Path
) -> None:
    def act(microphone: Stream, speaker: Stream) -> None:
        say(microphone, np.concatenate([question(), silence(0.6)]))
        play(microphone, speaker)

    user(act)
    saved = tmp_path / "talk.omni"
    folder = tmp_path / "replies"
    result = run_edge("chat", "-m", bundle, *OPTIONS, "--seed", 1, "--save", saved, "-o", folder)
    assert result.exit_code == 0, result.output
    keys, first, *states = result.stderr.splitlines()
    assert first == (
        "Listening on 'Mic', speaking on 'Loudspeaker'; the microphone is muted meanwhile (--echo off with headphones)."
    )
    assert keys.startswith("Keys: space interrupts")
    assert states[:2] == ["[listening]", "[thinking]"]
    assert "first sound" in states[2]
    assert "underruns" in states[2]
    assert result.stdout.strip()
    assert (folder / "reply-001.wav").stat().st_size > 1000
    assert engine.resume(saved).offset > 40


def test_a_typed_line_and_push_to_talk(bundle: Path, user: Callable[..., None]) -> None:
    def act(microphone: Stream, speaker: Stream) -> None:
        TypedKeys.pressed("t")
        play(microphone, speaker)
        TypedKeys.pressed(" ")
        before = Recorded.last.seconds
        say(microphone, question())
        # The microphone's own thread hands the blocks on.
        while Recorded.last.seconds < before + 1.5:
            threading.Event().wait(0.01)
        TypedKeys.pressed(" ")
        play(microphone, speaker)

    user(act)
    result = run_edge("chat", "-m", bundle, *OPTIONS, "--push-to-talk", "--echo", "off")
    assert result.exit_code == 0, result.output
    assert "speak to interrupt" in result.stderr
    assert "space begins and ends your turn" in result.stderr
    assert result.stderr.count("first text") == 2
    assert result.stderr.count("[listening]") == 1


def test_the_space_key_interrupts_and_the_microphone_can_be_muted(bundle: Path, user: Callable[..., None]) -> None:
    def act(microphone: Stream, speaker: Stream) -> None:
        TypedKeys.pressed("m")
        say(microphone, np.concatenate([question(), silence(0.6)]))
        while Recorded.last.seconds < 2:
            threading.Event().wait(0.01)
        TypedKeys.pressed("m")
        TypedKeys.pressed("t")
        play(microphone, speaker, whole=False)
        TypedKeys.pressed(" ")
        assert not speaker.pull(480).any()

    user(act)
    result = run_edge("chat", "-m", bundle, *OPTIONS[:4], "--max-codec-tokens", 200)
    assert result.exit_code == 0, result.output
    assert "[microphone muted; m again: on]" in result.stderr
    assert "[listening]" not in result.stderr
    assert "[interrupted; heard: " in result.stderr


def test_a_video_file_is_the_camera_and_v_switches_it(bundle: Path, user: Callable[..., None]) -> None:
    def act(microphone: Stream, speaker: Stream) -> None:
        assert Recorded.seen.wait(60)
        TypedKeys.pressed("t")
        play(microphone, speaker)
        TypedKeys.pressed("v")
        # A picture is shown for 3 s of the microphone.
        before = Recorded.last.seconds
        say(microphone, silence(4))
        while Recorded.last.seconds < before + 3.5:
            threading.Event().wait(0.01)
        TypedKeys.pressed("t")
        play(microphone, speaker)

    user(act)
    result = run_edge("chat", "-m", bundle, *OPTIONS, "--camera", DATA / "clip.mp4")
    assert result.exit_code == 0, result.output
    assert "[camera on]" in result.stderr
    assert "[camera off; v again: on]" in result.stderr
    prompts = [int(number) for number in re.findall(r"context (\d+) of", result.stderr)]
    # 120 x 160 pixels take 24 positions, which the second turn does not.
    assert 2 * prompts[0] - prompts[1] >= 20


def test_without_a_microphone_turns_are_typed(
    bundle: Path, portaudio: VirtualPortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    portaudio.devices = [device("Nothing"), device("Loudspeaker", outputs=2)]
    monkeypatch.setattr(chat, "typed_lines", lambda: iter(["Hello."]))
    result = run_edge("chat", "-m", bundle, *OPTIONS, "--no-speech")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Not listening: There is no microphone.")
    assert result.stdout.strip()
    for options in (["--device-in", "Mic"], ["--push-to-talk"], ["--camera", "0"]):
        result = run_edge("chat", "-m", bundle, *options)
        assert result.exit_code == 5
        assert "error: There is no microphone" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--typed", "--push-to-talk"], "--typed does not listen"),
        (["--typed", "--smart-turn", "x.onnx"], "--typed does not listen"),
        (["--push-to-talk", "--smart-turn", "x.onnx"], "With --push-to-talk the key ends your turn"),
        (["--typed", "--camera", "0"], "--typed does not listen"),
        (["--push-to-talk"], "Listening needs a terminal for its keys"),
        (["--resume", "talk.omni", "--seed", "3"], "--resume continues with the settings of the file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: list[str], message: str) -> None:
    result = run_edge("chat", *options, input="Hello.")
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr


def test_a_conversation_is_saved_and_taken_up_again(bundle: Path, engine: OmniEdge, tmp_path: Path) -> None:
    saved = tmp_path / "talk.omni"
    greedy = (*OPTIONS[:2], "--max-new-tokens", 6, "--no-speech")
    result = run_edge("chat", "-m", bundle, *greedy, "--save", saved, input="Hello.\n")
    assert result.exit_code == 0, result.output
    result = run_edge("chat", "-m", bundle, "--max-new-tokens", 6, "--resume", saved, input="And again?\n")
    assert result.exit_code == 0, result.output
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    session.push("Hello.")
    answer(session, 6)
    session.push("And again?")
    assert result.stdout == answer(session, 6)[0].text + "\n"
