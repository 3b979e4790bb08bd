"""Goes through the Thinker layer by layer and quantizes each matrix by what the quantized layers before it give.

Only one layer is in memory, with the hidden values of all sequences. After each layer the results are on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omni_edge.bundle.manifest import DecoderSection
from omni_export.calibration.layers import DecoderLayers
from omni_export.calibration.moments import calibrated, round_activations
from omni_export.calibration.results import Results
from omni_export.calibration.sequences import Sequences
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_export.graph.rounding import round_blockwise
from omni_export.models.decoder_weights import DecoderWeights
from omni_export.output.progress import ExportProgress, OnProgress
from omni_quant.blockwise import BlockwiseWeight, dequantize_blockwise
from omni_quant.precision import Kind, WeightFormat

RECIPE = "GPTQ"


@dataclass(frozen=True)
class Calibration:
    """A finished calibration.

    Attributes:
        sha256: of the sequences.
        tokens: their number.
        matrices: names of the weights that were quantized with feedback.
        quantize: gives those matrices, and rounds all others; for `GraphBuilder.quantize`.
    """

    sha256: str
    tokens: int
    matrices: frozenset[str]
    quantize: Callable[[LazyTensor, WeightFormat], BlockwiseWeight]


def calibrates(formats: Mapping[str, WeightFormat]) -> bool:
    """Whether a graph with matrices in these formats has any that calibration improves."""
    return any(map(_with_feedback, formats.values()))


def _with_feedback(weights: WeightFormat) -> bool:
    # INT8 loses nothing that calibration could find.
    return weights.kind is Kind.INT4 and weights.float16_scales


def calibrate(
    decoder: DecoderWeights,
    head: LazyTensor,
    section: DecoderSection,
    formats: Mapping[str, WeightFormat],
    folder: Path,
    make: Callable[[], Sequences],
    on_progress: OnProgress,
) -> Calibration:
    """Quantizes the INT4 matrices of a decoder.

    Args:
        decoder: the layers' weights.
        head: the output head, [vocabulary, hidden].
        section: the decoder's sizes.
        formats: name of a weight -> its format.
        folder: for the results; what an interrupted calibration has left there is taken over.
        make: gives the sequences, where no earlier run has left them.
        on_progress: called before each layer.
    """
    results = Results(folder)
    sequences = results.sequences()
    if sequences is None:
        on_progress(ExportProgress("inputs of the calibration", 0, 0, 0, 0, None))
        sequences = make()
        results.keep_sequences(sequences)
    done, hidden = results.finished()
    if hidden is None:
        hidden = sequences.embeds
    layers = DecoderLayers(decoder.sizes, section, sequences.split_positions())
    count = section.num_layers
    norm = (decoder.layer(done - 1).next_norm if done else decoder.first_norm).load()
    began, first = time.monotonic(), done
    for index in range(done, count):
        remaining = (time.monotonic() - began) / (index - first) * (count - index) if index > first else None
        on_progress(ExportProgress(f"calibration of layer {index + 1} of {count}", 0, 0, 0, 0, remaining))
        weights, matrices = decoder.layer(index), _Matrices(formats)
        hidden = layers.run(hidden, norm, weights, matrices)
        results.keep_layer(index, matrices.quantized, hidden)
        norm = weights.next_norm.load()
    last = _Matrices(formats)
    if head.name in formats and _with_feedback(formats[head.name]):
        on_progress(ExportProgress("calibration of the head", 0, 0, 0, 0, None))
        last(head, layers.norm(hidden, norm), values=False)
    results.keep_layer(count, last.quantized, None)
    return _finished(results, sequences, count + 1)


class _Matrices:
    """Quantizes the matrices of one layer as they are used.

    Args:
        formats: name of a weight -> its format.

    Attributes:
        quantized: name -> the matrices with feedback.
    """

    def __init__(self, formats: Mapping[str, WeightFormat]) -> None:
        self._formats = formats
        self.quantized: dict[str, BlockwiseWeight] = {}

    def __call__(self, weight: LazyTensor, inputs: Array, *, values: bool = True) -> Array:
        """The matrix as the bundle stores it, float32 [out, in]; rounds `inputs` as the product does."""
        weights = self._formats.get(weight.name)
        # What the checkpoint has quantized stays as it is; the rest of such a stack is rounded.
        if weights is None or weight.parts:
            return weight.load()
        round_activations(inputs, weights)
        if _with_feedback(weights):
            stored = self.quantized[weight.name] = calibrated(weight, weights, inputs)
        else:
            stored = round_blockwise(weight, weights)
        return dequantize_blockwise(stored) if values else inputs


def _finished(results: Results, sequences: Sequences, count: int) -> Calibration:
    places = {name: layer for layer in range(count) for name in results.names(layer)}

    def quantize(weight: LazyTensor, weights: WeightFormat) -> BlockwiseWeight:
        if weight.name in places:
            return results.matrix(places[weight.name], weight.name)
        return round_blockwise(weight, weights)

    return Calibration(sequences.sha256(), len(sequences.embeds), frozenset(places), quantize)
