"""The Thinker and Talker steps against the reference, in one prefill, in pieces, and position by position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import DecoderSection
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.models import decoder as export
from omni_quant.precision import Kind, Precision
from support.checkpoints import Case

POSITIONS = 21
ROLES = {"past_key": "past.{layer}.key", "past_value": "past.{layer}.value"}
PRESENT = {"present_key": "present.{layer}.key", "present_value": "present.{layer}.value"}


def load(graph: GraphBuilder, section: DecoderSection, folder: Path) -> Decoder:
    saved = graph.save(folder)
    plain = Graph(saved.graph)
    inputs = {name: name for name in plain.inputs} | ROLES
    outputs = {name: name for name in plain.outputs} | PRESENT
    return Decoder(Graph(saved.graph, inputs, outputs, threads=1), section)


def thinker(case: Case, folder: Path, precision: Precision) -> tuple[Decoder, Any]:
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config).thinker.text
    graph = export.build_thinker(checkpoint.scope("thinker"), config, precision)
    return load(graph, export.section(config), folder), config


def positions(seed: int = 0) -> np.ndarray:
    """Ids as a picture in the middle of text would have them: the three axes differ."""
    rng = np.random.default_rng(seed)
    ids = np.broadcast_to(np.arange(POSITIONS), (3, POSITIONS)).copy()
    ids[:, 5:15] = 5 + rng.integers(0, 9, (3, 10))
    return ids


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.sqrt((expected**2).mean()))


def reference_run(reference: Any, embeds: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = reference.thinker
    with torch.no_grad():
        hidden = model.model.language_model(
            inputs_embeds=torch.from_numpy(embeds), position_ids=torch.from_numpy(ids)[:, None]
        ).last_hidden_state
        logits = model.lm_head(hidden[0, -1])
    return hidden[0].numpy(), logits.numpy()


@pytest.mark.parametrize("pieces", [[POSITIONS], [7, 1, 1, 12], [1] * POSITIONS])
def test_thinker_step_equals_the_reference(case: Case, reference: Any, tmp_path: Path, pieces: list[int]) -> None:
    decoder, config = thinker(case, tmp_path, Precision())
    embeds = np.random.default_rng(1).standard_normal((1, POSITIONS, config.hidden_size)).astype(np.float32)
    expected_hidden, expected_logits = reference_run(reference, embeds, positions())

    cache = KVCache.allocate(decoder.section, 32)
    hidden, start = [], 0
    for count in pieces:
        piece = slice(start, start + count)
        out, logits = decoder.step({"embeds": embeds[:, piece]}, positions()[:, piece], cache)
        hidden.append(out.copy())
        start += count
    assert cache.offset == POSITIONS
    assert relative(np.concatenate(hidden), expected_hidden) < 1e-4
    assert relative(logits, expected_logits) < 1e-4


def test_trimmed_cache_continues_as_if_the_tail_had_never_been(case: Case, tmp_path: Path) -> None:
    decoder, config = thinker(case, tmp_path, Precision())
    embeds = np.random.default_rng(2).standard_normal((1, POSITIONS, config.hidden_size)).astype(np.float32)
    cache = KVCache.allocate(decoder.section, 32)
    decoder.step({"embeds": embeds}, positions(), cache)
    cache.trim(9)
    again = decoder.step({"embeds": embeds[:, 9:12]}, positions()[:, 9:12], cache)[0].copy()
    fresh = KVCache.allocate(decoder.section, 32)
    expected = decoder.step({"embeds": embeds[:, :12]}, positions()[:, :12], fresh)[0][9:]
    np.testing.assert_allclose(again, expected, atol=2e-5)


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.05), ("int4", 0.6)])
def test_quantized_thinker_stays_close(case: Case, reference: Any, tmp_path: Path, kind: Any, bound: float) -> None:
    assert 1e-4 < quantized_error(case, reference, tmp_path, Precision(Kind(kind), 32)) < bound


@pytest.mark.parametrize("group_size", [16, 32])
def test_a_layer_may_mix_formats(
    case: Case, reference: Any, tmp_path: Path, group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    int4 = quantized_error(case, reference, tmp_path, Precision(Kind.INT4, group_size))
    # The real rule takes whole layers here, since the checkpoint has only a first and a last one.
    parts = {"qkv": "sensitive_matrices", "down": "sensitive_matrices"}
    monkeypatch.setattr(export, "decoder_part", lambda _, __, matrix: parts.get(matrix, "layers"))
    mixed = quantized_error(case, reference, tmp_path, Precision(Kind.MIXED, group_size))
    assert 1e-4 < mixed < int4


def quantized_error(case: Case, reference: Any, folder: Path, precision: Precision) -> float:
    """The relative error of the hidden values."""
    decoder, config = thinker(case, folder, precision)
    embeds = np.random.default_rng(1).standard_normal((1, POSITIONS, config.hidden_size)).astype(np.float32)
    expected, _ = reference_run(reference, embeds, positions())
    hidden, _ = decoder.step({"embeds": embeds}, positions(), KVCache.allocate(decoder.section, 32))
    return float(np.sqrt(((hidden - expected) ** 2).mean() / (expected**2).mean()))


def test_talker_step_equals_the_reference(case: Case, reference: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config).talker
    assert config is not None
    graph = export.build_talker(checkpoint.scope("talker"), config, Precision())
    decoder = load(graph, export.section(config.decoder), tmp_path)
    none = export.talker_section(config).none_codec
    rng = np.random.default_rng(3)
    states = rng.standard_normal((1, POSITIONS, config.embedding_size)).astype(np.float32)
    codec = rng.integers(0, config.decoder.vocab_size, (1, POSITIONS))
    codec[0, :6] = none
    model = reference.talker
    with torch.no_grad():
        spoken = model.model.embed_tokens(torch.from_numpy(codec[0, 6:])).numpy()
        summed = states.copy()
        summed[0, 6:] += spoken
        hidden = model.model(
            inputs_embeds=model.thinker_to_talker_proj(torch.from_numpy(summed)),
            position_ids=torch.from_numpy(positions())[:, None],
        ).last_hidden_state
        expected = model.codec_head(hidden[0, -1]).numpy()
    cache = KVCache.allocate(decoder.section, POSITIONS)
    decoder.step({"codec_ids": codec[:, :20], "states": states[:, :20]}, positions()[:, :20], cache)
    _, logits = decoder.step({"codec_ids": codec[:, 20:], "states": states[:, 20:]}, positions()[:, 20:], cache)
    assert relative(logits, expected) < 1e-4


@pytest.mark.parametrize(("kind", "bound"), [("fp32", 0.0), ("int8", 0.01), ("int4", 0.01)])
def test_token_embedding(case: Case, reference: Any, tmp_path: Path, kind: Any, bound: float) -> None:
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config).thinker.text
    builder = export.build_token_embedding(checkpoint.scope("thinker.model"), config, Precision(Kind(kind), 32))
    graph = Graph(builder.save(tmp_path).graph)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, 40))
    embeds = graph.run({"ids": ids})[0]
    expected = reference.thinker.model.language_model.embed_tokens(torch.from_numpy(ids)).detach().numpy()
    assert float(np.sqrt(((embeds - expected) ** 2).mean() / (expected**2).mean())) <= bound
