"""Calibration through all layers: better than rounding, the same every time, and taken up again where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from omni_edge.decoders.tmrope import Positions
from omni_export.calibration.calibrate import Calibration, calibrate
from omni_export.calibration.layers import DecoderLayers
from omni_export.calibration.moments import round_activations
from omni_export.calibration.random_tokens import random_importance
from omni_export.calibration.sequences import Sequences
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_export.graph.rounding import round_blockwise
from omni_export.models import decoder
from omni_export.models.decoder_weights import DecoderWeights
from omni_export.output.progress import ExportProgress
from omni_quant import BlockwiseWeight, dequantize_blockwise
from omni_quant.precision import Activations, Kind, Scales, WeightFormat
from support.checkpoints import write_checkpoint

INT4 = WeightFormat(
    Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP, group_size=32, float16_scales=True, zero_points=True
)
INT8 = WeightFormat(Kind.INT8, Scales.GROUP, Activations.INT8_PER_GROUP, group_size=32, float16_scales=True)
Quantize = Callable[[LazyTensor, WeightFormat], BlockwiseWeight]


class Model:
    """The Thinker of a small random checkpoint whose widths are no multiple of a group's."""

    def __init__(self, path: Path) -> None:
        self.path, checkpoint = path, Checkpoint(path)
        self.config = OmniConfig.parse(checkpoint.config).thinker.text
        self.weights = DecoderWeights(checkpoint.scope("thinker.model"), self.config)
        self.head = decoder.thinker_head(checkpoint.scope("thinker"), self.config)
        self.section = decoder.section(self.config)
        layers = [self.weights.layer(index) for index in range(self.config.num_layers)]
        matrices = [matrix for layer in layers for matrix in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        self.formats = {**{matrix.name: INT4 for matrix in matrices}, self.head.name: INT4}

    def sequences(self, seed: int, count: int = 12) -> Sequences:
        """Random embeds of which a few directions hold most of the variance."""
        random = np.random.default_rng(seed)
        directions = np.random.default_rng(0).standard_normal((10, self.config.hidden_size), np.float32)
        embeds = random.standard_normal((count * 64, 10), np.float32) @ directions
        embeds += 0.3 * random.standard_normal(embeds.shape, np.float32)
        positions = np.concatenate([Positions().text(64) for _ in range(count)], axis=1)
        return Sequences(embeds, positions, (64,) * count)

    def calibrate(self, folder: Path, on_progress: Callable[[ExportProgress], None] = lambda _: None) -> Calibration:
        return calibrate(
            self.weights,
            self.head,
            self.section,
            self.formats,
            folder,
            lambda: self.sequences(1),
            on_progress,
        )

    def logits(self, sequences: Sequences, quantize: Quantize | None) -> Array:
        """Logits of all positions, through quantized matrices and activations, or in float32."""

        def matrix(weight: LazyTensor, inputs: Array) -> Array:
            if quantize is None:
                return weight.load()
            weights = self.formats[weight.name]
            round_activations(inputs, weights)
            return dequantize_blockwise(quantize(weight, weights))

        layers = DecoderLayers(self.weights.sizes, self.section, sequences.split_positions())
        hidden, norm = sequences.embeds, self.weights.first_norm.load()
        for index in range(self.config.num_layers):
            layer = self.weights.layer(index)
            hidden, norm = layers.run(hidden, norm, layer, matrix), layer.next_norm.load()
        normed = layers.norm(hidden, norm)
        return normed @ matrix(self.head, normed).T


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_checkpoint(tmp_path_factory.mktemp("calibrated") / "checkpoint", "ragged"))


@pytest.fixture(scope="module")
def calibrated(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return model.calibrate(tmp_path_factory.mktemp("results") / "calibration")


def test_calibration_removes_a_third_of_the_error_of_rounding(model: Model, calibrated: Calibration) -> None:
    unseen = model.sequences(2)
    wanted = model.logits(unseen, None)

    def error(quantize: Quantize) -> float:
        return float(np.square(model.logits(unseen, quantize) - wanted).sum())

    assert error(calibrated.quantize) < 0.67 * error(round_blockwise)


def test_random_tokens_show_which_columns_count(model: Model) -> None:
    table = Checkpoint(model.path).scope("thinker.model")("embed_tokens.weight")
    importance = random_importance(model.weights, table, model.section, lambda _: None)
    assert set(importance) == set(model.formats) - {model.head.name}
    unseen = model.sequences(2)
    inputs: dict[str, Array] = {}
    layers = DecoderLayers(model.weights.sizes, model.section, unseen.split_positions())

    def matrix(weight: LazyTensor, x: Array) -> Array:
        inputs[weight.name] = x.copy()
        return weight.load()

    first = model.weights.layer(0)
    layers.run(unseen.embeds, model.weights.first_norm.load(), first, matrix)
    for name, x in inputs.items():
        # Silent columns are the padding of attention's heads.
        silent = ~x.any(axis=0)
        assert silent.any() == (name == first.out.name)
        assert (importance[name][silent] < 0.02 * importance[name].mean()).all()
        assert (importance[name] > 0).all()


def test_every_matrix_in_int4_is_calibrated_and_named(model: Model, calibrated: Calibration) -> None:
    assert calibrated.matrices == set(model.formats)
    assert calibrated.tokens == 12 * 64
    assert calibrated.sha256 == model.sequences(1).sha256() != model.sequences(2).sha256()


def same(model: Model, first: Calibration, second: Calibration) -> bool:
    weights = [model.weights.layer(index).down for index in range(model.config.num_layers)] + [model.head]
    pairs = [[each.quantize(weight, INT4) for each in (first, second)] for weight in weights]
    return all(
        np.array_equal(one.packed, other.packed)
        and np.array_equal(one.scales, other.scales)
        and np.array_equal(one.zero_points, other.zero_points)
        for one, other in pairs
    )


def test_it_gives_the_same_every_time(model: Model, calibrated: Calibration, tmp_path: Path) -> None:
    assert same(model, model.calibrate(tmp_path / "again"), calibrated)


@pytest.mark.parametrize("damage", ["", "layer-0.npz", "hidden-1.npz", "inputs.npz"])
def test_a_stopped_calibration_goes_on_to_the_same_result(
    damage: str, model: Model, calibrated: Calibration, tmp_path: Path
) -> None:
    def stop(news: ExportProgress) -> None:
        if "layer 2" in news.item:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.calibrate(tmp_path / "calibration", stop)
    if damage:
        path = tmp_path / "calibration" / damage
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    items: list[str] = []
    resumed = model.calibrate(tmp_path / "calibration", lambda news: items.append(news.item))
    assert same(model, resumed, calibrated)
    assert any("layer 1" in item for item in items) == bool(damage)


def test_matrices_in_other_formats_are_rounded(model: Model, tmp_path: Path) -> None:
    other = Model.__new__(Model)
    other.__dict__.update(model.__dict__, formats={**model.formats, model.head.name: INT8})
    done = other.calibrate(tmp_path / "calibration")
    assert model.head.name not in done.matrices
    stored, rounded = done.quantize(model.head, INT8), round_blockwise(model.head, INT8)
    assert np.array_equal(stored.packed, rounded.packed)
