"""The checkpoint around a real language model: what is written runs as the model that it was made of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from omni_edge.backend.graph import Graph
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import Decoder
from omni_edge.decoders.thinker import Thinker, ThinkerBlock
from omni_edge.decoders.tmrope import Positions
from omni_export import ExportOptions, export_bundle
from omni_quant.precision import Precision
from support.checkpoints import CHAT_TEMPLATE, VOCABULARY, write_tokenizer

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "smollm2_checkpoint.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smollm2_checkpoint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def llama() -> LlamaForCausalLM:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )  # fmt: skip
    return LlamaForCausalLM(config).float().eval()


def tokenizer(folder: Path, script: ModuleType) -> PreTrainedTokenizerFast:
    """One whose vocabulary is that of `llama`, as that of SmolLM2 is: no token is left over for media."""
    write_tokenizer(folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    missing = VOCABULARY - backend.get_vocab_size() - 1
    names = [script.UNUSED_TOKEN, *(f"<unused {number}>" for number in range(missing))]
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def test_the_runtime_computes_the_logits_of_the_language_model(script: ModuleType, tmp_path: Path) -> None:
    model = llama()
    script.write_checkpoint(model, tokenizer(tmp_path, script), tmp_path / "checkpoint")
    export_bundle(str(tmp_path / "checkpoint"), tmp_path / "bundle", ExportOptions(Precision(), text_only=True))
    bundle = Bundle(tmp_path / "bundle")
    section = bundle.manifest.thinker
    assert section.mrope_section == (4, 6, 6)
    assert section.rope_theta == 100_000.0
    thinker = Thinker(
        Decoder(Graph.from_bundle(bundle, "thinker", 1), section), Graph.from_bundle(bundle, "token_embedding", 1)
    )
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 40)
    block = ThinkerBlock(tokens, thinker.embed(tokens), Positions().text(40), np.arange(1, 41))
    _, logits = thinker.step([block], thinker.cache(40))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)[None]).logits[0, -1].numpy()
    assert logits.size % script.VOCABULARY_MULTIPLE == 0
    np.testing.assert_allclose(logits[:VOCABULARY], expected, rtol=0, atol=1e-5)
    # The added tokens are as unlikely as the one whose row they have.
    np.testing.assert_array_equal(logits[VOCABULARY:], np.float32(logits[bundle_token(bundle, script)]))


def bundle_token(bundle: Bundle, script: ModuleType) -> int:
    token = Tokenizer.from_file(str(bundle.path / "tokenizer.json")).token_to_id(script.UNUSED_TOKEN)
    assert token is not None
    return int(token)


def test_dither_moves_every_weight_by_at_most_half_a_step_of_its_block(script: ModuleType) -> None:
    random = np.random.default_rng(1)
    grid = random.integers(0, 16, (8, 4, 32)).astype(np.float32)
    grid[..., 0], grid[..., 1] = 0, 15
    step = np.float32([0.5, 2.0, 1.0, 0.25])[:, None]
    weights = (grid * step).reshape(8, 128)
    moved = weights.copy()
    script.dither(moved, np.random.default_rng(0))
    difference = (moved - weights).reshape(8, 4, 32) / step
    assert np.abs(difference).max() <= 0.5
    assert difference.std() == pytest.approx(1 / np.sqrt(12), rel=0.05)
    again = weights.copy()
    script.dither(again, np.random.default_rng(0))
    np.testing.assert_array_equal(again, moved)
