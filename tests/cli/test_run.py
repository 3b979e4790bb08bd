"""`omni-edge run`: the reply on stdout, the speech in a file, the events as JSON."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from omni_edge import AudioChunk, OmniEdge, Sampling, TurnDone
from omni_edge.media.load import load_audio, load_image, load_video
from support.commands import GREEDY, SHORT, events, run_edge

PROMPT = "Why is the sky blue?"


def read_wav(path: Path) -> tuple[int, bytes]:
    with wave.open(str(path)) as file:
        return file.getframerate(), file.readframes(file.getnframes())


def test_the_reply_streams_to_stdout(bundle: Path, engine: OmniEdge) -> None:
    result = run_edge("run", PROMPT, "-m", bundle, "--temp", 0, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.output
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    session.push(PROMPT)
    done = list(session.reply(max_new_tokens=6))[-1]
    assert isinstance(done, TurnDone)
    assert result.stdout == done.text + "\n"
    assert result.stderr == ""


def test_json_lines_are_the_realtime_events(bundle: Path, tmp_path: Path) -> None:
    wav = tmp_path / "reply.wav"
    lines = events(run_edge("run", PROMPT, "-m", bundle, *GREEDY, *SHORT, "--seed", 1, "--json", "-o", wav))
    kinds = [line["type"] for line in lines]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.done"
    assert set(kinds[1:-1]) == {"response.output_text.delta", "response.output_audio.delta"}
    done = lines[-1]
    assert {"text", "token_ids", "codec_tokens", "prompt_tokens", "metrics", "finish_reason"} < done.keys()
    text = [line for line in lines if line["type"] == "response.output_text.delta"]
    assert "".join(line["delta"] for line in text) == done["text"]
    drawn = [token for line in text for token in line["token_ids"]]
    assert drawn == done["token_ids"][: len(drawn)]
    assert len(done["token_ids"]) <= 6
    assert 0 < len(done["codec_tokens"]) <= 40
    audio = [line for line in lines if line["type"] == "response.output_audio.delta"]
    starts = np.cumsum([0, *(line["samples"] for line in audio)]).tolist()
    assert [line["start"] for line in audio] == starts[:-1]
    pcm = b"".join(base64.b64decode(line["delta"]) for line in audio)
    assert read_wav(wav) == (24_000, pcm)
    assert starts[-1] * 2 == len(pcm)
    assert done["metrics"]["audio"] == pytest.approx(starts[-1] / 24_000)
    assert done["metrics"]["ttfa"] > 0


def test_greedy_is_reproducible_without_a_seed(bundle: Path) -> None:
    first, second = (events(run_edge("run", PROMPT, "-m", bundle, *GREEDY, *SHORT, "--json"))[-1] for _ in range(2))
    for name in ("text", "token_ids", "codec_tokens", "prompt_tokens"):
        assert first[name] == second[name]


def test_a_seed_makes_everything_reproducible(bundle: Path, tmp_path: Path) -> None:
    def once(seed: int, name: str) -> tuple[list[int], list[int], bytes]:
        wav = tmp_path / name
        sampled = ("--temp", "20", "--top-p", "1", "--talker-temp", "1")
        arguments = ("run", PROMPT, "-m", bundle, *sampled, *SHORT, "--seed", seed, "--json", "-o", wav)
        done = events(run_edge(*arguments))[-1]
        return done["token_ids"], done["codec_tokens"], wav.read_bytes()

    first, again, other = once(7, "a.wav"), once(7, "b.wav"), once(8, "c.wav")
    assert first == again
    assert first[0] != other[0]
    assert first[2] != other[2]


@pytest.mark.parametrize("dash", [[], ["-"]])
def test_stdin_is_the_prompt(bundle: Path, dash: list[str]) -> None:
    options = ("-m", bundle, *GREEDY, *SHORT, "--no-speech", "--json")
    piped = events(run_edge("run", *dash, *options, input=PROMPT + "\n"))[-1]
    typed = events(run_edge("run", PROMPT, *options))[-1]
    assert piped["prompt_tokens"] == typed["prompt_tokens"]
    assert piped["token_ids"] == typed["token_ids"]


@pytest.mark.parametrize(
    "order", [("photo.jpg", "question.wav", "drawing.png"), ("question.wav", "drawing.png", "photo.jpg")]
)
def test_media_stand_in_command_line_order(bundle: Path, engine: OmniEdge, files: Path, order: tuple[str, ...]) -> None:
    options: list[object] = []
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    for name in order:
        sound = name.endswith(".wav")
        options += ["--audio" if sound else "--image", files / name]
        session.push(load_audio(files / name) if sound else load_image(files / name))
    session.push("Compare.")
    expected = list(session.reply(max_new_tokens=6))[-1]
    assert isinstance(expected, TurnDone)
    result = run_edge("run", "Compare.", *options, "-m", bundle, "--temp", 0, *SHORT, "--no-speech", "--json")
    done = events(result)[-1]
    assert done["token_ids"] == list(expected.token_ids)
    assert done["prompt_tokens"] == expected.prompt_tokens


@pytest.mark.parametrize("sound", [True, False])
def test_a_video_comes_with_its_sound_unless_told_otherwise(
    bundle: Path, engine: OmniEdge, files: Path, sound: bool
) -> None:
    session = engine.session(speech=False, sampling=Sampling(temperature=0))
    session.push(load_video(files / "clip.mp4", engine.manifest.vision, sound=sound))
    expected = list(session.reply(max_new_tokens=6))[-1]
    assert isinstance(expected, TurnDone)
    options = [] if sound else ["--no-audio-in-video"]
    arguments = ("--video", files / "clip.mp4", *options, "-m", bundle, "--temp", 0, *SHORT, "--no-speech", "--json")
    done = events(run_edge("run", *arguments))[-1]
    assert done["prompt_tokens"] == expected.prompt_tokens
    assert done["token_ids"] == list(expected.token_ids)


def test_voice_system_and_limits_reach_the_session(bundle: Path, engine: OmniEdge) -> None:
    session = engine.session(
        voice="Ethan",
        system="Be brief.",
        seed=3,
        talker_sampling=Sampling(temperature=0),
        sampling=Sampling(temperature=0),
    )
    session.push(PROMPT)
    expected = list(session.reply(max_new_tokens=3, max_codec_tokens=30))
    arguments = ("--voice", "Ethan", "--system", "Be brief.", "--seed", 3, *GREEDY, "--threads", 1, "--context", 4096)
    limits = ("--max-new-tokens", 3, "--max-codec-tokens", 30)
    lines = events(run_edge("run", PROMPT, "-m", bundle, *arguments, *limits, "--json"))
    done = expected[-1]
    assert isinstance(done, TurnDone)
    assert lines[-1]["token_ids"] == list(done.token_ids)
    assert lines[-1]["codec_tokens"] == list(done.codec_tokens)
    chunks = [event for event in expected if isinstance(event, AudioChunk)]
    sizes = [line["samples"] for line in lines if line["type"] == "response.output_audio.delta"]
    assert sizes == [len(chunk.samples) for chunk in chunks]


def test_a_mute_bundle_answers_in_text(mute_bundle: Path) -> None:
    for options in ([], ["--no-speech"]):
        done = events(run_edge("run", PROMPT, "-m", mute_bundle, *GREEDY, *SHORT, *options, "--json"))[-1]
        assert done["codec_tokens"] == []
    assert run_edge("run", PROMPT, "-m", mute_bundle, *SHORT).exit_code == 0


def test_a_reply_cut_by_the_context_says_so(bundle: Path) -> None:
    probe = events(run_edge("run", PROMPT, "-m", bundle, *GREEDY, "--no-speech", "--max-new-tokens", 1, "--json"))[-1]
    context = probe["prompt_tokens"] + 30
    sampled = ("--temp", "0", "--repeat-penalty", "1")
    result = run_edge("run", PROMPT, "-m", bundle, *sampled, "--no-speech", "--context", context, "--json")
    assert result.exit_code == 0, result.output
    assert '"finish_reason": "context_full"' in result.stdout
    assert "the context is full" in result.stderr


def test_pipes_are_utf8_whatever_the_locale(bundle: Path) -> None:
    program = "from omni_cli.app import main; main()"
    arguments = ["run", "-m", str(bundle), "--no-speech", "--json", *GREEDY, "--max-new-tokens", "30"]
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, *arguments],
            input="为什么天是蓝的？".encode(),
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        ).stdout.splitlines()[-1]
        for encoding in ("utf-8", "ascii")
    ]
    replies = [json.loads(output.decode("utf-8")) for output in outputs]
    assert replies[0]["text"] == replies[1]["text"]
    assert replies[0]["prompt_tokens"] == replies[1]["prompt_tokens"]
