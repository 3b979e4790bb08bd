"""TMRoPE positions, span by span, against the reference's `get_rope_index` on whole prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_edge.bundle.manifest import DecoderSection, PositionSection
from omni_edge.decoders.tmrope import Positions, RotaryTable, chunk_bounds, interleave, time_ids, vision_grid
from support.checkpoints import SHAPES, SPECIAL, config_of

SCALE = PositionSection(ids_per_second=25, seconds_per_chunk=2.0)
TEXT = 7


@dataclass(frozen=True)
class Span:
    """A piece of a prompt: text, sound, picture, video, or video with sound."""

    kind: str
    tokens: int = 0
    frames: int = 0
    grid: tuple[int, int, int] = (1, 2, 2)
    seconds: float = 1.0


def reference_positions(spans: list[Span]) -> tuple[np.ndarray, int]:
    """(ids [3, n], first decoded id) by the reference."""
    import torch
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniPreTrainedModelForConditionalGeneration,
    )

    ids: list[int] = []
    images, videos, audios, seconds = [], [], [], []
    sounding = any(span.kind == "video+sound" for span in spans)
    for span in spans:
        t, h, w = span.grid
        if span.kind == "text":
            ids += [TEXT] * span.tokens
            continue
        if span.kind == "sound":
            audios.append(span.frames)
            ids += [SPECIAL["<|audio_bos|>"]] + [SPECIAL["<|AUDIO|>"]] * tokens_of(span.frames)
            ids += [SPECIAL["<|audio_eos|>"]]
        elif span.kind == "image":
            images.append((1, h * 2, w * 2))
            ids += [SPECIAL["<|vision_bos|>"]] + [SPECIAL["<|IMAGE|>"]] * (h * w) + [SPECIAL["<|vision_eos|>"]]
        elif span.kind == "video":
            videos.append((t, h * 2, w * 2))
            seconds.append(span.seconds)
            ids += [SPECIAL["<|vision_bos|>"]] + [SPECIAL["<|VIDEO|>"]] * (t * h * w) + [SPECIAL["<|vision_eos|>"]]
        else:
            videos.append((t, h * 2, w * 2))
            audios.append(span.frames)
            seconds.append(span.seconds)
            offsets = vision_grid(time_ids(t, span.seconds, SCALE), h, w)
            mixed = interleave(offsets, tokens_of(span.frames), SCALE)
            kinds = [SPECIAL["<|VIDEO|>"]] * (t * h * w) + [SPECIAL["<|AUDIO|>"]] * tokens_of(span.frames)
            ids += [SPECIAL["<|vision_bos|>"], SPECIAL["<|audio_bos|>"], *(kinds[i] for i in mixed.order)]
            ids += [SPECIAL["<|audio_eos|>"], SPECIAL["<|vision_eos|>"]]

    class Oracle(Qwen2_5OmniPreTrainedModelForConditionalGeneration):
        def __init__(self) -> None:
            self.__dict__["config"] = config_of(SHAPES["grouped"]).thinker_config
            self.config.vision_start_token_id = SPECIAL["<|vision_bos|>"]
            self.__dict__["spatial_merge_size"] = 2

    tensor = torch.tensor([ids])
    positions, delta = Oracle().get_rope_index(
        tensor,
        torch.tensor(images) if images else None,
        torch.tensor(videos) if videos else None,
        torch.ones_like(tensor),
        sounding,
        torch.tensor(audios) if audios else None,
        torch.tensor(seconds) if seconds else None,
    )
    return positions[:, 0].numpy(), len(ids) + int(delta[0, 0])


def tokens_of(frames: int) -> int:
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def our_positions(spans: list[Span]) -> tuple[np.ndarray, int]:
    positions = Positions()
    parts = []
    for span in spans:
        t, h, w = span.grid
        if span.kind == "text":
            parts.append(positions.text(span.tokens))
        elif span.kind == "sound":
            parts.append(positions.text(1 + tokens_of(span.frames) + 1))
        elif span.kind == "video+sound":
            mixed = interleave(vision_grid(time_ids(t, span.seconds, SCALE), h, w), tokens_of(span.frames), SCALE)
            parts += [positions.shared(2), positions.interleaved(mixed), positions.shared(2)]
        else:
            times = np.zeros(1, np.int64) if span.kind == "image" else time_ids(t, span.seconds, SCALE)
            parts += [positions.text(1), positions.vision(times, h, w), positions.text(1)]
    return np.concatenate(parts, axis=1), int(positions.continued(1)[0, 0])


text_spans = st.builds(Span, kind=st.just("text"), tokens=st.integers(1, 9))
sounds = st.builds(Span, kind=st.just("sound"), frames=st.integers(3, 500))
pictures = st.builds(Span, kind=st.just("image"), grid=st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 6)))
grids = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4))
rates = st.sampled_from([0.5, 0.96, 1.0, 1.3, 2.0, 5.0])
videos = st.builds(Span, kind=st.just("video"), grid=grids, seconds=rates)
sounding_videos = st.builds(Span, kind=st.just("video+sound"), grid=grids, seconds=rates, frames=st.integers(3, 900))


def between_text(media: list[Span]) -> list[Span]:
    """As a chat writes them: text before, between and after."""
    spans = [Span("text", 5)]
    for item in media:
        spans += [item, Span("text", 2)]
    return [*spans, Span("text", 6)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(text_spans, sounds, pictures, videos), max_size=5))
def test_prompts_of_any_mix_equal_the_reference(media: list[Span]) -> None:
    check(between_text(media))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(text_spans, pictures, sounding_videos, sounds), max_size=4))
def test_videos_with_their_sound_equal_the_reference(media: list[Span]) -> None:
    check(between_text(media))


def check(spans: list[Span]) -> None:
    expected, decoded = reference_positions(spans)
    actual, next_id = our_positions(spans)
    np.testing.assert_array_equal(actual, expected)
    assert next_id == decoded


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=40).map(sorted), st.sampled_from([25, 50, 100]))
def test_chunks_are_cut_like_the_reference(ids: list[int], size: int) -> None:
    import torch
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniPreTrainedModelForConditionalGeneration,
    )

    expected = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_chunked_index(None, torch.tensor(ids), size, 0)
    assert chunk_bounds(np.array(ids), size) == expected


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_rotary_rows_equal_the_reference(name: str) -> None:
    import torch
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniRotaryEmbedding

    text = config_of(SHAPES[name]).thinker_config.text_config
    ids = np.random.default_rng(0).integers(0, 4000, (3, 50))
    cos, sin = Qwen2_5OmniRotaryEmbedding(text)(torch.zeros(1), torch.from_numpy(ids)[:, None])
    width = SHAPES[name].head_dim
    section: Any = DecoderSection(
        hidden_size=1, num_layers=1, num_kv_heads=1, head_dim=width + 8, rotary_dim=width, rope_theta=10_000.0,
        mrope_section=SHAPES[name].mrope, vocab_size=1, max_positions=1,
    )  # fmt: skip
    ours = RotaryTable(section).rows(ids)
    for actual, expected in zip(ours, (cos, sin), strict=True):
        np.testing.assert_allclose(actual[:, : width // 2], expected[0, :, : width // 2].numpy(), atol=2e-4)
        assert not actual[:, width // 2 :].any()
