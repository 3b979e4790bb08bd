"""An independent ear for nano's speech: pocketsphinx with its US English model and a grammar of the world's replies.

Neither was trained on anything that nano was trained on. No torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano import world
from omni_edge.audio.resample import ResampleState, resampler

Samples = NDArray[np.float32]
_RATE = 16_000
_SILENCE_S = 0.2
# Of the room's noise, the same for every sound.
_SEED = 17


class Recognizer:
    """pocketsphinx with the world's grammar; what it hears does not depend on what it heard before.

    Raises:
        ModuleNotFoundError: pocketsphinx is missing: `pip install '.[nano]'`.
    """

    def __init__(self) -> None:
        import pocketsphinx  # noqa: PLC0415 (training does without it)

        # Cepstra are normalized by each sound's own mean; by default the mean of the sounds before is carried along.
        self._decoder: Any = pocketsphinx.Decoder(lm=None, loglevel="FATAL", samprate=_RATE, cmn="batch")
        self._decoder.add_jsgf_string("replies", world.grammar())
        self._decoder.activate_search("replies")

    def words(self, samples: Samples, rate: int) -> list[str]:
        """What was said in float32 [n] at `rate`; empty where nothing fits."""
        quiet = np.zeros(int(_SILENCE_S * rate), np.float32)
        wide = resampler(rate, _RATE).step(np.concatenate([quiet, samples, quiet]), ResampleState(), end=True)
        assert wide is not None
        # Digital silence has no logarithm; a recognizer expects a room.
        room = wide + np.random.default_rng(_SEED).normal(0, 3e-4, len(wide))
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(room, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return heard.hypstr.split() if heard else []


def word_errors(said: list[str], heard: list[str]) -> int:
    """Least number of words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for index, word in enumerate(said, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(heard, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1]
