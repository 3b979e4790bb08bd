"""The decoder layers that calibration runs are those of the model, with the activations of the bundle's products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from omni_edge.decoders.tmrope import Positions
from omni_export.calibration.layers import DecoderLayers
from omni_export.calibration.moments import round_activations
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.models import decoder
from omni_export.models.decoder_weights import DecoderWeights
from omni_quant.precision import Activations, Kind, Scales, WeightFormat
from support.checkpoints import Case


def test_layers_are_those_of_the_reference(case: Case, reference: Any) -> None:
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config).thinker.text
    weights = DecoderWeights(checkpoint.scope("thinker.model"), config)
    # Two sequences that do not see each other: text, and two moments of a video.
    positions = [Positions().text(9), Positions().vision(np.arange(2), 3, 4)]
    random = np.random.default_rng(0)
    embeds = [random.standard_normal((ids.shape[1], config.hidden_size), np.float32) for ids in positions]
    with torch.no_grad():
        expected = [
            reference.thinker.model.language_model(
                inputs_embeds=torch.from_numpy(vectors)[None], position_ids=torch.from_numpy(ids.copy())[:, None]
            ).last_hidden_state[0]
            for vectors, ids in zip(embeds, positions, strict=True)
        ]
    layers = DecoderLayers(weights.sizes, decoder.section(config), positions)
    hidden, norm = np.concatenate(embeds), weights.first_norm.load()
    for index in range(config.num_layers):
        layer = weights.layer(index)
        hidden, norm = layers.run(hidden, norm, layer, lambda weight, _: weight.load()), layer.next_norm.load()
    np.testing.assert_allclose(layers.norm(hidden, norm), torch.cat(expected).numpy(), atol=1e-4)


def test_activations_are_rounded_in_groups() -> None:
    weights = WeightFormat(Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP, group_size=4)
    x = np.array([[127, 1.4, -50.6, 0, 254, 3, 0, 0, 12.7, 0.04]], np.float32)
    round_activations(x, weights)
    np.testing.assert_allclose(x, [[127, 1, -51, 0, 254, 4, 0, 0, 12.7, 0]], rtol=1e-6)


def test_activations_of_products_in_float32_stay_as_they_are() -> None:
    x = np.array([[1.23, 4.56]], np.float32)
    round_activations(x, WeightFormat(Kind.INT8, Scales.GROUP, Activations.FLOAT32, group_size=2))
    assert x.tolist() == np.array([[1.23, 4.56]], np.float32).tolist()
