"""The quantization steps of an INT8 KV cache, from the extremes that a calibration text leaves in the Thinker's cache.

A key channel rotates together with its partner, so both take the largest radius of the pair. The range then does not
depend on the positions in the calibration text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import DecoderSection, GraphEntry
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.decoders.tmrope import Positions
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_export.checkpoint.text import SPEECH_SYSTEM
from omni_export.models.decoder import CacheScales

_TEXT = (
    f"<|im_start|>system\n{SPEECH_SYSTEM}<|im_end|>\n<|im_start|>user\nPlease tell me how bread is made, 3 steps at "
    "most; then count from 1 to 12, name five colours, and say good-bye in French, German and Japanese.<|im_end|>\n"
    "<|im_start|>assistant\nFirst, mix 500 g of flour, 350 ml of warm water, salt and yeast, and knead the dough for "
    "ten minutes. Second, let it rest under a cloth until it has doubled. Third, bake it at 220 degrees! One, two, "
    "three, four, five, six, seven, eight, nine, ten, eleven, twelve. Red, green, blue, yellow, black. "
    "Au revoir, auf Wiedersehen, さようなら.<|im_end|>\n"
)
# Other texts, sounds and pictures reach further than this text. Values beyond the range are clipped.
_MARGIN = 1.5
_LEVELS = 127


def cache_scales(
    folder: Path, entry: GraphEntry, section: DecoderSection, table: LazyTensor, tokenizer: Tokenizer
) -> CacheScales:
    """Runs the Thinker, with its float32 cache, over the calibration text.

    Args:
        folder: the folder of the graph.
        entry: the graph's entry in the manifest.
        section: the Thinker's sizes.
        table: text embeddings, float32 [vocabulary, hidden].
        tokenizer: the checkpoint's tokenizer.
    """
    tokens = tokenizer.encode(_TEXT, add_special_tokens=False).ids
    embeds = np.concatenate([table.read(token, token + 1) for token in tokens])[None]
    decoder = Decoder(Graph(folder / entry.file, entry.inputs, entry.outputs), section)
    cache = KVCache.allocate(section, len(tokens))
    decoder.step({"embeds": embeds}, Positions().text(len(tokens)), cache)
    keys = np.stack([_pair_radius(layer[0]) for layer in cache.keys])
    values = np.stack([np.abs(layer[0]).max(axis=1) for layer in cache.values])
    return CacheScales(_steps(keys), _steps(values))


def _pair_radius(keys: Array) -> Array:
    """The largest radius of each rotary pair: [kv_heads, positions, head_dim] -> [kv_heads, head_dim]."""
    first, second = np.split(keys, 2, axis=-1)
    radius = np.sqrt(first**2 + second**2).max(axis=1)
    return np.concatenate([radius, radius], axis=-1)


def _steps(extremes: Array) -> Array:
    """Steps [layers, kv_heads * head_dim] of extremes [layers, kv_heads, head_dim]; 1 where all are 0."""
    steps = (extremes * np.float32(_MARGIN / _LEVELS)).reshape(len(extremes), -1)
    steps[steps == 0] = 1
    return np.ascontiguousarray(steps, np.float32)
