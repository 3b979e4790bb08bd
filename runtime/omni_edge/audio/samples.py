"""What counts as sound: one place that checks samples and rates before anything is computed from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import MediaError

# Decoders and resamplers overshoot [-1, 1] by a little; far beyond it the numbers are integers stored as floats.
_LOUDEST_SAMPLE = 16.0
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 384_000
_INT16_SCALE = np.float32(1.0 / 32768.0)


def validate_pcm(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples as mono float32 in [-1, 1]; a stereo or multi-channel sound becomes the mean of its channels.

    Args:
        samples: float or int16, [n] or [n, channels]; n may be 0 (a live stream that has nothing new).

    Returns:
        float32 [n]; a mono float32 array is returned as it is, not copied.

    Raises:
        MediaError: another type or shape, a value that is no number, or values far outside of [-1, 1].
    """
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0):
        raise MediaError(f"A sound is an array [samples] or [samples, channels], not of shape {list(array.shape)}.")
    if array.dtype == np.int16:
        array = array.astype(np.float32) * _INT16_SCALE
    elif array.dtype.kind != "f":
        raise MediaError(f"Samples must be int16 or float in [-1, 1], not {array.dtype}. Convert them first.")
    mono: NDArray[np.float32] = (array if array.ndim == 1 else array.mean(axis=1)).astype(np.float32, copy=False)
    if mono.size:
        low, high = float(mono.min()), float(mono.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise MediaError("The sound holds values that are no numbers (NaN or infinite). Check where it comes from.")
        if max(-low, high) > _LOUDEST_SAMPLE:
            raise MediaError(
                f"The sound reaches {max(-low, high):.0f}, but float samples lie in [-1, 1]. "
                "If they are 16-bit integers stored as floats, divide them by 32768."
            )
    return mono


def validate_rate(rate: int) -> int:
    """A sample rate in Hz, as it came.

    Raises:
        MediaError: it is no integer, or none that a sound card or a file uses.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise MediaError(
            f"A sample rate is an integer from {_LOWEST_RATE} to {_HIGHEST_RATE} Hz, not {rate!r}. Name the right one."
        )
    return int(rate)
