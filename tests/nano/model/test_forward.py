"""The batched forward passes of training give the reference's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nano.model.forward import decode, encode_audio, encode_vision

# Float32, sums in another order.
_CLOSE = 2e-5


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@torch.no_grad()
def test_hears_as_the_reference(reference: Any, generator: torch.Generator) -> None:
    # Whole blocks, a remainder, an odd remainder, and a sound of less than one block.
    mels = [torch.randn(128, frames, generator=generator) for frames in (333, 200, 57, 411)]
    tower = reference.thinker.model.audio_tower
    expected = tower(torch.cat(mels, 1), feature_lens=torch.tensor([mel.shape[1] for mel in mels])).last_hidden_state
    audio = encode_audio(tower, mels)
    assert audio.tokens == [83, 50, 14, 103]
    assert (audio.embeds - expected).abs().max() < _CLOSE * expected.std()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (20, 16)])
@torch.no_grad()
def test_sees_as_the_reference(reference: Any, generator: torch.Generator, height: int, width: int) -> None:
    patches = torch.randn(3, height * width, 1176, generator=generator)
    visual = reference.thinker.model.visual
    expected = visual(patches.flatten(0, 1), grid_thw=torch.tensor([[3, height, width]])).pooler_output
    seen = encode_vision(visual, patches, height, width).flatten(0, 1)
    assert (seen - expected).abs().max() < _CLOSE * expected.std()


@torch.no_grad()
def test_decodes_as_the_reference(reference: Any, generator: torch.Generator) -> None:
    ids = torch.randint(0, 60, (3, 2, 40), generator=generator)
    for model in (reference.thinker.model.language_model, reference.talker.model):
        embeds = torch.randn(2, 40, model.config.hidden_size, generator=generator)
        expected = model(inputs_embeds=embeds, position_ids=ids).last_hidden_state
        assert (decode(model, embeds, ids) - expected).abs().max() < _CLOSE * expected.std()
