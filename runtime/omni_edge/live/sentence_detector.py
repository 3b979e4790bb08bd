"""Whether a pause ends what the user wants to say, from the melody of the speech: Smart Turn v3.2 (BSD-2 licence).

Its ONNX file is none of this project's parts; it comes with the package pipecat-ai, for instance. Source of its input:
`LocalSmartTurnAnalyzerV3` of that package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.mel import LogMel, LogMelState, normalize
from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import AudioSection
from omni_edge.errors import BundleError, UsageError
from omni_edge.live.voice_detector import VOICE_RATE

# Whisper's frames: 25 ms each, 100 a second.
_N_FFT, _HOP = 400, 160
_INPUT = "input_features"
_COMPLETE = 0.5
# Keeps the division of silence by its own variance finite.
_SMALLEST_VARIANCE = 1e-7


class SentenceDetector:
    """Smart Turn; immutable, and a `SentenceCompleteness` of `Hearing`.

    Args:
        path: the ONNX file for CPUs.

    Raises:
        UsageError: the file is missing or another model.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"{path} does not exist. Name Smart Turn's ONNX file (smart-turn-v3.2-cpu.onnx).")
        try:
            self._graph = Graph(path, threads=1, role="sentence_detector")
        except BundleError as error:
            raise UsageError(f"{path} is no model of sentences ({error}). Name Smart Turn's ONNX file.") from None
        spec = self._graph.inputs.get(_INPUT)
        if spec is None or len(spec.shape) != 3 or spec.shape[1] is None or spec.shape[2] is None:
            raise UsageError(f"{path} is another model. Name Smart Turn's ONNX file (smart-turn-v3.2-cpu.onnx).")
        self._frames = spec.shape[2]
        self._log_mel = LogMel(AudioSection(VOICE_RATE, _N_FFT, _HOP, spec.shape[1], self._frames))

    def __call__(self, samples: NDArray[np.float32]) -> bool:
        """Whether the speech, float32 [n] at 16 kHz, sounds complete."""
        return self.probability(samples) > _COMPLETE

    def probability(self, samples: NDArray[np.float32]) -> float:
        """The probability that the speech, float32 [n] at 16 kHz, is complete; its last 8 s count."""
        (output,) = self._graph.run({_INPUT: self.features(samples)[None]})
        return float(np.ravel(output)[0])

    def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's input, float32 [mels, frames]: silence in front, variance one, log-mel as Whisper's."""
        count = self._frames * _HOP
        last = samples[-count:]
        padded = np.concatenate([np.zeros(count - last.size, np.float32), last])
        scaled = (padded - padded.mean()) / np.sqrt(padded.var() + _SMALLEST_VARIANCE)
        log_power = self._log_mel.step(scaled.astype(np.float32), LogMelState(), end=True)
        assert log_power is not None  # 8 s are more than a frame
        return normalize(log_power, float(log_power.max()))
