"""An independent recognizer of nano's speech: pocketsphinx, its US English model, a grammar of the world's replies.

It shares no training data with nano. It needs no torch.
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
# Seeds the background noise, which is the same for every sound.
_SEED = 17


class Recognizer:
    """pocketsphinx with the world's grammar; each sound is recognized independently of the ones before.

    Raises:
        ModuleNotFoundError: pocketsphinx is missing: `pip install '.[nano]'`.
    """

    def __init__(self) -> None:
        import pocketsphinx  # noqa: PLC0415 (training does not need it)

        # Cepstra are normalized by each sound's own mean; the default carries the mean of earlier sounds over.
        self._decoder: Any = pocketsphinx.Decoder(lm=None, loglevel="FATAL", samprate=_RATE, cmn="batch")
        self._decoder.add_jsgf_string("replies", world.grammar())
        self._decoder.activate_search("replies")

    def words(self, samples: Samples, rate: int) -> list[str]:
        """The words in `samples`, float32 [n] at `rate`; empty where no reply of the grammar fits."""
        quiet = np.zeros(int(_SILENCE_S * rate), np.float32)
        wide = resampler(rate, _RATE).step(np.concatenate([quiet, samples, quiet]), ResampleState(), end=True)
        assert wide is not None
        # Digital silence has no logarithm, so faint noise is added.
        noisy = wide + np.random.default_rng(_SEED).normal(0, 3e-4, len(wide))
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(noisy, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr.split() if hypothesis else []
