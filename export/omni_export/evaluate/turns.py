"""Questions by sound and picture as the bundle prefills them, with the embeds of either side's encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from omni_edge.conversation.prompt import Prompt
from omni_edge.decoders.thinker import ThinkerBlock
from omni_edge.decoders.tmrope import Positions
from omni_edge.events import AudioClip, ImageFrame
from omni_edge.model import Model
from omni_edge.vision.image_processor import ImageProcessor, within_context
from omni_export.verify.reference import ReferenceModules

Array = NDArray[np.float32]

EMBEDDING = "thinker.model.embed_tokens.weight"
# A picture gets a quarter of it, as in a conversation with a small context.
_CONTEXT = 1024


@dataclass(frozen=True)
class Encoded:
    """A sound or a picture behind the encoder of both sides.

    Attributes:
        kind: "sounds" or "pictures".
        embeds: float32 [tokens, hidden], the bundle's.
        reference: float32 [tokens, hidden], the reference's.
        size: merged rows and columns of a picture; None for a sound.
    """

    kind: str
    embeds: Array
    reference: Array
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Turn:
    """A prompt up to the place where the reply begins.

    Attributes:
        kind: of what it holds, "sounds", "pictures" or "text".
        own: the blocks with the bundle's embeds throughout.
        part: the blocks with the reference's media embeds, and text embeds of the bundle.
        reference_embeds: float32 [n, hidden]; all embeds of the reference.
        prompt: continues behind the blocks.
        following: the ids that come behind the blocks.
    """

    kind: str
    own: list[ThinkerBlock]
    part: list[ThinkerBlock]
    reference_embeds: Array
    prompt: Prompt
    following: Positions

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position ids, int64 [3, n]."""
        return np.concatenate([block.positions for block in self.part], axis=1)

    @property
    def media(self) -> NDArray[np.bool_]:
        """Whether a position holds the embed of a sound or a picture, [n]."""
        return np.concatenate([np.full(len(block), block.media) for block in self.part])


def encode_sounds(clips: tuple[AudioClip, ...], model: Model, modules: ReferenceModules) -> list[Encoded]:
    """Sounds through the bundle's audio encoder and the reference's.

    Raises:
        MediaError: a sound cannot be used.
    """
    if not clips:
        return []
    blocks = [[block.frames for block in model.audio_front_end.clip(clip.samples, clip.rate)] for clip in clips]
    embeds = [model.audio_encoder().encode(frames) for frames in blocks]
    encoder = modules.audio_encoder()
    found = []
    for frames, own in zip(blocks, embeds, strict=True):
        mel = torch.from_numpy(np.concatenate(frames, axis=1))
        with torch.no_grad():
            expected = encoder(mel, feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state
        found.append(Encoded("sounds", own, expected.numpy()))
    return found


def encode_pictures(frames: tuple[ImageFrame, ...], model: Model, modules: ReferenceModules) -> list[Encoded]:
    """Pictures through the bundle's vision encoder and the reference's.

    Raises:
        MediaError: a picture cannot be used.
    """
    if not frames:
        return []
    section = model.manifest.vision
    processor = ImageProcessor(within_context(section, min(_CONTEXT, model.manifest.thinker.max_positions)))
    pictures = [processor.image(frame.pixels) for frame in frames]
    embeds = [model.vision_encoder().encode(picture.patches, picture.grid) for picture in pictures]
    encoder = modules.vision_encoder()
    found = []
    for picture, own in zip(pictures, embeds, strict=True):
        patches = torch.from_numpy(picture.patches.reshape(-1, picture.patches.shape[-1]))
        with torch.no_grad():
            expected = encoder(patches, grid_thw=torch.tensor([picture.grid])).pooler_output
        _, height, width = picture.grid
        merged = height // section.merge_size, width // section.merge_size
        found.append(Encoded("pictures", own, expected.numpy(), merged))
    return found


def turn(item: Encoded, question: str, model: Model, modules: ReferenceModules) -> Turn:
    """A conversation's first turn: the system prompt, the item, and behind a picture the question."""

    def add(prompt: Prompt, embeds: Array) -> None:
        if item.size is None:
            prompt.begin_sound()
            prompt.sound(embeds)
            prompt.end_sound()
        else:
            prompt.picture(embeds, *item.size)
            prompt.write(question)

    text = model.manifest.text
    system = text.speech_system if model.talker else text.default_system
    own, _ = _blocks(model, system, lambda prompt: add(prompt, item.embeds))
    part, prompt = _blocks(model, system, lambda prompt: add(prompt, item.reference))
    return _turn(item.kind, own, part, prompt, modules)


def text_turn(question: str, system: str, model: Model, modules: ReferenceModules) -> Turn:
    """A conversation's first turn in writing."""
    blocks, prompt = _blocks(model, system, lambda prompt: prompt.write(question))
    return _turn("text", blocks, blocks, prompt, modules)


def _turn(
    kind: str, own: list[ThinkerBlock], part: list[ThinkerBlock], prompt: Prompt, modules: ReferenceModules
) -> Turn:
    embeds = [block.embeds if block.media else text_embeds(block.tokens, modules) for block in part]
    return Turn(kind, own, part, np.concatenate(embeds), prompt, replace(prompt.positions))


def text_embeds(tokens: NDArray[np.int64], modules: ReferenceModules) -> Array:
    """The reference's embeds of text tokens, float32 [n, hidden]."""
    rows: Array = modules.weights.rows(EMBEDDING, tokens.tolist()).numpy()
    return rows


def _blocks(model: Model, system: str, add: Callable[[Prompt], None]) -> tuple[list[ThinkerBlock], Prompt]:
    prompt = Prompt(model.thinker.embed, model.tokenizer, model.manifest)
    if system:
        prompt.system(system)
    prompt.user()
    add(prompt)
    prompt.end_turn()
    prompt.assistant()
    return prompt.take(), prompt
