"""Loading, the encoders and the vocoder, each on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from omni_edge.bench.figures import Figure, Subject, timed
from omni_edge.vocoder.solver import SolverSettings

_SEED = 0


def noise(seconds: float, rate: int) -> NDArray[np.float32]:
    """A sound, float32 [n]."""
    return (0.1 * np.random.default_rng(_SEED).standard_normal(int(seconds * rate))).astype(np.float32)


def load(subject: Subject) -> Iterator[Figure]:
    """Seconds until the first prompt can be prefilled, from a warm page cache; the memory after that."""
    del subject.engine
    yield Figure("load", "until ready", "s", subject.seconds(subject.load))
    subject.engine = subject.load()
    yield Figure("load", "resident memory", "B", (subject.fresh.resident,))
    yield Figure("load", "anonymous memory", "B", (subject.fresh.anonymous,))


def audio(subject: Subject) -> Iterator[Figure]:
    """Log-mel and the audio encoder over a whole sound."""
    engine, seconds = subject.engine, subject.settings.sound_seconds
    rate = engine.manifest.audio.sample_rate
    sound = noise(seconds, rate)
    blocks = engine.model.audio_front_end.clip(sound, rate)
    mel = subject.seconds(lambda: engine.model.audio_front_end.clip(sound, rate))
    encoder = subject.seconds(lambda: engine.model.audio_encoder().encode([block.frames for block in blocks]))
    for name, times in (("log-mel", mel), ("encoder", encoder)):
        yield Figure("audio", f"{name}, {seconds:g} s", "RTF", tuple(value / seconds for value in times))


def vision(subject: Subject) -> Iterator[Figure]:
    """Resizing and the vision encoder on one picture."""
    engine, (height, width) = subject.engine, subject.settings.picture
    pixels = np.random.default_rng(_SEED).integers(0, 256, (height, width, 3)).astype(np.uint8)
    patches = engine.model.image_processor.image(pixels)
    resize = subject.seconds(lambda: engine.model.image_processor.image(pixels))
    encoder = subject.seconds(lambda: engine.model.vision_encoder().encode(patches.patches, patches.grid))
    yield Figure("vision", f"patches, {width}x{height}", "s", resize)
    yield Figure("vision", f"encoder, {width}x{height}", "s", encoder)


def token2wav(subject: Subject) -> Iterator[Figure]:
    """RTF of the DiT, of BigVGAN and of both, by solver and chunk size; the first chunk of an utterance by itself."""
    for solver in subject.settings.solvers:
        for blocks in subject.settings.chunk_blocks:
            yield from _chunks(subject, solver, blocks)


def _chunks(subject: Subject, solver: SolverSettings, blocks: int) -> Iterator[Figure]:
    vocoder, voices = subject.engine.model.vocoder(), subject.engine.voices
    section = vocoder.section
    settings = replace(subject.settings.chunks, chunk_blocks=(blocks,), pacing=None)
    known = blocks + vocoder.dit.look_ahead(settings, solver)
    state = vocoder.state(voices[0], _SEED, solver, settings)
    codecs = section.block_frames // section.frames_per_codec
    length = blocks * section.block_frames * section.samples_per_frame / section.sample_rate
    random = np.random.default_rng(_SEED)

    def chunk(count: int) -> tuple[float, float, float]:
        before = state.dit_seconds, state.bigvgan_seconds
        tokens = random.integers(0, section.codec_limit, count * codecs)
        total = timed(lambda: vocoder.step(tokens, state))
        return total, state.dit_seconds - before[0], state.bigvgan_seconds - before[1]

    def first() -> float:
        state.reset()
        return chunk(known)[0]

    # Once for nothing each: the first run of a shape plans its memory.
    firsts = [first() for _ in range(1 + subject.settings.runs)][1:]
    later = [chunk(blocks) for _ in range(1 + subject.settings.runs)][1:]
    frames = blocks * section.block_frames
    guided = f"guidance {solver.guidance:g}" if solver.guidance else "unguided"
    exact = ", wavefront" if settings.order == "wavefront" else ""
    label = f"{solver.method}-{solver.evaluations} {guided}{exact}, {frames} frames a chunk"
    yield Figure("token2wav", f"{label}: first chunk", "RTF", tuple(seconds / length for seconds in firsts))
    for index, name in enumerate(("total", "DiT", "BigVGAN")):
        yield Figure("token2wav", f"{label}: {name}", "RTF", tuple(run[index] / length for run in later))
