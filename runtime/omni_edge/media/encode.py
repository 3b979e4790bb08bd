"""Sound into compressed formats, as a stream: samples in, bytes of a file out. Needs PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError

_INT16_MAX = 32767


@dataclass(frozen=True)
class Encoding:
    """How FFmpeg writes a format.

    Attributes:
        container: its name of the file format.
        codec: its name of the encoder.
        rate: samples per second that the encoder needs; None: any.
    """

    container: str
    codec: str
    rate: int | None = None


ENCODINGS = {
    "mp3": Encoding("mp3", "libmp3lame"),
    "opus": Encoding("ogg", "libopus", 48_000),
    "aac": Encoding("adts", "aac"),
    "flac": Encoding("flac", "flac"),
}


class SoundEncoder:
    """One sound on its way into a file.

    Args:
        name: one of `ENCODINGS`.
        rate: samples per second.

    Raises:
        UsageError: PyAV is not installed, or was built without the encoder.
    """

    def __init__(self, name: str, rate: int) -> None:
        try:
            import av  # noqa: PLC0415
        except ImportError:
            raise UsageError(f"Sound as {name} needs PyAV. Install it: pip install 'omni-edge[media]'") from None
        encoding = ENCODINGS[name]
        self._frames, self._rate = av, rate
        self._file = _Growing()
        self._container: Any = av.open(self._file, "w", format=encoding.container)
        try:
            self._stream: Any = self._container.add_stream(encoding.codec, rate=encoding.rate or rate)
        except (av.FFmpegError, ValueError):
            raise UsageError(f"This FFmpeg cannot write {name}. Ask for wav or pcm.") from None
        self._stream.layout = "mono"

    def push(self, samples: NDArray[np.float32]) -> bytes:
        """The bytes that are complete after the next samples, float32 [n] in [-1, 1]."""
        values = np.rint(np.clip(samples, -1.0, 1.0) * _INT16_MAX).astype(np.int16)
        frame = self._frames.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
        frame.sample_rate = self._rate
        self._container.mux(self._stream.encode(frame))
        return self._file.take()

    def close(self) -> bytes:
        """The last bytes."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.take()


class _Growing(BytesIO):
    """A file that is handed out as it grows; it cannot be rewound, and so holds only what was not taken."""

    def seekable(self) -> bool:
        return False

    def take(self) -> bytes:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        return data
