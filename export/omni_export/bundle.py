"""Checkpoint to bundle: builds every graph, writes one after the other, and describes all in `bundle.json`.

Everything is written to `<out>.partial` (`output.partial_bundle`). Only a complete bundle is renamed to `<out>`.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from omni_edge.backend import kernels
from omni_edge.backend.graph import prepare_graph
from omni_edge.backend.qnn import TARGETS, require_plugin
from omni_edge.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    FileEntry,
    Manifest,
    Origin,
    PositionSection,
    StaticSection,
    TextSection,
)
from omni_edge.errors import CheckpointError, ResourceError, UsageError
from omni_export.calibration.material import BUILT_IN
from omni_export.calibration.thinker import ThinkerCalibration, graph_recipes
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.checkpoint.licence import stated_licence
from omni_export.checkpoint.preprocessor import audio_settings, image_settings
from omni_export.checkpoint.text import TALKER_SAMPLING, read_tokenizer, sampling_section, text_section
from omni_export.graph.builder import GraphBuilder, GraphFile
from omni_export.kv_cache_scales import cache_scales
from omni_export.models import audio_encoder, decoder, vision_encoder
from omni_export.models.static_decoder import static_talker, static_thinker
from omni_export.models.token2wav import bigvgan, dit, dit_time, voices
from omni_export.output.graph_entry import graph_entry
from omni_export.output.partial_bundle import PartialBundle, WrittenGraph
from omni_export.output.progress import OnProgress, ProgressMeter
from omni_export.output.target import refuse_occupied, refuse_source, resolve_target
from omni_quant.policy import POLICY, default_precision
from omni_quant.precision import EXPORT_KINDS, GROUP_SIZES, Kind, Precision

ROLES = tuple(POLICY)
# Weights from which compiling the operators, half a minute, is repaid by their quantization.
_MANY_WEIGHTS = 250_000_000
# Positions of the static graphs' caches, unless asked otherwise: a few minutes of talk.
STATIC_CONTEXT = 2048
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


@dataclass(frozen=True)
class ExportOptions:
    """What to export and how.

    Attributes:
        precision: of every graph that `precision_of` does not name; see `omni_quant.policy`.
        precision_of: role -> precision.
        voices: names of the voices to keep; None: all.
        text_only: the Talker and token2wav are left out.
        force: an existing bundle is replaced.
        resume: graphs that an interrupted export has finished are kept, if checkpoint and options are the same.
        int8_cache: the Thinker's keys and values are INT8, a quarter of the memory.
        calibration: of the Thinker's INT4 matrices: "built-in", "none" or a folder with texts, sounds and pictures.
        target: the NPU for which static graphs of the decoders are added, one of `omni_edge.backend.qnn.TARGETS`.
        static_context: positions of the static graphs' caches.
        compile: the static graphs are compiled for the target, which takes onnxruntime-qnn.

    Raises:
        UsageError: an unknown graph in `precision_of`, a precision that no export asks for, an unsupported group size,
            an unknown target, or none to compile for.
        ResourceError: onnxruntime-qnn is not installed.
    """

    precision: Precision
    precision_of: dict[str, Precision] = field(default_factory=dict)
    voices: tuple[str, ...] | None = None
    text_only: bool = False
    force: bool = False
    resume: bool = False
    int8_cache: bool = False
    calibration: str = BUILT_IN
    target: str | None = None
    static_context: int = STATIC_CONTEXT
    compile: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.precision_of) - set(ROLES)):
            raise UsageError(f"There is no graph {', '.join(unknown)}; the graphs are {', '.join(ROLES)}.")
        if self.target is not None and self.target not in TARGETS:
            raise UsageError(f"There is no target {self.target}; the targets are {', '.join(TARGETS)}.")
        if self.compile:
            if self.target is None:
                raise UsageError("--compile compiles the graphs of --target: say for which NPU, or leave it out.")
            require_plugin()
        for precision in (self.precision, *self.precision_of.values()):
            if precision.kind not in EXPORT_KINDS:
                kinds = ", ".join(kind.value for kind in EXPORT_KINDS)
                raise UsageError(f"The precision is {precision.kind.value}; it must be one of {kinds}.")
            if precision.group_size not in GROUP_SIZES:
                choices = ", ".join(map(str, GROUP_SIZES))
                raise UsageError(f"The group size is {precision.group_size}; it must be one of {choices}.")

    def precision_for(self, role: str) -> Precision:
        """The precision of graph `role`."""
        return self.precision_of.get(role) or default_precision(role, self.precision)


@dataclass(frozen=True)
class GraphRow:
    """A line of the export's table.

    Attributes:
        role: of the graph.
        nodes: the number of nodes.
        precision: what the manifest states.
        nbytes: of all its files.
        seconds: the time that writing the graph took.
    """

    role: str
    nodes: int
    precision: str
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class ExportReport:
    """The bundle that was written.

    Attributes:
        path: the bundle's folder.
        graphs: a row per graph.
        nbytes: of all files.
        notes: sentences for the user.
    """

    path: Path
    graphs: list[GraphRow]
    nbytes: int
    notes: tuple[str, ...] = ()


def export_bundle(
    checkpoint: str, out: Path, options: ExportOptions, progress: OnProgress | None = None
) -> ExportReport:
    """Writes the bundle of a checkpoint.

    Args:
        checkpoint: a folder, or an id on the hub, which is downloaded first.
        out: the bundle's folder; a new or an empty one, or with `options.force` a bundle that is replaced.
        options: see `ExportOptions`.
        progress: called at every step.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: `out` may not be replaced or is being written; an unknown voice.
        ResourceError: the disk is full, or `out` cannot be written.
    """
    target = resolve_target(out)
    refuse_occupied(out, target, force=options.force)
    folder = find_checkpoint(checkpoint)
    refuse_source(out, target, folder)
    export = _Export(Checkpoint(folder), checkpoint, out, options)
    with _disk_full(out):
        return export.run(progress or (lambda _: None))


@contextmanager
def _disk_full(out: Path) -> Iterator[None]:
    """Turns the error of a full disk into a ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise ResourceError(
            f"Writing {out} failed: {error.strerror}. Free some disk space and go on with --resume, or choose another "
            "--out."
        ) from error


def find_checkpoint(checkpoint: str) -> Path:
    """The folder of `checkpoint`; an id on the hub is downloaded.

    Raises:
        CheckpointError: there is no such folder, and the download failed.
    """
    path = Path(checkpoint).expanduser()
    if path.exists() or checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only for ids)

    try:
        return Path(snapshot_download(checkpoint))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"There is no folder {checkpoint}, and downloading it from the hub failed ({reason}). "
            "Check the name and the network, or give the folder of a downloaded checkpoint."
        ) from None


class _Export:
    """One export in progress."""

    def __init__(self, checkpoint: Checkpoint, source: str, out: Path, options: ExportOptions) -> None:
        self.checkpoint = checkpoint
        self.source = source
        self.out = out
        self.options = options
        self.config = OmniConfig.parse(checkpoint.config, speech=not options.text_only)
        if options.voices and self.config.talker is None:
            raise UsageError(f"{checkpoint.path} is exported without speech, so it has no voice. Leave --voice out.")
        limit = self.config.thinker.text.max_positions
        if options.target and not 0 < options.static_context <= limit:
            raise UsageError(
                f"The NPU's context is {options.static_context}; this model holds from 1 to {limit} positions."
            )
        self.calibration = ThinkerCalibration(checkpoint, self.config, options.calibration)
        self.partial = PartialBundle(out, self._fingerprint())

    def run(self, on_progress: OnProgress) -> ExportReport:
        # Everything that can be refused is refused before the first weight is written.
        builders = self._builders()
        self.calibration.prepare(builders["thinker"])
        speakers = voices.read(self.checkpoint, self.config, self.options.voices) if self.config.talker else None
        tokenizer_file = read_tokenizer(self.checkpoint)
        tokenizer = tokenizer_file.tokenizer
        manifest = self._manifest(text_section(self.checkpoint, self.config, tokenizer))
        with self.partial.opened(resume=self.options.resume, force=self.options.force) as written:
            tokenizer_file.write(self.partial.folder)
            self._write(builders, written, manifest, tokenizer, on_progress)
            manifest = dataclasses.replace(
                manifest,
                static=self._static_graphs(builders, on_progress),
                voices=speakers.write(self.partial.folder) if speakers else None,
                graphs={role: written[role].entry for role in builders},
                files=self.partial.files(written),
            )
            self.partial.finish(manifest.to_json())
        rows = [
            GraphRow(role, graph.entry.nodes, graph.entry.precision, graph.nbytes, graph.seconds)
            for role, graph in ((role, written[role]) for role in builders)
        ]
        return ExportReport(self.out, rows, sum(entry.bytes for entry in manifest.files.values()), self._notes())

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if quantized := self.checkpoint.quantized:
            notes += quantized.notes(kept=self.options.precision_for("thinker").kind is not Kind.FP32)
        if not (self.config.talker or self.options.text_only):
            kind = "the Thinker alone" if self.checkpoint.thinker_only else "no Talker"
            notes.append(f"{self.checkpoint.path} holds {kind}: the bundle is text-only.")
        return tuple(notes)

    def _write(
        self,
        builders: dict[str, GraphBuilder],
        written: dict[str, WrittenGraph],
        manifest: Manifest,
        tokenizer: Tokenizer,
        on_progress: OnProgress,
    ) -> None:
        """Writes the graphs that are not in `written` yet, and adds them there."""
        todo = {role: builder for role, builder in builders.items() if role not in written}
        # A calibration's results take as much as the graph that they are copied into.
        results = todo["thinker"].data_nbytes if "thinker" in todo and self.calibration.active else 0
        self.partial.require(sum(builder.data_nbytes for builder in todo.values()) + results)
        began = time.monotonic()
        done = sum(graph.nbytes for graph in written.values())
        total = done + sum(builder.data_nbytes for builder in todo.values())
        weights = sum(builder.weights for builder in todo.values())
        meter = ProgressMeter(on_progress, total, weights, done)
        if weights >= _MANY_WEIGHTS:
            meter.start("operators, compiled for this machine once", 0)
            with suppress(ResourceError):  # numpy does the same
                kernels.build()
        for role, builder in todo.items():
            if role == "thinker":
                entries = {role: graph.entry for role, graph in written.items()}
                self.calibration.run(builder, self.partial, manifest, entries, on_progress)
            meter.start(role, builder.data_nbytes)
            saved = builder.save(self.partial.folder, meter.wrote)
            if role == "thinker" and self.options.int8_cache:
                meter.start("ranges of the Thinker's cache", 0)
                saved = self._with_int8_cache(builder, saved, tokenizer)
            ended = time.monotonic()
            written[role] = self._written(builder, saved, ended - began)
            began = ended
            self.partial.note(written)
        self.partial.drop_calibration()

    # -- the parts ---------------------------------------------------------------------------------------------

    def _builders(self) -> dict[str, GraphBuilder]:
        weights, config, precision = self.checkpoint.scope, self.config, self.options.precision_for
        thinker = config.thinker
        builders = {
            "audio_encoder": audio_encoder.build(
                weights("thinker.audio_tower"), thinker.audio, precision("audio_encoder")
            ),
            "vision_encoder": vision_encoder.build(
                weights("thinker.visual"), thinker.vision, precision("vision_encoder")
            ),
            "token_embedding": decoder.build_token_embedding(
                weights("thinker.model"), thinker.text, precision("token_embedding")
            ),
            "thinker": decoder.build_thinker(weights("thinker"), thinker.text, precision("thinker")),
        }
        if config.talker and config.dit and config.bigvgan:
            builders["talker"] = decoder.build_talker(weights("talker"), config.talker, precision("talker"))
            builders["dit"] = dit.build(weights(dit.PREFIX), config.dit, precision("dit"))
            builders["dit_time"] = dit_time.build(weights(dit.PREFIX), config.dit, precision("dit_time"))
            builders["bigvgan"] = bigvgan.build(weights(bigvgan.PREFIX), config.bigvgan, precision("bigvgan"))
        return builders

    def _with_int8_cache(self, builder: GraphBuilder, saved: GraphFile, tokenizer: Tokenizer) -> GraphFile:
        """Writes the Thinker's graph again, with an INT8 cache and the same data file."""
        text, weights = self.config.thinker.text, self.checkpoint.scope("thinker")
        table = weights("model.embed_tokens.weight")
        scales = cache_scales(self.partial.folder, graph_entry(builder, saved), decoder.section(text), table, tokenizer)
        small = decoder.build_thinker(weights, text, self.options.precision_for("thinker"), scales)
        again = small.save(self.partial.folder, write_data=False)
        return dataclasses.replace(again, sha256={**saved.sha256, **again.sha256})

    def _static_graphs(self, builders: dict[str, GraphBuilder], on_progress: OnProgress) -> StaticSection | None:
        """Writes the decoders' static graphs beside the data files that they share."""
        target, context = self.options.target, self.options.static_context
        if target is None:
            return None
        weights, config = self.checkpoint.scope, self.config
        thinker = static_thinker(builders["thinker"], weights("thinker"), config.thinker.text, context)
        talker = static_talker(builders["talker"], weights("talker"), config.talker, context) if config.talker else None
        for builder in (*thinker.builders, *(talker.builders if talker else [])):
            builder.save(self.partial.folder)
        compiled = self.options.compile
        section = StaticSection(target, context, thinker.entry, talker.entry if talker else None, compiled)
        if compiled:
            self._compile(section, on_progress)
        return section

    def _compile(self, section: StaticSection, on_progress: OnProgress) -> None:
        """Puts compiled graphs, each with a file of weights of its own, in the place of those that the NPU runs."""
        folder = self.partial.folder
        meter = ProgressMeter(on_progress, 0, 0)
        with tempfile.TemporaryDirectory(dir=folder.parent) as room:
            for name in section.npu_files:
                meter.start(f"compiling {Path(name).stem}", 0)
                prepare_graph(folder / name, Path(room) / name, section.target)
            for path in Path(room).iterdir():
                path.replace(folder / path.name)

    def _manifest(self, text: TextSection) -> Manifest:
        """The manifest before anything is written: without files, graphs and voices."""
        config, checkpoint = self.config, self.checkpoint
        talker = config.talker
        thinker = config.thinker
        return Manifest(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            generator=f"omni-export {version('omni-edge')}",
            origin=self._origin(),
            files={},
            graphs={},
            text=text,
            thinker=decoder.section(thinker.text, int8_cache=self.options.int8_cache),
            positions=PositionSection(thinker.position_id_per_seconds, thinker.seconds_per_chunk),
            audio=audio_encoder.section(thinker.audio, audio_settings(checkpoint)),
            vision=vision_encoder.section(
                thinker.vision, image_settings(checkpoint), max_positions=thinker.text.max_positions
            ),
            sampling=sampling_section(checkpoint),
            talker_decoder=decoder.section(talker.decoder) if talker else None,
            talker=decoder.talker_section(talker) if talker else None,
            talker_sampling=TALKER_SAMPLING if talker else None,
            token2wav=dit.section(config.dit, config.bigvgan) if config.dit and config.bigvgan else None,
        )

    def _origin(self) -> Origin:
        raw = self.checkpoint.config
        return Origin(
            source=str(raw.get("_name_or_path") or Path(self.source).name),
            licence=stated_licence(self.checkpoint.path),
            dtype=str(raw.get("torch_dtype") or raw.get("dtype") or "unknown"),
        )

    def _written(self, builder: GraphBuilder, saved: GraphFile, seconds: float) -> WrittenGraph:
        paths = [path for path in (saved.graph, saved.data) if path is not None]
        files = {path.name: FileEntry(path.stat().st_size, saved.sha256[path.name]) for path in paths}
        entry = graph_entry(builder, saved)
        if builder.name == "thinker":
            entry = dataclasses.replace(entry, calibration=self.calibration.entry)
        recipes = graph_recipes(builder, self.calibration.methods)
        return WrittenGraph(dataclasses.replace(entry, recipes=recipes or None), files, seconds)

    def _fingerprint(self) -> dict[str, Any]:
        """What must be equal for finished graphs to be kept."""
        files = [(path, path.stat()) for path in self.checkpoint.weight_files]
        options = dataclasses.asdict(dataclasses.replace(self.options, force=False, resume=False))
        return {
            "checkpoint": str(self.checkpoint.path.resolve()),
            "config": hashlib.sha256(json.dumps(self.checkpoint.config, sort_keys=True).encode()).hexdigest(),
            "quantized": str(self.checkpoint.quantized.config) if self.checkpoint.quantized else None,
            "weights": [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in files],
            "options": options,
            "calibration": self.calibration.fingerprint(),
            "generator": version("omni-edge"),
        }
