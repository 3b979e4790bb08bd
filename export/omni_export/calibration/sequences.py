"""Calibration material as the Thinker takes it: embeds with their TMRoPE positions, from the bundle's own graphs.

Sounds and pictures go through the encoders that the bundle has, so that the Thinker is calibrated for what they give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import GraphEntry, Manifest
from omni_edge.conversation.prompt import Prompt
from omni_edge.decoders.thinker import ThinkerBlock
from omni_edge.decoders.tmrope import Ids
from omni_edge.decoders.tokenizer import TextTokenizer
from omni_edge.errors import MediaError
from omni_edge.events import AudioClip, ImageFrame
from omni_edge.vision.encoder import VisionEncoder
from omni_edge.vision.image_processor import ImageProcessor, within_context
from omni_export.calibration.material import Sample, Turn
from omni_export.checkpoint.lazy_tensor import Array

# Tokens in all. Twice as many gain little, and the time of a calibration grows with them.
TOKENS = 8192
# Tokens of one sequence; what is longer is cut.
_LONGEST = 1024
# What is shorter shows too little context.
_SHORTEST = 16


@dataclass(frozen=True)
class Sequences:
    """Inputs of the Thinker.

    Attributes:
        embeds: float32 [tokens, hidden], all sequences in a row.
        positions: int64 [3, tokens].
        lengths: tokens of each sequence.
    """

    embeds: Array
    positions: Ids
    lengths: tuple[int, ...]

    def split_positions(self) -> list[Ids]:
        """The positions of each sequence, int64 [3, length]."""
        return np.split(self.positions, np.cumsum(self.lengths)[:-1], axis=1)

    def sha256(self) -> str:
        """SHA-256 (hex) of all values."""
        digest = hashlib.sha256(repr(self.lengths).encode())
        digest.update(self.positions.tobytes())
        digest.update(self.embeds.tobytes())
        return digest.hexdigest()


def make_sequences(
    samples: Iterable[Sample], folder: Path, manifest: Manifest, graphs: Mapping[str, GraphEntry]
) -> Sequences:
    """The sequences of the first samples that give `TOKENS` tokens.

    Args:
        samples: texts and conversations.
        folder: of the graphs and the tokenizer.
        manifest: of the bundle that is being written.
        graphs: entries of token_embedding and of both encoders.

    Raises:
        MediaError: all samples are too short.
    """
    writer = _Writer(folder, manifest, graphs)
    embeds, positions, count = [], [], 0
    for blocks in map(writer.blocks, samples):
        for piece, ids in _cut(blocks):
            room = TOKENS - count
            if min(room, len(piece)) < _SHORTEST:
                continue
            embeds.append(piece[:room])
            positions.append(ids[:, :room])
            count += len(embeds[-1])
        if TOKENS - count < _SHORTEST:
            break
    if not embeds:
        raise MediaError(f"No sample of the calibration has {_SHORTEST} tokens. Put longer texts into its folder.")
    lengths = tuple(map(len, embeds))
    return Sequences(np.concatenate(embeds), np.concatenate(positions, axis=1), lengths)


def _cut(blocks: list[ThinkerBlock]) -> Iterator[tuple[Array, Ids]]:
    """Pieces of at most `_LONGEST` tokens; each starts at position 0, as a conversation does."""
    embeds = np.concatenate([block.embeds for block in blocks])
    ids = np.concatenate([block.positions for block in blocks], axis=1)
    for start in range(0, len(embeds), _LONGEST):
        piece = ids[:, start : start + _LONGEST]
        yield embeds[start : start + _LONGEST], piece - piece.min()


class _Writer:
    """Writes samples as the runtime writes a conversation."""

    def __init__(self, folder: Path, manifest: Manifest, graphs: Mapping[str, GraphEntry]) -> None:
        self._folder = folder
        self._manifest = manifest
        self._graphs = graphs
        self._embedding = self._graph("token_embedding")
        self._tokenizer = TextTokenizer(folder / manifest.text.tokenizer, manifest.text)
        self._front_end = AudioFrontEnd(manifest.audio)
        self._images = ImageProcessor(within_context(manifest.vision, _LONGEST))

    def _graph(self, role: str) -> Graph:
        entry = self._graphs[role]
        return Graph(self._folder / entry.file, entry.inputs, entry.outputs, varying=True)

    @cached_property
    def _audio_encoder(self) -> AudioEncoder:
        return AudioEncoder(self._graph("audio_encoder"), self._manifest.audio)

    @cached_property
    def _vision_encoder(self) -> VisionEncoder:
        return VisionEncoder(self._graph("vision_encoder"), self._manifest.vision)

    def blocks(self, sample: Sample) -> list[ThinkerBlock]:
        """The sample's tokens, embeds and positions."""
        prompt = Prompt(self._embed, self._tokenizer, self._manifest)
        text = self._manifest.text
        if sample.turns[0].role:
            speaks = any(not isinstance(item, str) for turn in sample.turns for item in turn.items)
            prompt.system(text.speech_system if speaks or not text.default_system else text.default_system)
        for turn in sample.turns:
            self._turn(prompt, turn)
        return prompt.take()

    def _turn(self, prompt: Prompt, turn: Turn) -> None:
        if turn.role == "user":
            prompt.user()
        elif turn.role:
            prompt.assistant()
        for item in turn.items:
            if isinstance(item, str):
                prompt.write(item)
            elif isinstance(item, AudioClip):
                self._sound(prompt, item)
            else:
                self._picture(prompt, item)
        if turn.role:
            prompt.end_turn()

    def _embed(self, tokens: NDArray[np.int64]) -> Array:
        embeds: Array = self._embedding.run({"ids": tokens[None]})[0][0]
        return embeds

    def _sound(self, prompt: Prompt, clip: AudioClip) -> None:
        embeds = self._audio_encoder.encode([block.frames for block in self._front_end.clip(clip.samples, clip.rate)])
        prompt.begin_sound()
        prompt.sound(embeds)
        prompt.end_sound()

    def _picture(self, prompt: Prompt, picture: ImageFrame) -> None:
        patches = self._images.image(picture.pixels)
        merge = self._manifest.vision.merge_size
        _, height, width = patches.grid
        prompt.picture(self._vision_encoder.encode(patches.patches, patches.grid), height // merge, width // merge)
