"""Compares every graph of a bundle with the reference implementation, on seeded inputs.

The runtime's code runs the graphs. Errors are relative to the root mean square of the reference's output. The verdict
is by signal-to-noise ratio:

| precision of the graph | SNR at least |
| --- | --- |
| fp32 | 60 dB (1e-3 of the signal) |
| int16 | 40 dB |
| int8 | 20 dB |
| int4 | 6 dB |
| any, with an INT8 cache | 20 dB, or less as above |

The bounds of quantized graphs catch a wrong graph, not a poor quantization. Trained weights do far better than random
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.backend.graph import Graph
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.errors import BundleError
from omni_edge.vision.encoder import VisionEncoder
from omni_edge.vocoder.bigvgan import BigVgan, BigVganState
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.models import decoder
from omni_export.models.token2wav.voices import published
from omni_export.verify.reference import ReferenceModules
from omni_quant.precision import Kind

MINIMUM_SNR = {Kind.FP32: 60.0, Kind.INT16: 40.0, Kind.INT8: 20.0, Kind.INT4: 6.0}
_SEED = 0
# Positions of the decoders' test: a prompt in one piece, then single steps.
_PROMPT, _STEPS = 40, 8
_PICTURE_GRID = (2, 12, 20)
_MEL_FRAMES = 300
_TIME = 0.37

_EMBEDDING, _HEAD = "thinker.model.embed_tokens.weight", "thinker.lm_head.weight"

Array = NDArray[np.float32]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class VerifyRow:
    """The difference of one graph from the reference.

    Attributes:
        graph: role of the graph.
        maximum, mean: absolute errors / RMS of the reference.
        snr: signal-to-noise ratio, dB.
        tolerance: the least SNR that passes, dB.
        passed: whether the graph passes.
    """

    graph: str
    maximum: float
    mean: float
    snr: float
    tolerance: float
    passed: bool


def verify_bundle(bundle: Path, checkpoint: Path, progress: Callable[[str], None] | None = None) -> list[VerifyRow]:
    """Runs every graph of `bundle` and the same part of the reference with `checkpoint`'s weights.

    Args:
        bundle: a bundle folder; all hashes are checked first.
        checkpoint: the folder it was exported from.
        progress: called with each graph's role before it is run.

    Raises:
        BundleError, CheckpointError: one of them cannot be read, or they do not belong together.
    """
    verification = _Verification(Bundle(bundle, verify=True), Checkpoint(checkpoint))
    rows = []
    for role in verification.bundle.manifest.graphs:
        if progress:
            progress(role)
        rows.append(verification.row(role))
    return rows


class _Verification:
    def __init__(self, bundle: Bundle, checkpoint: Checkpoint) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.checkpoint = checkpoint
        self.config = OmniConfig.parse(checkpoint.config, speech=self.manifest.talker is not None)
        int8_cache = self.manifest.thinker.cache_dtype == "int8"
        if decoder.section(self.config.thinker.text, int8_cache=int8_cache) != self.manifest.thinker:
            raise self._another()
        self.modules = ReferenceModules(checkpoint, self.config)
        self.random = np.random.default_rng(_SEED)
        self.pairs: dict[str, Callable[[], Iterator[Pair]]] = {
            "audio_encoder": self.audio_encoder,
            "vision_encoder": self.vision_encoder,
            "token_embedding": self.token_embedding,
            "thinker": self.thinker,
            "talker": self.talker,
            "dit": self.dit,
            "dit_time": self.dit_time,
            "bigvgan": self.bigvgan,
        }

    def row(self, role: str) -> VerifyRow:
        if role not in self.pairs:
            raise BundleError(f"{self.bundle.path} has a graph {role}, which has no reference. Export it again.")
        pairs = list(self.pairs[role]())
        if any(actual.shape != expected.shape for actual, expected in pairs):
            raise self._another()
        errors, signals = zip(*((actual - expected, expected) for actual, expected in pairs), strict=True)
        worst = max(range(len(errors)), key=lambda index: _rms(errors[index]) / _rms(signals[index]))
        error, signal = errors[worst], _rms(signals[worst])
        snr = 20 * float(np.log10(signal / max(_rms(error), 1e-10 * signal)))
        kind = Kind(self.manifest.graphs[role].precision.split()[0])
        tolerance = MINIMUM_SNR[kind]
        if role == "thinker" and self.manifest.thinker.cache_dtype == "int8":
            tolerance = min(tolerance, MINIMUM_SNR[Kind.INT8])
        return VerifyRow(
            graph=role,
            maximum=float(np.abs(error).max()) / signal,
            mean=float(np.abs(error).mean()) / signal,
            snr=snr,
            tolerance=tolerance,
            passed=snr >= tolerance,
        )

    def _another(self) -> BundleError:
        return BundleError(
            f"{self.bundle.path} was not exported from {self.checkpoint.path}: their sizes differ. Give the checkpoint "
            "that it was exported from."
        )

    def _one_speaks(self) -> BundleError:
        return BundleError(
            f"One of {self.bundle.path} and {self.checkpoint.path} has speech, the other has not. Give the checkpoint "
            "that the bundle was exported from."
        )

    def _graph(self, role: str) -> Graph:
        return Graph.from_bundle(self.bundle, role)

    # -- one method per role: (graph's output, reference's output) pairs -----------------------------------------

    def audio_encoder(self) -> Iterator[Pair]:
        section = self.manifest.audio
        lengths = [section.block_frames, section.block_frames, section.block_frames // 3]
        blocks = [self.random.standard_normal((section.n_mels, n)).astype(np.float32) for n in lengths]
        encoder = AudioEncoder(self._graph("audio_encoder"), section)
        with torch.no_grad():
            expected = self.modules.audio_encoder()(
                torch.from_numpy(np.concatenate(blocks, axis=1)), feature_lens=torch.tensor([sum(lengths)])
            ).last_hidden_state
        yield encoder.encode(blocks), expected.numpy()

    def vision_encoder(self) -> Iterator[Pair]:
        section = self.manifest.vision
        t, h, w = _PICTURE_GRID
        width = self.config.thinker.vision.in_channels * section.temporal_patch_size * section.patch_size**2
        patches = self.random.standard_normal((t, h * w, width)).astype(np.float32)
        encoder = VisionEncoder(self._graph("vision_encoder"), section)
        with torch.no_grad():
            expected = self.modules.vision_encoder()(
                torch.from_numpy(patches.reshape(-1, width)), grid_thw=torch.tensor([_PICTURE_GRID])
            ).pooler_output
        yield encoder.encode(patches, _PICTURE_GRID), expected.numpy()

    def token_embedding(self) -> Iterator[Pair]:
        ids = self.random.integers(0, self.manifest.thinker.vocab_size, (1, 200))
        expected = self.modules.weights.rows(_EMBEDDING, ids[0].tolist()).numpy()
        yield self._graph("token_embedding").run({"ids": ids})[0][0], expected

    def thinker(self) -> Iterator[Pair]:
        weights = self.modules.weights
        tokens = self.random.integers(0, self.manifest.thinker.vocab_size, _PROMPT + _STEPS).tolist()
        embeds = weights.rows(_EMBEDDING, tokens).numpy()[None]
        positions = self._positions()
        hidden, logits = self._steps(
            Decoder(self._graph("thinker"), self.manifest.thinker), {"embeds": embeds}, positions
        )
        model = self.modules.thinker()
        with torch.no_grad():
            expected = (
                model(inputs_embeds=torch.from_numpy(embeds), position_ids=torch.from_numpy(positions)[:, None])
                .last_hidden_state[0]
                .numpy()
            )
        del model
        yield hidden, expected
        head = _HEAD if _HEAD in weights else _EMBEDDING
        yield logits, _product(lambda rows: weights.rows(head, rows).numpy(), len(logits), expected[-1])

    def talker(self) -> Iterator[Pair]:
        config, section = self.config.talker, self.manifest.talker
        if config is None or section is None or self.manifest.talker_decoder is None:
            raise self._one_speaks()
        count = _PROMPT + _STEPS
        states = self.random.standard_normal((1, count, config.embedding_size)).astype(np.float32)
        codec = self.random.integers(0, config.decoder.vocab_size, (1, count))
        codec[:, : _PROMPT // 2] = section.none_codec
        positions = self._positions()
        decoder = Decoder(self._graph("talker"), self.manifest.talker_decoder)
        _, logits = self._steps(decoder, {"codec_ids": codec, "states": states}, positions)
        model = self.modules.talker()
        with torch.no_grad():
            embeds = torch.from_numpy(states.copy())
            embeds[0, _PROMPT // 2 :] += model.model.embed_tokens(torch.from_numpy(codec[0, _PROMPT // 2 :]))
            hidden = model.model(
                inputs_embeds=model.thinker_to_talker_proj(embeds),
                position_ids=torch.from_numpy(positions)[:, None],
            ).last_hidden_state
            expected = model.codec_head(hidden[0, -1])
        yield logits, expected.numpy()

    def dit_time(self) -> Iterator[Pair]:
        times = np.array([0.0, _TIME, 1.0], np.float32)
        tables = self._graph("dit_time").run({"time": times}, ["modulation", "final_modulation"])
        yield from zip(tables, self._time_tables(self.modules.dit(), times), strict=True)

    def dit(self) -> Iterator[Pair]:
        config, section, voices = self.config.dit, self.manifest.token2wav, self.manifest.voices
        if config is None or section is None or voices is None:
            raise self._one_speaks()
        frames = 3 * section.block_frames - section.frames_per_codec
        padded = 3 * section.block_frames
        mel = np.zeros((2, padded, section.mel_dim), np.float32)
        mel[:, :frames] = self.random.standard_normal((frames, section.mel_dim))
        codec = np.zeros((2, padded // section.frames_per_codec), np.int64)
        codec[0, : frames // section.frames_per_codec] = self.random.integers(
            0, section.codec_limit, frames // section.frames_per_codec
        )
        name, voice = next(iter(voices.speakers.items()))
        constants = np.fromfile(self.bundle.file(voices.file), "<f4").reshape(-1, config.hidden_size)
        left = np.zeros((section.look_backward_layers, 2, section.block_frames, section.attention_size), np.float32)
        held = np.zeros((section.look_ahead_layers, 2, 0, section.block_frames, section.hidden_size), np.float32)
        model = self.modules.dit()
        modulation, final = self._time_tables(model, np.array([_TIME], np.float32))
        velocity = self._graph("dit").run(
            {
                "mel": mel,
                "codec": codec,
                "speaker": constants[[voice.row, voices.unconditional_row]],
                "modulation": modulation[0],
                "final_modulation": final[0],
                "left_keys": left,
                "left_values": left,
                "left_valid": np.array([False]),
                "held": held,
                "frames": np.array([frames]),
                "hold": np.array([0]),
                "keep": np.array([-1]),
            },
            ["velocity"],
        )[0]
        speaker = published(self.checkpoint, config)[name]
        with torch.no_grad():
            expected = model(
                hidden_states=torch.from_numpy(mel[:1, :frames]),
                condition_vector=torch.from_numpy(speaker.ref_mel)[None],
                speaker_embedding=torch.from_numpy(speaker.cond).expand(1, frames, -1),
                quantized_code=torch.from_numpy(codec[:1, : frames // section.frames_per_codec]),
                time_step=torch.tensor(_TIME),
            )
        yield velocity[:, :frames], expected.numpy()

    def bigvgan(self) -> Iterator[Pair]:
        section = self.manifest.token2wav
        if section is None or self.config.dit is None:
            raise self._one_speaks()
        voice = next(iter(published(self.checkpoint, self.config.dit).values()))
        mel = voice.ref_mel[:_MEL_FRAMES]
        samples = BigVgan(self._graph("bigvgan"), section).step(mel, mel[:0], BigVganState(), end=True)
        with torch.no_grad():
            expected = self.modules.bigvgan()(torch.from_numpy(mel.T.copy())[None])
        yield samples, expected.numpy()

    @staticmethod
    def _time_tables(model: Any, times: Array) -> tuple[Array, Array]:
        """The reference's outputs of the graph `dit_time` at `times`; scales are 1 + scale."""
        with torch.no_grad():
            embedding = torch.nn.functional.silu(model.time_embed(torch.from_numpy(times)))
            layers = torch.stack([block.attn_norm.linear(embedding) for block in model.transformer_blocks], dim=1)
            modulation = layers.reshape(len(times), layers.shape[1], 6, -1).numpy().copy()
            final = model.norm_out.linear(embedding).reshape(len(times), 2, -1).numpy().copy()
        modulation[:, :, [1, 4]] += 1
        final[:, 0] += 1
        return modulation, final

    def _positions(self) -> NDArray[np.int64]:
        """Position ids [3, n] with a picture in the text, so that the axes differ."""
        ids = np.tile(np.arange(_PROMPT + _STEPS), (3, 1))
        middle = slice(_PROMPT // 4, _PROMPT // 2)
        ids[1:, middle] = _PROMPT // 4 + self.random.integers(0, 5, (2, _PROMPT // 2 - _PROMPT // 4))
        return ids

    def _steps(
        self, decoder: Decoder, inputs: dict[str, NDArray[np.generic]], positions: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """Hidden states [n, hidden] and the last logits, by a prefill and then one position at a time."""
        cache = KVCache.allocate(decoder.section, _PROMPT + _STEPS)
        hidden = []
        for start, stop in [(0, _PROMPT), *((at, at + 1) for at in range(_PROMPT, _PROMPT + _STEPS))]:
            piece = {role: value[:, start:stop] for role, value in inputs.items()}
            out, logits = decoder.step(piece, positions[:, start:stop], cache)
            hidden.append(out.copy())
        return np.concatenate(hidden), logits


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def _product(read: Callable[[slice], Array], rows: int, vector: Array, piece: int = 8192) -> Array:
    """The product of a matrix, of which `piece` rows are read at a time, and `vector`."""
    return np.concatenate([read(slice(start, min(rows, start + piece))) @ vector for start in range(0, rows, piece)])
