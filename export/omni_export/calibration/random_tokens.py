"""Importance without data: the second moments that random tokens give to the inputs of each matrix.

The largest of them belong to few columns, whatever the tokens are. So random ones show most of what text shows.
"""

from __future__ import annotations

import numpy as np

from omni_edge.bundle.manifest import DecoderSection
from omni_edge.decoders.tmrope import Positions
from omni_export.calibration.layers import DecoderLayers
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_export.models.decoder_weights import DecoderWeights
from omni_export.output.progress import ExportProgress, OnProgress
from omni_quant.gptq import DAMPING

RANDOM_TOKENS = "searched, weighted by random tokens"
_SEQUENCES, _LENGTH = 4, 32
_SEED = 0


def random_importance(
    decoder: DecoderWeights, table: LazyTensor, section: DecoderSection, on_progress: OnProgress
) -> dict[str, Array]:
    """Name of each matrix of a decoder's layers -> mean square of each column of its inputs, damped, float32 [columns].

    Args:
        decoder: the layers' weights, which are used in float32; one matrix is in memory at a time.
        table: of the token embeddings, [vocabulary, hidden].
        section: the decoder's sizes.
        on_progress: called before each layer.
    """
    tokens = np.random.default_rng(_SEED).integers(0, table.shape[0], _SEQUENCES * _LENGTH)
    hidden = np.concatenate([table.read(token, token + 1) for token in tokens.tolist()])
    layers = DecoderLayers(decoder.sizes, section, [Positions().text(_LENGTH)] * _SEQUENCES)
    importance: dict[str, Array] = {}

    def matrix(weight: LazyTensor, inputs: Array) -> Array:
        squares = np.square(inputs).mean(axis=0)
        importance[weight.name] = squares + np.float32(DAMPING) * squares.mean()
        return weight.load()

    norm = decoder.first_norm.load()
    for index in range(section.num_layers):
        on_progress(ExportProgress(f"random tokens in layer {index + 1} of {section.num_layers}", 0, 0, 0, 0, None))
        weights = decoder.layer(index)
        hidden = layers.run(hidden, norm, weights, matrix)
        norm = weights.next_norm.load()
    return importance
