"""Exercises as sequences: tokens, TMRoPE ids and media as in the runtime, and the training targets.

The runtime's prompt, audio front end and image processor make them, so that training and inference have equal inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import Qwen2_5OmniConfig

from nano import world
from nano.data.exercises import Exercise
from nano.model.architecture import PREPROCESSOR, load_tokenizer, make_config
from nano.world.scenes import FRAMES_PER_SECOND
from omni_edge.audio.front_end import AudioFrontEnd, audio_tokens
from omni_edge.bundle.manifest import AudioSection, Manifest, PositionSection, TextSection, VisionSection
from omni_edge.conversation.prompt import Prompt
from omni_edge.decoders.tokenizer import TextTokenizer
from omni_edge.vision.image_processor import ImageProcessor, VisionPatches

IGNORED = -100


@dataclass
class Piece:
    """A sound or a picture inside a sequence, in the order of its tokens.

    Attributes:
        mel: float32 [128, n] of a sound, else None.
        vision: patches of a picture or video, else None.
    """

    mel: NDArray[np.float32] | None = None
    vision: VisionPatches | None = None


@dataclass
class Sample:
    """One sequence.

    Attributes:
        tokens: int64 [n]; placeholders for media.
        ids: int64 [3, n]; TMRoPE.
        targets: int64 [n]; the next token, or IGNORED.
        pieces: sounds and pictures.
        replies: (first, stop) of every reply's tokens in `tokens`.
    """

    tokens: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    pieces: list[Piece]
    replies: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.tokens)


def _no_embeds(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.zeros((len(tokens), 0), np.float32)


class Composer:
    """Turns exercises into samples; immutable.

    Args:
        work: the folder with the tokenizer.
    """

    def __init__(self, work: Path) -> None:
        tokenizer = self._tokenizer = load_tokenizer(work)
        self.config: Qwen2_5OmniConfig = make_config(tokenizer)
        thinker = self.config.thinker_config
        text = TextSection(
            tokenizer="tokenizer.json",
            vocab_size=thinker.text_config.vocab_size,
            eos_tokens=(self.token("<|im_end|>"),),
            turn_start="<|im_start|>",
            turn_end="<|im_end|>",
            roles={"system": "system", "user": "user", "assistant": "assistant"},
            default_system=world.TEXT_SYSTEM,
            speech_system=world.SPEECH_SYSTEM,
            audio_token=thinker.audio_token_index,
            image_token=thinker.image_token_index,
            video_token=thinker.video_token_index,
            audio_start_token=thinker.audio_start_token_id,
            audio_end_token=thinker.audio_end_token_id,
            vision_start_token=thinker.vision_start_token_id,
            vision_end_token=thinker.vision_end_token_id,
        )
        positions = PositionSection(thinker.position_id_per_seconds, thinker.seconds_per_chunk)
        self._manifest = cast(Manifest, SimpleNamespace(text=text, positions=positions))
        self.codec = TextTokenizer(work / "tokenizer" / "tokenizer.json", text)
        self.front_end = AudioFrontEnd(audio_section(thinker.audio_config))
        self.images = ImageProcessor(vision_section(thinker.vision_config))

    def token(self, name: str) -> int:
        """The id of a special token."""
        token = self._tokenizer.token_to_id(name)
        if token is None:
            raise ValueError(f"the tokenizer has no {name}; make it again with `python -m nano.data.tokenizer`")
        return token

    def mel(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised log-mel [128, n] of a whole sound."""
        return np.concatenate([block.frames for block in self.front_end.clip(samples)], axis=1)

    def compose(self, exercise: Exercise) -> Sample:
        """The sequence of an exercise; its targets are all replies and the word that belongs to a typed clue."""
        prompt = Prompt(_no_embeds, self.codec, self._manifest)
        tokens: list[NDArray[np.int64]] = []
        ids: list[NDArray[np.int64]] = []
        pieces: list[Piece] = []
        replies: list[tuple[int, int]] = []
        length = 0
        answer = {"role": "assistant", "content": [{"type": "text", "text": exercise.reply}]}
        for message in [*exercise.messages, answer]:
            if message["role"] == "system":
                prompt.system(message["content"][0]["text"])
            elif message["role"] == "user":
                if tokens:
                    prompt.end_turn()
                prompt.user()
                for part in message["content"]:
                    self._add(part, prompt, pieces)
                prompt.end_turn()
            else:
                prompt.assistant()
                for block in prompt.take():
                    tokens.append(block.tokens)
                    ids.append(block.positions)
                    length += len(block)
                reply = self.codec.encode(message["content"][0]["text"])
                tokens.append(np.array(reply))
                ids.append(prompt.positions.continued(len(reply)))
                replies.append((length, length + len(reply)))
                length += len(reply)
        joined = np.concatenate(tokens)
        targets = np.full(length, IGNORED, np.int64)
        for start, stop in replies:
            targets[start - 1 : stop - 1] = joined[start:stop]
            targets[stop - 1] = self.codec.turn_end
        if exercise.clue:
            word, belonging = (self.codec.encode(f" {each}")[0] for each in exercise.clue)
            for place in np.flatnonzero(joined[: replies[-1][0]] == word)[-1:]:
                targets[place] = belonging
        return Sample(joined, np.concatenate(ids, axis=1), targets, pieces, replies)

    def _add(self, part: dict[str, Any], prompt: Prompt, pieces: list[Piece]) -> None:
        if part["type"] == "text":
            prompt.write(part["text"])
        elif part["type"] == "audio":
            mel = self.mel(part["audio"])
            pieces.append(Piece(mel=mel))
            prompt.begin_sound()
            prompt.sound(_empty(audio_tokens(mel.shape[1])))
            prompt.end_sound()
        elif part["type"] == "image":
            patches = self.images.image(part["image"])
            pieces.append(Piece(vision=patches))
            grid = _merged(patches)
            prompt.picture(_empty(int(np.prod(grid))), grid[1], grid[2])
        else:
            patches = self.images.video(part["video"], part["fps"])
            pieces.append(Piece(vision=patches))
            grid = _merged(patches)
            sound = None
            if part["audio"] is not None:
                mel = self.mel(part["audio"])
                pieces.append(Piece(mel=mel))
                sound = _empty(audio_tokens(mel.shape[1]))
            prompt.video(_empty(int(np.prod(grid))), grid, patches.seconds_per_grid, sound)


def audio_section(config: Any) -> AudioSection:
    """The log-mel section as the exporter writes it."""
    return AudioSection(
        sample_rate=PREPROCESSOR["sampling_rate"],
        n_fft=PREPROCESSOR["n_fft"],
        hop_length=PREPROCESSOR["hop_length"],
        n_mels=config.num_mel_bins,
        block_frames=2 * config.n_window,
    )


def vision_section(config: Any) -> VisionSection:
    """The vision section as the exporter writes it; this world's pictures are within its budgets."""
    pixels = PREPROCESSOR["max_pixels"]
    return VisionSection(
        patch_size=config.patch_size,
        temporal_patch_size=config.temporal_patch_size,
        merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        head_dim=config.hidden_size // config.num_heads,
        rope_theta=10_000.0,
        min_pixels=PREPROCESSOR["min_pixels"],
        max_pixels=pixels,
        video_min_pixels=PREPROCESSOR["video_min_pixels"],
        video_max_pixels=pixels,
        video_total_pixels=pixels,
        video_fps=FRAMES_PER_SECOND,
        video_min_frames=4,
        video_max_frames=768,
        mean=PREPROCESSOR["image_mean"],
        std=PREPROCESSOR["image_std"],
    )


def _merged(patches: VisionPatches) -> tuple[int, int, int]:
    frames, height, width = patches.grid
    merge = PREPROCESSOR["merge_size"]
    return frames, height // merge, width // merge


def _empty(count: int) -> NDArray[np.float32]:
    return np.zeros((count, 0), np.float32)


def by_length(samples: Sequence[Sample], parts: int) -> list[list[Sample]]:
    """Cuts samples into `parts` batches of similar length, so that there is little padding."""
    ordered = sorted(samples, key=len)
    cuts = [round(index * len(ordered) / parts) for index in range(parts + 1)]
    return [ordered[start:stop] for start, stop in pairwise(cuts) if stop > start]
