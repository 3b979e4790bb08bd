"""Running the commands in this process, and media files made with public libraries."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
from typer.testing import CliRunner, Result

from omni_cli import app as edge
from omni_cli.commands import evaluate, export

# Enough for a few blocks of speech, little enough for a test.
SHORT = ("--max-new-tokens", "6", "--max-codec-tokens", "40")
GREEDY = ("--temp", "0", "--talker-temp", "0")


def run_edge(*arguments: object, input: str | bytes | None = None) -> Result:  # noqa: A002 -- the runner's name
    """`omni-edge` with the given words; `input` is what a pipe would bring."""
    return CliRunner().invoke(edge.app, [str(argument) for argument in arguments], input=input)


def run_export(*arguments: object) -> Result:
    """`omni-export` with the given words."""
    words = [str(argument) for argument in arguments]
    for name, app in (("verify", export.verify_app), ("evaluate", evaluate.evaluate_app)):
        if words[:1] == [name]:
            return CliRunner().invoke(app, words[1:], prog_name=f"omni-export {name}")
    return CliRunner().invoke(export.export_app, words, prog_name="omni-export")


def events(result: Result) -> list[dict[str, Any]]:
    """The JSON lines of a command that succeeded."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """Mono 16-bit PCM from float samples in [-1, 1]."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def tone(seconds: float, hertz: float = 440.0, rate: int = 16_000) -> np.ndarray:
    """A quiet sine."""
    return 0.3 * np.sin(2 * np.pi * hertz / rate * np.arange(int(seconds * rate)))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured gradients, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([(rows * 3 + seed * 40) % 256, (columns * 2) % 256, (rows + columns) % 256], -1).astype(np.uint8)


def write_video(path: Path, seconds: float = 2.0) -> Path:
    """An mp4 of 8 frames a second, with a tone of the same length."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        for index in range(int(8 * seconds)):
            frame = av.VideoFrame.from_ndarray(picture(48, 64, index), format="rgb24")
            container.mux(video.encode(frame))
        samples = (tone(seconds) * 32767).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        sound.sample_rate = 16_000
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path
