"""A bundle beside its checkpoint: float32 loses nothing, a known loss has its known value, INT8 loses little."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_edge import OmniEdge
from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.errors import BundleError, UsageError
from omni_edge.events import AudioClip
from omni_export import ExportOptions, export_bundle
from omni_export.evaluate import reference_decoder
from omni_export.evaluate.evaluate import Evaluation, evaluate_bundle
from omni_export.evaluate.material import Limits, Material, default_picture, default_sound, default_text
from omni_quant.precision import Precision
from support.checkpoints import Case, load_reference, write_checkpoint
from support.commands import tone

NANO = Path(__file__).parents[3] / "nano" / "omni-nano"
LIMITS = Limits(text_tokens=40, passage_tokens=16, reply_tokens=5, codec_tokens=20)
TEXT = Material(text=default_text())


def whole() -> Material:
    return Material(default_text(), (AudioClip(tone(0.9).astype(np.float32), 16_000),), (default_picture(),))


def rows(evaluation: Evaluation) -> dict[str, Any]:
    return {f"{row.graphs}, {row.material}": row.scores for row in evaluation.tokens}


def test_a_float32_bundle_loses_nothing(case: Case, fp32_bundle: Path) -> None:
    evaluation = evaluate_bundle(fp32_bundle, case.path, whole(), LIMITS, threads=1)
    found = rows(evaluation)
    assert list(found) == [
        "thinker, text",
        "thinker, sounds",
        "audio_encoder + thinker, sounds",
        "thinker, pictures",
        "vision_encoder + thinker, pictures",
        "talker, sounds",
        "audio_encoder + thinker + talker, sounds",
        "talker, pictures",
        "vision_encoder + thinker + talker, pictures",
    ]
    # 40 tokens are passages of 16, 16 and 8, whose first tokens are not predicted.
    assert len(found["thinker, text"]) == 37
    for name, scores in found.items():
        assert scores.mean_kl < 1e-7, name
        assert scores.agreement == 1, name
        assert scores.perplexity == pytest.approx(scores.reference_perplexity, rel=1e-4), name
    assert [row.graph for row in evaluation.vectors] == ["token_embedding", "audio_encoder", "vision_encoder"]
    assert all(row.relative_error < 1e-4 and row.cosine > 0.999999 for row in evaluation.vectors)
    assert [score.graphs for score in evaluation.speech] == ["dit", "bigvgan", "dit + bigvgan"]
    assert all(score.snr > 80 and score.distance < 0.01 for score in evaluation.speech)
    assert all(row.bits > 31.9 for row in evaluation.sizes if row.bits)


def test_the_reference_is_transformers_whole_model(case: Case, fp32_bundle: Path) -> None:
    evaluation = evaluate_bundle(fp32_bundle, case.path, TEXT, Limits(text_tokens=30), threads=1)
    tokens = OmniEdge.load(fp32_bundle, threads=1).model.tokenizer.encode(default_text())[:30]
    model = load_reference(case.path, case.name)
    with torch.no_grad():
        logits = model.thinker(input_ids=torch.tensor([tokens])).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]))
    (row,) = evaluation.tokens
    assert np.mean(row.scores.reference_nll) == pytest.approx(float(expected), abs=1e-5)


def test_logits_twice_as_large_have_the_divergence_of_a_temperature(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "grouped")
    sharper = tmp_path / "sharper"
    shutil.copytree(checkpoint, sharper)
    weights = load_file(sharper / "model.safetensors")
    (norm,) = [name for name in weights if name.endswith("thinker.model.norm.weight")]
    weights[norm] *= 2
    save_file(weights, sharper / "model.safetensors", {"format": "pt"})
    bundle = tmp_path / "bundle"
    export_bundle(str(sharper), bundle, ExportOptions(Precision(), text_only=True))
    (row,) = evaluate_bundle(bundle, checkpoint, TEXT, Limits(text_tokens=24), threads=1).tokens
    tokens = OmniEdge.load(bundle, threads=1).model.tokenizer.encode(default_text())[:24]
    with torch.no_grad():
        logits = load_reference(checkpoint, "grouped").thinker(input_ids=torch.tensor([tokens])).logits[0, :-1].double()
    wanted, got = torch.log_softmax(logits, -1), torch.log_softmax(2 * logits, -1)
    expected = (wanted.exp() * (wanted - got)).sum(-1)
    assert expected.mean() > 0.1
    np.testing.assert_allclose(row.scores.kl, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert row.scores.agreement == 1


def test_layers_read_one_after_the_other_give_the_same(
    case: Case, fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = evaluate_bundle(fp32_bundle, case.path, whole(), LIMITS, threads=1)
    monkeypatch.setattr(reference_decoder, "RESIDENT_BYTES", 0)
    streamed = evaluate_bundle(fp32_bundle, case.path, whole(), LIMITS, threads=1)
    assert {name: scores.reference_nll for name, scores in rows(streamed).items()} == {
        name: scores.reference_nll for name, scores in rows(resident).items()
    }


def test_the_built_in_model_in_int8_loses_little(tmp_path: Path) -> None:
    # The built-in bundle is INT8 throughout.
    material = Material("turn on the kitchen light", (default_sound(),))
    evaluation = evaluate_bundle(shipped_bundle(), NANO, material, Limits(codec_tokens=30), threads=1)
    found = rows(evaluation)
    assert {"thinker, text", "thinker, sounds", "talker, sounds"} < set(found)
    # "The kitchen light is on." and the end of the text.
    assert len(found["thinker, sounds"]) == 7
    for name in ("thinker, sounds", "audio_encoder + thinker, sounds"):
        assert 0 < found[name].mean_kl < 1e-3
        assert found[name].agreement == 1
    # The codec tokens are drawn with a seed, some of them unlikely ones, after which the Talker is less certain.
    assert 0 < found["talker, sounds"].mean_kl < 0.15
    assert found["talker, sounds"].agreement > 0.9
    vectors = {row.graph: row for row in evaluation.vectors}
    assert 1e-4 < vectors["audio_encoder"].relative_error < 0.1
    assert 1e-4 < vectors["token_embedding"].relative_error < 0.02


def test_another_checkpoint_of_the_same_sizes_is_refused(
    checkpoint: Path, exported_bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    path = next(other.glob("*.safetensors"))
    weights = load_file(path)
    (table,) = [name for name in weights if name.endswith("thinker.model.embed_tokens.weight")]
    weights[table] = weights[table].flip(0)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(BundleError, match="token embeddings differ"):
        evaluate_bundle(exported_bundle, other, TEXT, LIMITS, threads=1)


def test_another_size_is_refused(exported_bundle: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "ragged")
    with pytest.raises(BundleError, match="their sizes differ"):
        evaluate_bundle(exported_bundle, other, TEXT, LIMITS, threads=1)


def test_nothing_to_evaluate_on_is_refused(checkpoint: Path, exported_bundle: Path) -> None:
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate_bundle(exported_bundle, checkpoint, Material(), LIMITS)
    with pytest.raises(UsageError, match="fewer than two tokens"):
        evaluate_bundle(exported_bundle, checkpoint, Material("a"), LIMITS)
    with pytest.raises(UsageError, match="codec_tokens is 0"):
        Limits(codec_tokens=0)
