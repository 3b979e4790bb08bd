"""Talker and token2wav in training: the fused activation, the mel spectrogram, the codec."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniAntiAliasedActivation1d,
    Qwen2_5OmniSnakeBeta,
)

from nano.data.mel24 import BINS, FLOOR, HOP, RATE, log_mel
from nano.data.speech_corpus import CODE_SAMPLES, fit
from nano.model.architecture import CODEBOOK
from nano.model.fast_snake import FastActivation
from nano.training.train_bigvgan import bigvgan, spectral_loss
from nano.training.train_codec import BATCH, CROP, FRAMES_PER_CODE, VECTOR, Codec
from nano.training.train_dit import dit


@pytest.mark.parametrize("shape", [(2, 4, 7), (3, 8, 501)])
def test_fused_activation_is_the_references(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    reference = Qwen2_5OmniAntiAliasedActivation1d(Qwen2_5OmniSnakeBeta(shape[1]))
    torch.nn.init.normal_(reference.act.alpha, std=0.5)
    torch.nn.init.normal_(reference.act.beta, std=0.5)
    x = torch.randn(shape, requires_grad=True)
    incoming = torch.randn(shape)
    inputs = [x, reference.act.alpha, reference.act.beta]
    results = []
    for module in (reference, FastActivation(reference)):
        y = module(x)
        results.append([y, *torch.autograd.grad(y, inputs, incoming)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_mel_frames_lie_where_the_sound_is() -> None:
    silence = torch.zeros(1, 100 * HOP)
    sound = silence.clone()
    sound[0, 50 * HOP : 51 * HOP] = torch.sin(2 * torch.pi * 1000 / RATE * torch.arange(HOP))
    mel = log_mel(sound)
    assert mel.shape == (1, BINS, 100)
    assert log_mel(silence).max() == pytest.approx(np.log(FLOOR))
    assert int(mel[0].amax(0).argmax()) == 50
    # 1000 Hz ends the linear part of the Slaney scale: 15 mel of 51.3, spread over 81 steps.
    assert int(mel[0, :, 50].argmax()) == pytest.approx(23, abs=1)


def test_starting_weights_keep_the_scale() -> None:
    torch.manual_seed(0)
    made = bigvgan()(torch.randn(2, BINS, 24) - 5)
    assert made.shape == (2, 24 * HOP)
    assert 0.01 < made.std() < 0.9
    assert spectral_loss(made, made) == 0
    assert spectral_loss(made, made.roll(1, 0)) > 0.5


def test_dit_begins_as_its_bias_and_knows_a_code_once_it_listens() -> None:
    torch.manual_seed(0)
    model = dit().eval()
    given = {
        "hidden_states": torch.randn(1, 48, BINS),
        "condition_vector": torch.randn(1, 30, BINS),
        "speaker_embedding": torch.randn(1, 48, 192),
        "time_step": torch.tensor(0.3),
        "apply_cfg": False,
    }
    codes = torch.randint(1, CODEBOOK, (1, 24))
    with torch.no_grad():
        assert torch.equal(model(quantized_code=codes, **given), model.proj_out.bias.expand(1, 48, -1))
        model.proj_out.weight.normal_()
        for block in model.transformer_blocks:
            block.attn_norm.linear.bias.fill_(1.0)
        first = model(quantized_code=codes, **given)
        other = codes.clone()
        other[0, -1] = codes[0, -1] % (CODEBOOK - 1) + 1
        second = model(quantized_code=other, **given)
    changed = (first - second).abs().amax(-1)[0] > 1e-6
    # Code 23 lies in mel block 1; the layer that looks ahead lets block 0 know.
    assert changed[:24].all()
    assert changed[24:].all()


def test_codec_uses_every_token_but_zero_and_follows_its_vectors() -> None:
    torch.manual_seed(0)
    codec = Codec()
    mel, speaker = torch.randn(2, BINS, CROP) - 5, torch.tensor([0, 1])
    codes = codec.encode(mel, speaker)
    assert codes.shape == (2, CROP // FRAMES_PER_CODE)
    assert codes.min() >= 1
    assert codes.max() < CODEBOOK
    # Row 3 is used alone, by two vectors: it moves towards their mean; rows nobody uses for long start afresh.
    codec.codebook.zero_()
    vectors, rows = torch.ones(2, VECTOR), torch.tensor([3, 3])
    for _ in range(60):
        codec.follow(vectors, rows)
    assert torch.allclose(codec.codebook[3], torch.ones(VECTOR), atol=0.1)
    assert codec.decode(codec.codebook[codes - 1], speaker).shape == mel.shape
    for _ in range(60):
        codec.follow(vectors, rows)
    assert torch.allclose(codec.codebook[[0, 100, 510]], torch.ones(3, VECTOR), atol=0.2)
    assert BATCH > 1


def test_fit_leaves_little_silence_and_whole_codes() -> None:
    sound = np.zeros(3 * RATE, np.float32)
    sound[RATE : 2 * RATE] = 0.5
    found = fit(sound)
    assert len(found) % CODE_SAMPLES == 0
    assert len(found) == pytest.approx(1.18 * RATE, abs=CODE_SAMPLES)
    assert found.sum() == pytest.approx(0.5 * RATE)
