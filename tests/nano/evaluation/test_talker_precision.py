"""The default's Talker on the trained checkpoint: its predictions are those of float32, which four bits alone miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import OmniEdge
from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import Manifest
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.decoders.talker import Talker
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.evaluate.metrics import TokenScores
from omni_export.models.decoder import build_talker
from omni_export.output.graph_entry import graph_entry
from omni_quant.policy import default_precision
from omni_quant.precision import Kind, Precision

CHECKPOINT = Path(__file__).parents[3] / "nano" / "omni-nano"
REQUESTS = ("Turn on the kitchen light.", "Set a timer for ten minutes.", "What is seven plus five?", "Who are you?")
INT4 = Precision(Kind.INT4)
# Codec tokens, the Thinker's states and position ids of one step.
Step = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def spoken() -> tuple[Manifest, list[list[Step]]]:
    """The steps of the Talker while the built-in model answers each request."""
    engine, replies = OmniEdge.load(threads=1), []
    real = Talker._step
    with pytest.MonkeyPatch.context() as patch:

        def recorded(self: Talker, codec: Any, states: Any, positions: Any, cache: Any) -> Any:
            replies[-1].append((codec[0].copy(), states.copy(), positions.copy()))
            return real(self, codec, states, positions, cache)

        patch.setattr(Talker, "_step", recorded)
        for number, request in enumerate(REQUESTS):
            replies.append([])
            session = engine.session(seed=number, context=512)
            session.push(request)
            assert list(session.reply())
    return engine.manifest, replies


def logits(spoken: tuple[Manifest, list[list[Step]]], precision: Precision, folder: Path) -> list[NDArray[np.float32]]:
    """The logits, float32 [vocabulary], of every codec token, by the checkpoint's Talker in `precision`."""
    manifest, replies = spoken
    assert manifest.talker_decoder is not None
    checkpoint = Checkpoint(CHECKPOINT)
    config = OmniConfig.parse(checkpoint.config).talker
    assert config is not None
    builder = build_talker(checkpoint.scope("talker"), config, precision)
    folder /= precision.kind.value
    folder.mkdir()
    entry = graph_entry(builder, builder.save(folder))
    decoder = Decoder(Graph(folder / entry.file, entry.inputs, entry.outputs, threads=1), manifest.talker_decoder)
    found = []
    for steps in replies:
        cache = KVCache.allocate(manifest.talker_decoder, 512)
        for codec, states, positions in steps:
            given = {"codec_ids": codec[None], "states": states[None]}
            found.append(decoder.step(given, positions, cache)[1].copy())
    return found


def test_the_default_predicts_codec_tokens_as_float32_does(
    spoken: tuple[Manifest, list[list[Step]]], tmp_path: Path
) -> None:
    wanted = logits(spoken, Precision(), tmp_path)
    assert len(wanted) > 200
    divergence = {}
    for precision in (INT4, default_precision("talker", INT4)):
        scores = TokenScores()
        for expected, got in zip(wanted, logits(spoken, precision, tmp_path), strict=True):
            scores.add(expected, got, int(expected.argmax()))
        divergence[precision.kind] = scores.mean_kl
    assert divergence[Kind.MIXED] < 0.02 < divergence[Kind.INT4], divergence
