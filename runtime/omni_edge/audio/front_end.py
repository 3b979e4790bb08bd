"""Sound to the blocks of the audio encoder: resampling, log-mel, cutting, normalising; live and whole by one path.

The clip maximum. The reference lifts everything that lies more than 8 decades below the loudest log-mel value of the
WHOLE clip. A whole clip (`AudioFrontEnd.clip`) is treated the same, and equals the reference. The rest of a live sound
is not there yet: each of its blocks uses the largest value from the start of the sound up to the end of that block,
and the last block that of the whole sound. The rule depends on the sound alone, not on the pieces it arrives in. It
differs from the reference only in values that a later, louder block would have lifted, never in louder ones. A sound
of one block (2 s) is equal to the reference. `docs/streaming.md` has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.mel import LogMel, LogMelState, normalize
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.bundle.manifest import AudioSection
from omni_edge.errors import MediaError


@dataclass(frozen=True)
class AudioBlock:
    """One input of the audio encoder.

    Attributes:
        frames: float32 [n_mels, T], normalised; T is the manifest's `block_frames`, or less at the end of the sound.
        index: 0 for the first block of the sound.
        final: True for the last block of a sound. A sound whose remainder is too short for a token has no final block.
    """

    frames: NDArray[np.float32]
    index: int
    final: bool

    @property
    def tokens(self) -> int:
        """Audio tokens that the encoder makes of this block."""
        return audio_tokens(self.frames.shape[1])


@dataclass
class AudioFrontEndState:
    """The state of one sound.

    Attributes:
        rate: samples per second of the input.
        resample: samples that are not resampled yet.
        mel: samples that are not in a frame yet.
        loudest: maximum log-mel value that blocks are normalised by; a whole clip starts with its own.
        frames: log10 power that is not in a block yet, float32 [n_mels, n].
        blocks: blocks returned so far.
        ended: whether the sound is complete.
    """

    rate: int
    resample: ResampleState = field(default_factory=ResampleState)
    mel: LogMelState = field(default_factory=LogMelState)
    loudest: float = -np.inf
    frames: NDArray[np.float32] | None = None
    blocks: int = 0
    ended: bool = False

    def reset(self) -> None:
        """Back to the start of a sound of the same rate."""
        self.resample.reset()
        self.mel.reset()
        self.loudest = -np.inf
        self.frames = None
        self.blocks = 0
        self.ended = False

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.resample.nbytes + self.mel.nbytes + (0 if self.frames is None else self.frames.nbytes)


class AudioFrontEnd:
    """Cuts sound into blocks for the audio encoder; immutable, shared by any number of sounds."""

    def __init__(self, section: AudioSection) -> None:
        self._section = section
        self._log_mel = LogMel(section)

    def state(self, rate: int | None = None) -> AudioFrontEndState:
        """A fresh sound of `rate` samples per second (None: the encoder's own rate).

        Raises:
            MediaError: the rate is not one of a sound.
        """
        return AudioFrontEndState(self._section.sample_rate if rate is None else validate_rate(rate))

    def step(self, samples: NDArray[Any], state: AudioFrontEndState, end: bool = False) -> list[AudioBlock]:
        """Takes the next samples of a live sound and returns the blocks that are now complete.

        Args:
            samples: float or int16, [n] or [n, channels], at `state.rate`; may be empty.
            state: the sound; unchanged where the samples are refused.
            end: the sound is complete; its remainder is returned as a shorter block. One or two left-over frames make
                no token and are dropped, so that the tokens add up to the reference's count.

        Raises:
            MediaError: the samples are not a sound; with `end`, the sound is empty or too short for one audio token.
        """
        frames = self._frames(validate_pcm(samples), state, end)
        if end:
            self._check_length(state)
        return self._cut(frames, state, end)

    def clip(self, samples: NDArray[Any], rate: int | None = None) -> list[AudioBlock]:
        """All blocks of a whole sound, normalised by its maximum: equal to the reference.

        Raises:
            MediaError: the samples or the rate are not those of a sound, or it is too short for one audio token.
        """
        state = self.state(rate)
        frames = self._frames(validate_pcm(samples), state, end=True)
        self._check_length(state)
        state.loudest = state.mel.peak
        return self._cut(frames, state, end=True)

    def tokens(self, samples: int, rate: int) -> int:
        """Audio tokens of a sound of `samples` samples at `rate`; 0: it is too short for one."""
        section = self._section
        converted = -(-samples * section.sample_rate // validate_rate(rate))
        return audio_tokens(-(-converted // section.hop_length))

    def _frames(self, samples: NDArray[np.float32], state: AudioFrontEndState, end: bool) -> NDArray[np.float32] | None:
        state.ended = end
        target = self._section.sample_rate
        converted = resampler(state.rate, target).step(samples, state.resample, end)
        return self._log_mel.step(np.zeros(0, np.float32) if converted is None else converted, state.mel, end)

    def _check_length(self, state: AudioFrontEndState) -> None:
        if not state.mel.received:
            raise MediaError("The sound is empty. Record or choose one that holds samples.")
        if not audio_tokens(state.mel.frames):
            raise MediaError(
                f"The sound lasts {state.mel.received / self._section.sample_rate * 1000:.1f} ms, too short for one "
                "audio token. Use a longer one."
            )

    def _cut(self, frames: NDArray[np.float32] | None, state: AudioFrontEndState, end: bool) -> list[AudioBlock]:
        held = [part for part in (state.frames, frames) if part is not None]
        waiting = np.concatenate(held, axis=1) if held else np.zeros((self._section.n_mels, 0), np.float32)
        size = self._section.block_frames
        blocks: list[AudioBlock] = []
        start = 0
        while waiting.shape[1] - start >= (1 if end else size):
            cut = waiting[:, start : start + size]
            start += size
            last = end and start >= waiting.shape[1]
            state.loudest = max(state.loudest, state.mel.peak if last else float(cut.max()))
            if audio_tokens(cut.shape[1]):
                blocks.append(AudioBlock(normalize(cut, state.loudest), state.blocks, last))
                state.blocks += 1
        state.frames = waiting[:, start:].copy()
        return blocks


def audio_tokens(frames: int) -> int:
    """Audio tokens of `frames` mel frames: a convolution halves them (rounding up), pooling halves again (down).

    The sum over full blocks and a remainder equals the reference's count of the clip.
    """
    return (frames + 1) // 2 // 2
