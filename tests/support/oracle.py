"""Asks the reference implementation the same question: prompt by its own rules, greedy text and codec tokens, waveform.

Only the picture patches come from this project's preprocessing, which has parity tests of its own; tokens, mel frames,
positions and everything behind them are the reference's.

Every prompt is padded on the left by one masked token. transformers 5.23 drops an attention mask of ones before the
model sees it (`GenerationMixin.generate`), and its Talker computes TMRoPE positions and adds the codec's pad and start
embeddings only where it is given a mask: unpadded, the Talker would start without the marks that it was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

from omni_edge.vision.image_processor import ImageProcessor
from support.checkpoints import SPECIAL

AUDIO_RATE = 16_000
MERGE = 2


@dataclass(frozen=True)
class Film:
    """Frames uint8 [n, h, w, 3] at `fps`, with the sound at 16 kHz or without."""

    frames: NDArray[np.uint8]
    fps: float
    sound: NDArray[np.float32] | None = None


Part = str | NDArray[Any] | Film


@dataclass
class Answer:
    """What the reference said."""

    tokens: list[int]
    codec_tokens: list[int]
    waveform: NDArray[np.float32]
    prompt_tokens: int


@dataclass
class Question:
    """A conversation being put into the reference's inputs: text with placeholders, mel frames, patches."""

    image_processor: ImageProcessor
    text: str = ""
    sounds: list[NDArray[np.float32]] = field(default_factory=list)
    pictures: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    sounding: bool = False

    def system(self, text: str) -> None:
        self.text += f"<|im_start|>system\n{text}<|im_end|>\n"

    def user(self, parts: list[Part]) -> None:
        self.text += "<|im_start|>user\n"
        for part in parts:
            self._add(part)
        self.text += "<|im_end|>\n<|im_start|>assistant\n"

    def assistant(self, text: str) -> None:
        self.text += f"{text}<|im_end|>\n"

    def _add(self, part: Part) -> None:
        if isinstance(part, str):
            self.text += part
        elif isinstance(part, Film):
            self._add_video(part)
        elif part.ndim == 1:
            self.sounds.append(part)
            self.text += f"<|audio_bos|>{'<|AUDIO|>' * audio_tokens(part)}<|audio_eos|>"
        else:
            picture = self.image_processor.image(part)
            self.pictures.append(picture)
            self.text += f"<|vision_bos|>{'<|IMAGE|>' * vision_tokens(picture)}<|vision_eos|>"

    def _add_video(self, film: Film) -> None:
        video = self.image_processor.video(film.frames, film.fps)
        self.videos.append(video)
        if film.sound is None:
            self.text += f"<|vision_bos|>{'<|VIDEO|>' * vision_tokens(video)}<|vision_eos|>"
            return
        self.sounding = True
        self.sounds.append(film.sound)
        processor = SimpleNamespace(
            audio_bos_token="<|audio_bos|>",
            audio_eos_token="<|audio_eos|>",
            audio_token="<|AUDIO|>",
            video_token="<|VIDEO|>",
            video_processor=SimpleNamespace(merge_size=MERGE),
        )
        processor.get_chunked_index = partial(Qwen2_5OmniProcessor.get_chunked_index, processor)
        inner = Qwen2_5OmniProcessor.replace_video_with_audio_token(
            processor,
            {"video_grid_thw": [np.array(video.grid)], "video_second_per_grid": [video.seconds_per_grid]},
            0,
            {"num_audio_tokens": [audio_tokens(film.sound)]},
            0,
            position_id_per_seconds=25,
            seconds_per_chunk=2.0,
        )
        self.text += f"<|vision_bos|>{inner}<|vision_eos|>"

    def inputs(self, tokenizer: Tokenizer) -> dict[str, Any]:
        prompt = tokenizer.encode(self.text, add_special_tokens=False).ids
        # The padding repeats a token that occurs anyway, so that a repetition penalty does not see it.
        ids = torch.tensor([[prompt[0], *prompt]])
        mask = torch.ones_like(ids)
        mask[0, 0] = 0
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.sounds:
            features = [mel(sound) for sound in self.sounds]
            inputs["input_features"] = torch.cat([item["input_features"] for item in features])
            inputs["feature_attention_mask"] = torch.cat([item["attention_mask"] for item in features])
        for items, name, kind in (
            (self.pictures, "thinker_pixel_values", "image"),
            (self.videos, "thinker_pixel_values_videos", "video"),
        ):
            if items:
                inputs[name] = torch.from_numpy(
                    np.concatenate([i.patches.reshape(-1, i.patches.shape[-1]) for i in items])
                )
                inputs[f"{kind}_grid_thw"] = torch.tensor([item.grid for item in items])
        if self.videos:
            inputs["video_second_per_grid"] = torch.tensor([video.seconds_per_grid for video in self.videos])
        return inputs


def mel(sound: NDArray[np.float32]) -> Any:
    """The reference's log-mel as its processor asks for it."""
    extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=AUDIO_RATE, chunk_length=60)
    return extractor(
        sound, sampling_rate=AUDIO_RATE, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )


def audio_tokens(sound: NDArray[np.float32]) -> int:
    frames = int(mel(sound)["attention_mask"].sum())
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def vision_tokens(patches: Any) -> int:
    return int(np.prod(patches.grid)) // MERGE**2


def ask(
    model: Any,
    checkpoint: Path,
    question: Question,
    *,
    speaker: str,
    max_new_tokens: int,
    max_codec_tokens: int,
    noise: NDArray[np.float32] | None = None,
    **generation: Any,
) -> Answer:
    """Runs the reference's `generate` greedily; `noise` [1, frames, mel] replaces what its vocoder would draw."""
    inputs = question.inputs(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    spoken: list[torch.Tensor] = []
    generate = model.talker.generate

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = generate(*args, **kwargs)
        spoken.append(result[:, kwargs["input_ids"].shape[1] :])
        return result

    draw = torch.randn

    def drawn(shape: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return draw(shape, *args, **kwargs) if noise is None else torch.from_numpy(noise[:, : shape[1]])

    with mock.patch.object(model.talker, "generate", recorded), mock.patch.object(torch, "randn", drawn):
        sequences, waveform = model.generate(
            **inputs,
            speaker=speaker,
            use_audio_in_video=question.sounding,
            thinker_max_new_tokens=max_new_tokens,
            thinker_eos_token_id=[SPECIAL["<|im_end|>"], SPECIAL["<|endoftext|>"]],
            thinker_do_sample=False,
            talker_do_sample=False,
            talker_max_new_tokens=max_codec_tokens,
            talker_eos_token_id=[model.talker.codec_pad_token, model.talker.codec_eos_token],
            **generation,
        )
    codec = spoken[0][0].tolist()
    ends = {model.talker.codec_pad_token, model.talker.codec_eos_token}
    length = next((index for index, token in enumerate(codec) if token in ends), len(codec))
    prompt = inputs["input_ids"].shape[1]
    return Answer(sequences[0, prompt:].tolist(), codec[:length], waveform.detach().numpy(), prompt - 1)
