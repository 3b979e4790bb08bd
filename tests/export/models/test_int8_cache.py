"""The INT8 cache: a quarter of the bytes, the same weights, replies that stay with those of the float32 cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni_edge import OmniEdge, Sampling, TurnDone
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import KVCache
from omni_export.bundle import ExportOptions, export_bundle
from omni_export.verify.verify import verify_bundle
from omni_quant.precision import Precision
from support.checkpoints import Case


@pytest.fixture(scope="module")
def int8_cache_bundle(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8-cache") / "bundle"
    export_bundle(str(case.path), out, ExportOptions(Precision(), int8_cache=True))
    return out


def greedy_tokens(bundle: Path, prompt: str, count: int) -> tuple[int, ...]:
    session = OmniEdge.load(bundle, threads=1).session(speech=False, sampling=Sampling(temperature=0))
    session.push(prompt)
    done = list(session.reply(max_new_tokens=count))[-1]
    assert isinstance(done, TurnDone)
    return done.token_ids


def test_weights_are_the_same_and_the_cache_is_a_quarter(fp32_bundle: Path, int8_cache_bundle: Path) -> None:
    plain, small = Bundle(fp32_bundle).manifest, Bundle(int8_cache_bundle, verify=True).manifest
    assert small.thinker.cache_dtype == "int8"
    assert small.files["thinker.onnx.data"].sha256 == plain.files["thinker.onnx.data"].sha256
    assert small.files["thinker.onnx"].sha256 != plain.files["thinker.onnx"].sha256
    bytes_of = [
        sum(array.nbytes for array in KVCache.allocate(manifest.thinker, 100).keys) for manifest in (plain, small)
    ]
    assert bytes_of[0] == 4 * bytes_of[1]


def test_hidden_states_stay_close(case: Case, int8_cache_bundle: Path) -> None:
    row = next(row for row in verify_bundle(int8_cache_bundle, case.path) if row.graph == "thinker")
    assert row.passed
    assert 30 < row.snr < 60


def test_greedy_replies_stay_together(fp32_bundle: Path, int8_cache_bundle: Path) -> None:
    agreed = total = 0
    for prompt in ("What is the time?", "Tell me a story.", "Count to ten, slowly.", "x" * 300):
        exact, quantized = (greedy_tokens(bundle, prompt, 24) for bundle in (fp32_bundle, int8_cache_bundle))
        same = np.array(exact) == np.array(quantized)[: len(exact)] if len(exact) == len(quantized) else np.zeros(1)
        agreed += int(np.cumprod(same).sum())
        total += len(exact)
    # Before the first difference; after it the two go their own ways.
    assert agreed >= 0.7 * total


def test_a_saved_conversation_continues_with_the_same_tokens(int8_cache_bundle: Path, tmp_path: Path) -> None:
    engine = OmniEdge.load(int8_cache_bundle, threads=1)
    session = engine.session(seed=2)
    session.push("Count to ten, slowly.")
    list(session.reply(max_new_tokens=9, max_codec_tokens=20))
    session.save(tmp_path / "talk")
    resumed = engine.resume(tmp_path / "talk")
    replies = []
    for each in (session, resumed):
        each.push("Go on.")
        replies.append(list(each.reply(max_new_tokens=9, max_codec_tokens=20))[-1])
    assert isinstance(replies[0], TurnDone)
    assert isinstance(replies[1], TurnDone)
    assert replies[0].token_ids == replies[1].token_ids
    assert replies[0].codec_tokens == replies[1].codec_tokens
