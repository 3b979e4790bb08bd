"""The Thinker's calibration within an export: what it is made with, when it runs, and what the manifest says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_edge.bundle.manifest import CalibrationEntry, GraphEntry, Manifest
from omni_export.calibration.calibrate import RECIPE, Calibration, calibrate, calibrates
from omni_export.calibration.material import BUILT_IN, NONE, Sample, built_in_samples, folder_files, folder_samples
from omni_export.calibration.random_tokens import RANDOM_TOKENS, random_importance
from omni_export.calibration.sequences import Sequences, make_sequences
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.rounding import round_blockwise
from omni_export.models import decoder
from omni_export.models.decoder_weights import DecoderWeights
from omni_export.output.partial_bundle import PartialBundle
from omni_export.output.progress import OnProgress
from omni_quant.precision import WeightFormat

_LAYER = re.compile(r"(?<=layers\.)\d+")


class ThinkerCalibration:
    """Calibrates the Thinker of one export.

    Args:
        checkpoint: holds the weights.
        config: of the checkpoint.
        source: "built-in", "none" or a folder.

    Attributes:
        entry: for the manifest; None: nothing was calibrated.
        methods: name of a weight -> how it was quantized, where that is no plain search or rounding.
    """

    def __init__(self, checkpoint: Checkpoint, config: OmniConfig, source: str) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._source = source
        self._wanted = False
        self._samples: list[Sample] = []
        self.entry: CalibrationEntry | None = None
        self.methods: dict[str, str] = {}

    def fingerprint(self) -> list[Any]:
        """What must be equal for a calibration to be taken over: the folder's files."""
        if self._source in (BUILT_IN, NONE):
            return []
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in folder_files(Path(self._source))]

    @property
    def active(self) -> bool:
        """Whether results of a calibration will take disk space; known after `prepare`."""
        return bool(self._samples)

    def prepare(self, builder: GraphBuilder) -> None:
        """Reads what is shown to the Thinker of `builder`.

        Raises:
            MediaError: the folder or one of its files cannot be used.
        """
        self._wanted = calibrates(_formats(builder))
        if self._source == NONE or not self._wanted:
            return
        self._samples = built_in_samples() if self._source == BUILT_IN else folder_samples(Path(self._source))

    def run(
        self,
        builder: GraphBuilder,
        partial: PartialBundle,
        manifest: Manifest,
        graphs: Mapping[str, GraphEntry],
        on_progress: OnProgress,
    ) -> None:
        """Calibrates, where there is something to calibrate; afterwards `builder` writes the result.

        Args:
            builder: of the Thinker's graph.
            partial: the export's folder, with the token embedding, both encoders and the tokenizer.
            manifest: of the bundle that is being written.
            graphs: entries of the graphs that are written.
            on_progress: called at every step.
        """
        if not self._wanted:
            return
        text, weights = self._config.thinker.text, self._checkpoint.scope("thinker")
        layers, section = DecoderWeights(weights.scope("model"), text), decoder.section(text)
        if self._source == NONE:
            table = weights("model.embed_tokens.weight", (text.vocab_size, text.hidden_size))
            importance = random_importance(layers, table, section, on_progress)
            builder.quantize = lambda weight, form: round_blockwise(
                weight, form, importance.get(weight.name) if form.zero_points else None
            )
            self.methods = dict.fromkeys(importance, RANDOM_TOKENS)
            return

        def sequences() -> Sequences:
            return make_sequences(self._samples, partial.folder, manifest, graphs)

        done: Calibration = calibrate(
            layers,
            decoder.thinker_head(weights, text),
            section,
            _formats(builder),
            partial.calibration,
            sequences,
            on_progress,
        )
        builder.quantize = done.quantize
        source = self._source if self._source == BUILT_IN else Path(self._source).resolve().name
        self.entry = CalibrationEntry(source, done.tokens, done.sha256)
        self.methods = dict.fromkeys(done.matrices, RECIPE)


def _formats(builder: GraphBuilder) -> dict[str, WeightFormat]:
    return dict(builder.matrices.values())


def graph_recipes(builder: GraphBuilder, methods: Mapping[str, str]) -> dict[str, str]:
    """How each matrix of a graph was quantized: name -> recipe. Layers that are alike share a name with `{layer}`.

    Args:
        builder: of the graph.
        methods: name of a checkpoint's weight -> method, where it is no plain search; for formats with zero points.
    """
    recipes = {
        name: recipe(weights, methods.get(weight, "searched") if weights.zero_points else "rounded")
        for name, (weight, weights) in builder.matrices.items()
    }
    recipes |= {name: recipe(weights, "as the checkpoint has it") for name, (_, weights) in builder.published.items()}
    shared: dict[str, set[str]] = {}
    for name, text in recipes.items():
        shared.setdefault(_LAYER.sub("{layer}", name), set()).add(text)
    return {
        pattern if len(shared[pattern := _LAYER.sub("{layer}", name)]) == 1 else name: text
        for name, text in recipes.items()
    }


def recipe(weights: WeightFormat, method: str) -> str:
    """A format and a method in words: "int4 g32, zero points, 4.625 bits, GPTQ"."""
    return f"{weights}, {method}"
