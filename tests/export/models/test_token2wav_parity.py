"""token2wav's graphs against the reference's modules, on the same weights, float32 on both sides."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5OmniBigVGANConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniToken2WavBigVGANModel,
    kaiser_sinc_filter1d,
)

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import Token2WavSection
from omni_edge.errors import CheckpointError, UsageError
from omni_edge.vocoder.bigvgan import whole_utterance
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import BigVGANConfig, OmniConfig
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.models.token2wav import bigvgan, dit, snake, voices
from omni_quant.precision import Kind, Precision
from support.checkpoints import SPEAKERS, Case
from support.vocoders import Parts, build_parts, snr

TIME = 0.37


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Random inputs of one guided evaluation and the reference's velocity, float32 [2, frames, mel]."""

    mel: NDArray[np.float32]
    codec: NDArray[np.int64]
    velocity: NDArray[np.float32]


def evaluate(reference: Any, case: Case, frames: int) -> Evaluation:
    model = reference.token2wav.code2wav_dit_model
    speaker = torch.load(case.path / "spk_dict.pt", weights_only=True)["Ethan"]
    generator = torch.Generator().manual_seed(frames)
    mel = torch.randn(1, frames, model.mel_dim, generator=generator)
    codec = torch.randint(0, model.config.num_embeds, (1, frames // model.repeats), generator=generator)
    with torch.no_grad():
        velocity = model(
            hidden_states=mel,
            condition_vector=speaker["ref_mel"],
            speaker_embedding=speaker["cond"].unsqueeze(1).repeat(1, frames, 1),
            quantized_code=codec,
            time_step=torch.tensor(TIME),
        )
    return Evaluation(mel[0].numpy(), codec[0].numpy(), velocity.numpy())


def feeds(parts: Parts, mel: NDArray[np.float32], codec: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The first window of an utterance, padded to whole blocks; row 0 conditional, row 1 not."""
    section, frames = parts.section, len(mel)
    padded = -(-frames // section.block_frames) * section.block_frames
    # What fills the last block up must not matter: give it values that would be noticed.
    x = np.full((2, padded, section.mel_dim), 5.0, np.float32)
    x[:, :frames] = mel
    ids = np.zeros((2, padded // section.frames_per_codec), np.int64)
    ids[0, : len(codec)] = codec
    modulation, final = parts.dit_time.run({"time": np.array([TIME], np.float32)}, ["modulation", "final_modulation"])
    left = np.zeros((section.look_backward_layers, 2, section.block_frames, section.attention_size), np.float32)
    held = np.zeros((section.look_ahead_layers, 2, 0, section.block_frames, section.hidden_size), np.float32)
    return {
        "mel": x,
        "codec": ids,
        "speaker": parts.constants[[parts.voices.speakers["Ethan"].row, parts.voices.unconditional_row]],
        "modulation": modulation[0],
        "final_modulation": final[0],
        "left_keys": left,
        "left_values": left,
        "left_valid": np.array([False]),
        "held": held,
        "frames": np.array([frames]),
        "hold": np.array([0]),
        "keep": np.array([-1]),
    }


# -- DiT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [2, 24, 70, 96])
def test_velocity_equals_the_reference(case: Case, reference: Any, parts: Parts, frames: int) -> None:
    """Measured: 7e-7 of the largest value; tolerated 1e-5."""
    wanted = evaluate(reference, case, frames)
    velocity = parts.dit.run(feeds(parts, wanted.mel, wanted.codec), ["velocity"])[0][:, :frames]
    assert np.abs(velocity - wanted.velocity).max() < 1e-5 * np.abs(wanted.velocity).max()


def test_a_window_with_left_context_equals_the_whole(case: Case, reference: Any, parts: Parts) -> None:
    """What block 0 leaves behind is all that blocks 1, 2, ... can see of it within one evaluation."""
    block, codecs = parts.section.block_frames, parts.section.block_frames // parts.section.frames_per_codec
    wanted = evaluate(reference, case, 4 * block)
    whole = feeds(parts, wanted.mel, wanted.codec)
    _, keys, values = parts.dit.run({**whole, "keep": np.array([-4])}, ["velocity", "keys", "values"])
    window = {
        **whole,
        "mel": whole["mel"][:, block:],
        "codec": whole["codec"][:, codecs:],
        "left_keys": keys,
        "left_values": values,
        "left_valid": np.array([True]),
        "frames": np.array([3 * block]),
    }
    velocity = parts.dit.run(window, ["velocity"])[0]
    assert np.abs(velocity - wanted.velocity[:, block:]).max() < 1e-5 * np.abs(wanted.velocity).max()
    blind = parts.dit.run({**window, "left_valid": np.array([False])}, ["velocity"])[0]
    assert np.abs(blind - wanted.velocity[:, block:]).max() > 1e-3 * np.abs(wanted.velocity).max()


def in_runs(graph: Graph, whole: dict[str, NDArray[Any]], section: Token2WavSection, sizes: tuple[int, ...]) -> Any:
    """Velocity [2, frames, mel] of the blocks of `whole`, `sizes` of them a run, each run but the last holding back."""
    codecs = section.block_frames // section.frames_per_codec
    state = {name: whole[name] for name in ("left_keys", "left_values", "left_valid", "held")}
    velocities, first = [], 0
    for index, size in enumerate(sizes):
        frames = slice(first * section.block_frames, (first + size) * section.block_frames)
        last = index == len(sizes) - 1
        run = {
            **whole,
            **state,
            "mel": whole["mel"][:, frames],
            "codec": whole["codec"][:, first * codecs : (first + size) * codecs],
            "frames": np.clip(whole["frames"] - frames.start, 0, size * section.block_frames),
            "hold": np.array([0 if last else 1]),
        }
        velocity, keys, values, held = graph.run(run, ["velocity", "keys", "values", "next_held"])
        assert held.shape[2] == (0 if last else 1)
        state = {"left_keys": keys, "left_values": values, "left_valid": np.array([True]), "held": held}
        velocities.append(velocity)
        first += size
    return np.concatenate(velocities, axis=1)


@pytest.mark.parametrize(("frames", "sizes"), [(118, (2, 1, 2)), (96, (4,)), (120, (3, 2)), (50, (2, 1))])
def test_blocks_held_back_equal_the_whole(
    case: Case, reference: Any, parts: Parts, frames: int, sizes: tuple[int, ...]
) -> None:
    """Measured: 7e-7 of the largest value, as in one run; tolerated 1e-5."""
    wanted = evaluate(reference, case, frames)
    velocity = in_runs(parts.dit, feeds(parts, wanted.mel, wanted.codec), parts.section, sizes)[:, :frames]
    assert np.abs(velocity - wanted.velocity).max() < 1e-5 * np.abs(wanted.velocity).max()


def test_a_block_learns_that_nothing_follows_it(case: Case, reference: Any, parts: Parts) -> None:
    """From one of which no frame exists: the end of an utterance may become known late."""
    block = parts.section.block_frames
    wanted = evaluate(reference, case, 4 * block)
    whole = feeds(parts, wanted.mel, wanted.codec)
    whole["mel"] = np.pad(whole["mel"], ((0, 0), (0, block), (0, 0)), constant_values=5.0)
    whole["codec"] = np.pad(whole["codec"], ((0, 0), (0, block // parts.section.frames_per_codec)))
    velocity = in_runs(parts.dit, whole, parts.section, (2, 2, 1))[:, : 4 * block]
    assert np.abs(velocity - wanted.velocity).max() < 1e-5 * np.abs(wanted.velocity).max()


@pytest.mark.parametrize(("backward", "ahead"), [((3, 0), (1, 2)), ((1, 2), (2,)), ((2,), (0, 3)), ((0,), (3, 1, 0))])
def test_layers_may_look_anywhere(
    case: Case,
    reference: Any,
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backward: tuple[int, ...],
    ahead: tuple[int, ...],
) -> None:
    """Several look-ahead layers, neighbours among them, layers that look both ways; lists in any order."""
    for index, layer in enumerate(reference.token2wav.code2wav_dit_model.transformer_blocks):
        monkeypatch.setattr(layer, "look_backward_block", int(index in backward))
        monkeypatch.setattr(layer, "look_ahead_block", int(index in ahead))
    config = dataclasses.replace(parts.dit_config, look_backward_layers=backward, look_ahead_layers=ahead)
    built = dit.build(Checkpoint(case.path).scope(dit.PREFIX), config, Precision()).save(tmp_path)
    other = dataclasses.replace(
        parts, dit=Graph(built.graph, threads=1), section=dit.section(config, parts.bigvgan_config)
    )
    wanted = evaluate(reference, case, 190)
    whole = feeds(other, wanted.mel, wanted.codec)
    for sizes in ((8,), (5, 1, 2)):
        velocity = in_runs(other.dit, whole, other.section, sizes)[:, :190]
        assert np.abs(velocity - wanted.velocity).max() < 1e-5 * np.abs(wanted.velocity).max()


def test_int8_velocity_stays_close(case: Case, reference: Any, tmp_path: Path) -> None:
    """Measured on these random weights: 38.7 to 41.5 dB."""
    parts = build_parts(case.path, tmp_path, Precision(Kind.INT8, 32))
    wanted = evaluate(reference, case, 70)
    velocity = parts.dit.run(feeds(parts, wanted.mel, wanted.codec), ["velocity"])[0][:, :70]
    assert snr(wanted.velocity, velocity) > 34
    int4 = build_parts(case.path, tmp_path, Precision(Kind.INT4, 32))
    again = int4.dit.run(feeds(int4, wanted.mel, wanted.codec), ["velocity"])[0][:, :70]
    np.testing.assert_array_equal(again, velocity)


def test_modulation_equals_the_reference(reference: Any, parts: Parts) -> None:
    model = reference.token2wav.code2wav_dit_model
    times = torch.tensor([0.0, 0.015, TIME, 1.0])
    with torch.no_grad():
        embedded = torch.nn.functional.silu(model.time_embed(times))
        layers = [block.attn_norm.linear(embedded) for block in model.transformer_blocks]
        wanted = torch.stack(layers, 1).unflatten(-1, (6, -1)).numpy()
        wanted_final = model.norm_out.linear(embedded).unflatten(-1, (2, -1)).numpy()
    wanted[:, :, [1, 4]] += 1
    wanted_final[:, 0] += 1
    modulation, final = parts.dit_time.run({"time": times.numpy()}, ["modulation", "final_modulation"])
    np.testing.assert_allclose(modulation, wanted, atol=1e-5)
    np.testing.assert_allclose(final, wanted_final, atol=1e-5)


def test_blocks_must_hold_whole_codec_tokens(case: Case, parts: Parts) -> None:
    scope = Checkpoint(case.path).scope(dit.PREFIX)
    with pytest.raises(CheckpointError, match="multiple of repeats"):
        dit.build(scope, dataclasses.replace(parts.dit_config, block_size=25), Precision())
    with pytest.raises(CheckpointError, match="look_backward_layers"):
        dit.build(scope, dataclasses.replace(parts.dit_config, look_backward_layers=()), Precision())


# -- voices --------------------------------------------------------------------------------------------------------


def test_voices_are_listed_with_their_text_token(case: Case, parts: Parts) -> None:
    published = torch.load(case.path / "spk_dict.pt", weights_only=True)
    assert {name: voice.bos_token for name, voice in parts.voices.speakers.items()} == {
        name: published[name]["bos_token"] for name in SPEAKERS
    }
    assert parts.voices.default == "Chelsie"
    rows = {parts.voices.unconditional_row, *(voice.row for voice in parts.voices.speakers.values())}
    assert rows == set(range(len(parts.constants)))


def test_the_unconditional_row_does_not_depend_on_the_reference_mel(reference: Any) -> None:
    encoder = reference.token2wav.code2wav_dit_model.input_embed.spk_encoder
    with torch.no_grad():
        short, long = encoder(torch.zeros(1, 30, 80)), encoder(torch.zeros(1, 200, 80))
    torch.testing.assert_close(short, long, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, "missing"),
        (b"PK\x03\x04 not a zip", "cannot be read"),
        (b"", "cannot be read"),
        ({}, "no voices"),
        ({"A": {"bos_token": 1, "cond": torch.zeros(1, 192)}}, "must have"),
        ({"A": 3}, "must have"),
        ({"A": {"bos_token": 1, "cond": torch.zeros(1, 3), "ref_mel": torch.zeros(1, 9, 80)}}, "config asks for"),
    ],
)
def test_a_damaged_speaker_file_says_so(case: Case, tmp_path: Path, damage: Any, message: str) -> None:
    folder = shutil.copytree(case.path, tmp_path / "checkpoint")
    path = folder / "spk_dict.pt"
    path.unlink()
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage is not None:
        torch.save(damage, path)
    checkpoint = Checkpoint(folder)
    with pytest.raises(CheckpointError, match=message):
        voices.read(checkpoint, OmniConfig.parse(checkpoint.config))


def test_only_the_voices_asked_for(case: Case) -> None:
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config)
    assert list(voices.read(checkpoint, config, ["Ethan"]).speakers) == ["Ethan"]
    with pytest.raises(UsageError, match="Chelsie, Ethan"):
        voices.read(checkpoint, config, ["Nobody"])


# -- BigVGAN -------------------------------------------------------------------------------------------------------


def mel_like(frames: int) -> NDArray[np.float32]:
    """Natural-log mel as loud and as varied as speech, some of it below the reference's floor of -135 dB."""
    mel = np.random.default_rng(frames).normal(-4, 3, (1, 80, frames)).astype(np.float32)
    mel[:, :, frames // 2] = -30
    return mel


def whole(graph: Graph, mel: NDArray[np.float32]) -> NDArray[np.float32]:
    return graph.run(whole_utterance(graph, mel[0].T), ["samples"])[0]


@pytest.mark.parametrize("frames", [2, 5, 61])
def test_samples_equal_the_reference(reference: Any, parts: Parts, frames: int) -> None:
    """The random weights amplify rounding (torch in float32 is 106 dB from torch in float64); measured 97 to 100 dB."""
    mel = mel_like(frames)
    with torch.no_grad():
        wanted = reference.token2wav.code2wav_bigvgan_model(torch.from_numpy(mel)).numpy()
    samples = whole(parts.bigvgan, mel)
    assert samples.shape == (frames * parts.section.samples_per_frame,)
    assert snr(wanted, samples) > 94


class _StateDict:
    """A module's weights behind the interface of `Scope`."""

    def __init__(self, weights: dict[str, torch.Tensor], prefix: str = "") -> None:
        self.weights, self.prefix = weights, prefix

    def __call__(self, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
        array = self.weights[self.prefix + name].numpy()
        assert shape is None or array.shape == shape
        return LazyTensor.wrap(array, name)

    def scope(self, name: str) -> _StateDict:
        return _StateDict(self.weights, f"{self.prefix}{name}.")


def test_samples_equal_the_reference_to_100_db(tmp_path: Path) -> None:
    """With weights that neither amplify nor damp, as trained ones; other rates and kernels than the published."""
    settings: dict[str, Any] = {
        "upsample_initial_channel": 64,
        "upsample_rates": [4, 3, 2],
        "upsample_kernel_sizes": [8, 7, 4],
        "resblock_kernel_sizes": [3, 7],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 4]],
    }
    model = Qwen2_5OmniToken2WavBigVGANModel(Qwen2_5OmniBigVGANConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            small = parameter.ndim == 1
            scale = 0.1 if small else (3 * parameter[0].numel()) ** -0.5
            scale = 0.5 if name.endswith(("alpha", "beta")) else scale
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        mel = mel_like(50)
        wanted = model(torch.from_numpy(mel)).numpy()
    tuples = {
        name: tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list) else value
        for name, value in settings.items()
    }
    builder = bigvgan.build(_StateDict(dict(model.state_dict())), BigVGANConfig(**tuples), Precision())  # type: ignore[arg-type]
    samples = whole(Graph(builder.save(tmp_path).graph, threads=1), mel)
    assert np.abs(wanted).max() < 1
    assert snr(wanted, samples) > 100


def test_the_filters_are_the_reference_filters() -> None:
    wanted = kaiser_sinc_filter1d(0.25, 0.3, 12).flatten().numpy()
    np.testing.assert_allclose(snake.low_pass(), wanted, atol=1e-7)


def test_the_polynomial_is_a_sine() -> None:
    r = np.linspace(-0.5, 0.5, 10_001)
    value = r * np.polynomial.Polynomial(snake.sine_polynomial())(r**2)
    assert np.abs(value - np.sin(np.pi * r)).max() < 7e-7


def test_an_up_sampler_that_is_no_multiple_of_its_rate_is_refused(case: Case) -> None:
    config = BigVGANConfig(upsample_kernel_sizes=(10, 7, 4, 4, 4, 4))
    with pytest.raises(CheckpointError, match="must be even"):
        bigvgan.build(Checkpoint(case.path).scope(bigvgan.PREFIX), config, Precision())


# -- BigVGAN with 16-bit weights ------------------------------------------------------------------------------------


def test_16_bit_weights_leave_the_vocoder_as_it_is(case: Case, reference: Any, tmp_path: Path) -> None:
    """Measured 64 to 70 dB; 40 dB is what a default has to have."""
    source = Checkpoint(case.path)
    config = OmniConfig.parse(source.config).bigvgan
    assert config is not None
    written = bigvgan.build(source.scope(bigvgan.PREFIX), config, Precision(Kind.INT4)).save(tmp_path)
    assert str(written.precision) == "int16"
    mel = mel_like(61)
    with torch.no_grad():
        wanted = reference.token2wav.code2wav_bigvgan_model(torch.from_numpy(mel)).numpy()
    assert snr(wanted, whole(Graph(written.graph, threads=1), mel)) > 55
