"""token2wav: codec tokens in, samples out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.backend.loader import GraphLoader
from omni_edge.bundle.manifest import Token2WavSection, VoiceSection
from omni_edge.errors import BundleError, UsageError
from omni_edge.vocoder.bigvgan import DEFAULT_REACH, BigVgan, BigVganState
from omni_edge.vocoder.dit import Dit, DitState, TimeTableCache
from omni_edge.vocoder.noise import NoiseSource, seeded_noise
from omni_edge.vocoder.pacing import Pacing
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings

Array = NDArray[np.float32]


@dataclass
class VocoderState:
    """The state of one utterance.

    Attributes:
        dit: the state of the DiT.
        bigvgan: the state of BigVGAN.
    """

    dit: DitState
    bigvgan: BigVganState

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that grow or change during an utterance."""
        return self.dit.nbytes + self.bigvgan.nbytes

    @property
    def dit_seconds(self) -> float:
        """Time spent in the DiT since the start of the utterance, in seconds."""
        return self.dit.seconds

    @property
    def bigvgan_seconds(self) -> float:
        """Time spent in BigVGAN since the start of the utterance, in seconds."""
        return self.bigvgan.seconds

    def reset(self) -> None:
        """Returns to the start of an utterance with the same voice, settings and noise."""
        self.dit.reset()
        self.bigvgan.reset()


class Vocoder:
    """token2wav: `step(codec tokens, state) -> samples`. Its states belong to the caller.

    Args:
        dit: the `dit` graph.
        bigvgan: the `bigvgan` graph.
        tables: the DiT's modulation at the time points of each solver setting.
        section: sizes and rates.
        voices: speakers and their rows of `constants`.
        constants: float32 [rows, hidden_size], the speakers file.
        reach: share of BigVGAN's receptive field that it looks ahead, see `BigVgan`.

    Attributes:
        section: sizes and rates.
        sample_rate: samples per second.
        bigvgan: the second part.
        dit: the first part.
    """

    def __init__(
        self,
        dit: Graph,
        bigvgan: Graph,
        tables: TimeTableCache,
        section: Token2WavSection,
        *,
        voices: VoiceSection,
        constants: Array,
        reach: float = DEFAULT_REACH,
    ) -> None:
        self.section = section
        self.sample_rate = section.sample_rate
        self.bigvgan = BigVgan(bigvgan, section, reach)
        self.dit = Dit(dit, section, -(-self.bigvgan.look_ahead_frames // section.block_frames))
        self._tables = tables
        self._voices = voices
        self._constants = constants

    @classmethod
    def load(cls, loader: GraphLoader, tables: TimeTableCache | None = None, reach: float = DEFAULT_REACH) -> Vocoder:
        """Loads the vocoder of a bundle.

        Args:
            loader: loads the graphs of the bundle.
            tables: the time tables of a vocoder that was loaded before; None: new ones.
            reach: see `BigVgan`.

        Raises:
            BundleError: a text-only bundle, or a damaged speakers file.
        """
        bundle = loader.bundle
        manifest = bundle.manifest
        if manifest.token2wav is None or manifest.voices is None:
            raise BundleError(f"The bundle {bundle.path} has no vocoder. Export it again without --text-only.")
        try:
            constants = np.fromfile(bundle.file(manifest.voices.file), "<f4").astype(np.float32, copy=False)
        except OSError as error:
            raise BundleError(
                f"{manifest.voices.file} cannot be read ({error.strerror}). Copy the bundle again."
            ) from None
        rows = 1 + max(manifest.voices.unconditional_row, *(v.row for v in manifest.voices.speakers.values()))
        if constants.size % rows:
            raise BundleError(f"{manifest.voices.file} does not hold {rows} rows. Export the bundle again.")
        return cls(
            loader("dit"),
            loader("bigvgan"),
            tables if tables is not None else TimeTableCache(lambda: loader("dit_time")),
            manifest.token2wav,
            voices=manifest.voices,
            constants=constants.reshape(rows, -1),
            reach=reach,
        )

    def state(
        self,
        voice: str,
        seed: int | tuple[int, ...],
        solver: SolverSettings | None = None,
        schedule: ChunkSchedule | None = None,
        noise: NoiseSource | None = None,
    ) -> VocoderState:
        """The state at the start of an utterance.

        Args:
            voice: name of the speaker.
            seed: seed of the noise, non-negative. The same seed and codec tokens give the same samples.
            solver: the method that samples the DiT; None: the default.
            schedule: the chunks of the stream; None: the default.
            noise: replaces the noise of `seed`.

        Raises:
            UsageError: an unknown voice, or `min_evaluations` with a solver whose evaluations cannot be halved.
        """
        speaker = self._voices.speakers.get(voice)
        if speaker is None:
            raise UsageError(f"There is no voice {voice!r}; the voices are {', '.join(self._voices.speakers)}.")
        solver, schedule = solver or SolverSettings(), schedule or ChunkSchedule()
        if schedule.pacing and schedule.pacing.min_evaluations is not None and solver.coarser(1) is None:
            raise UsageError(
                f"The evaluations of {solver.method} cannot be halved within a reply. Use another solver, or pacing "
                "without min_evaluations."
            )
        block_seconds = self.section.block_frames * self.section.samples_per_frame / self.section.sample_rate
        rows = [speaker.row, self._voices.unconditional_row][: solver.rows]
        return VocoderState(
            DitState(
                speaker=self._constants[rows],
                tables=self._tables.for_solver(solver),
                solver=solver,
                schedule=schedule,
                noise=noise or seeded_noise(seed, self.section.block_frames, self.section.mel_dim),
                pacing=Pacing(schedule.pacing, block_seconds) if schedule.pacing else None,
            ),
            BigVganState(),
        )

    def step(self, codec: Sequence[int] | NDArray[np.int64], state: VocoderState, end: bool = False) -> Array | None:
        """Takes codec tokens and computes all chunks that they complete.

        Args:
            codec: the next codec tokens of the reply, without control tokens; may be empty.
            state: the utterance; it is updated.
            end: True when no codec token follows, which finishes the utterance.

        Returns:
            The samples of these chunks, float32 [n] in [-1, 1], or None when more codec tokens are needed.

        Raises:
            UsageError: a codec token without an embedding, or tokens after the end.
        """
        samples = []
        mel = self.dit.step(codec, state.dit, end)
        while mel is not None:
            samples.append(self.bigvgan.step(mel.final, mel.look_ahead, state.bigvgan, mel.end))
            if state.dit.pacing:
                state.dit.pacing.chunk_emitted(len(samples[-1]) / self.sample_rate)
            mel = self.dit.step((), state.dit)
        return np.concatenate(samples) if samples else None
