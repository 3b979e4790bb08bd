"""token2wav: the mel of the DiT and the samples of BigVGAN beside those of the reference, whole utterances at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omni_edge.model import Model
from omni_edge.vocoder.bigvgan import BigVganState
from omni_edge.vocoder.noise import seeded_noise
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings, solve
from omni_edge.vocoder.vocoder import Vocoder
from omni_export.evaluate.metrics import log_spectral_distance, mel_distance, snr
from omni_export.models.token2wav.voices import PublishedVoice
from omni_export.verify.reference import ReferenceModules

Array = NDArray[np.float32]

_WHOLE = ChunkSchedule(chunk_blocks=())


@dataclass(frozen=True)
class SpeechScore:
    """The distance of one sound or mel from the reference's.

    Attributes:
        graphs: what computed it: "dit", "bigvgan" or "dit + bigvgan".
        seconds: its length.
        distance: mel distance of "dit", else log-spectral distance (dB).
        snr: signal-to-noise ratio (dB).
    """

    graphs: str
    seconds: float
    distance: float
    snr: float


def score_speech(
    codecs: list[NDArray[np.int64]],
    voice: str,
    published: PublishedVoice,
    model: Model,
    modules: ReferenceModules,
    seed: int,
) -> list[SpeechScore]:
    """Speaks codec tokens by the default solver, from the same noise on both sides.

    Args:
        codecs: utterances, int64 [n] each.
        voice: the speaker's name.
        published: the speaker in the checkpoint.
        model: the bundle.
        modules: the reference.
        seed: of the noise.
    """
    vocoder, solver = model.vocoder(), SolverSettings()
    wanted_mels = _reference_mels(codecs, published, vocoder, modules, solver, seed)
    mels = []
    for codec in codecs:
        block = vocoder.dit.step(codec, vocoder.state(voice, seed, solver, _WHOLE).dit, end=True)
        assert block is not None
        mels.append(block.final)
    # Both networks of the reference are never in memory together.
    wanted_sounds = _reference_sounds(wanted_mels, modules)
    rows = []
    frames_per_second = vocoder.sample_rate / vocoder.section.samples_per_frame
    for mel, wanted_mel, wanted in zip(mels, wanted_mels, wanted_sounds, strict=True):
        seconds = len(mel) / frames_per_second
        rows.append(SpeechScore("dit", seconds, mel_distance(wanted_mel, mel), snr(wanted_mel, mel)))
        for graphs, given in (("bigvgan", wanted_mel), ("dit + bigvgan", mel)):
            samples = vocoder.bigvgan.step(given, given[:0], BigVganState(), end=True)
            rows.append(SpeechScore(graphs, seconds, log_spectral_distance(wanted, samples), snr(wanted, samples)))
    return rows


def _reference_mels(
    codecs: list[NDArray[np.int64]],
    published: PublishedVoice,
    vocoder: Vocoder,
    modules: ReferenceModules,
    solver: SolverSettings,
    seed: int,
) -> list[Array]:
    """The reference's mels, float32 [frames, mel_dim] each."""
    dit, section, times = modules.dit(), vocoder.section, solver.times()
    noise = seeded_noise(seed, section.block_frames, section.mel_dim)
    mels = []
    for codec in codecs:
        frames = len(codec) * section.frames_per_codec
        blocks = [noise(index) for index in range(-(-frames // section.block_frames))]
        given: dict[str, Any] = {
            "condition_vector": torch.from_numpy(published.ref_mel)[None],
            "speaker_embedding": torch.from_numpy(published.cond).expand(1, frames, -1),
            "quantized_code": torch.from_numpy(codec)[None],
            "apply_cfg": solver.guidance > 0,
        }

        def velocity(index: int, mel: Array, given: dict[str, Any] = given) -> Array:
            with torch.no_grad():
                rows = dit(hidden_states=torch.from_numpy(mel)[None], time_step=torch.tensor(times[index]), **given)
            guided, other = rows[0].numpy(), rows[-1].numpy()
            result: Array = guided + np.float32(solver.guidance) * (guided - other)
            return result

        mels.append(solve(velocity, np.concatenate(blocks)[:frames], solver))
    return mels


def _reference_sounds(mels: list[Array], modules: ReferenceModules) -> list[Array]:
    """The reference's samples of mels, float32 [n] each."""
    bigvgan = modules.bigvgan()
    with torch.no_grad():
        return [bigvgan(torch.from_numpy(mel.T.copy())[None]).numpy().reshape(-1) for mel in mels]
