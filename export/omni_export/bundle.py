"""Checkpoint -> bundle: builds every graph, writes them one by one, and describes the whole in `bundle.json`.

Everything goes into `<out>.partial`; only a complete bundle is renamed to `<out>`. An interrupted export leaves its
finished graphs there for `resume`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omni_edge.errors import CheckpointError, ResourceError, UsageError
from omni_edge.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileEntry,
    GraphEntry,
    Manifest,
    Origin,
    PositionSection,
    sha256_of,
)
from omni_export import audio_encoder, bigvgan, conversation, decoder, dit, dit_time, vision_encoder, voices
from omni_export.calibration import cache_scales
from omni_export.checkpoint import Checkpoint
from omni_export.config import OmniConfig
from omni_export.graph import GraphBuilder, Precision

Progress = Callable[[str, int, int], None]

PERCEPTION_ROLES = ("audio_encoder", "vision_encoder", "token_embedding", "thinker")
SPEECH_ROLES = ("talker", "dit", "dit_time", "bigvgan")
ROLES = PERCEPTION_ROLES + SPEECH_ROLES
GROUP_SIZES = (16, 32, 64, 128, 256)
_PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class ExportOptions:
    """What to export and how.

    Attributes:
        precision: of every graph that `precision_of` does not name, but BigVGAN (see `of`).
        precision_of: role -> precision.
        voices: speakers to keep; None: all.
        text_only: leave the Talker and token2wav out.
        force: replace an existing bundle.
        resume: go on from an interrupted export of the same checkpoint with the same options.
        int8_cache: the Thinker keeps keys and values as INT8: a quarter of the memory, and faster in long contexts.
    """

    precision: Precision
    precision_of: dict[str, Precision] = field(default_factory=dict)
    voices: tuple[str, ...] | None = None
    text_only: bool = False
    force: bool = False
    resume: bool = False
    int8_cache: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.precision_of) - set(ROLES)):
            raise UsageError(f"There is no graph {', '.join(unknown)}; the graphs are {', '.join(ROLES)}.")
        for precision in (self.precision, *self.precision_of.values()):
            if precision.group_size not in GROUP_SIZES:
                choices = ", ".join(map(str, GROUP_SIZES))
                raise UsageError(f"The group size is {precision.group_size}; it must be one of {choices}.")

    def of(self, role: str) -> Precision:
        """The precision of graph `role`. BigVGAN stays in float32 unless it is named: its INT8 form is faster and four
        times smaller, and can be heard.
        """
        return self.precision_of.get(role, Precision("fp32") if role == "bigvgan" else self.precision)


@dataclass(frozen=True)
class GraphRow:
    """A line of the export's table."""

    role: str
    nodes: int
    precision: str
    nbytes: int


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    path: Path
    graphs: list[GraphRow]
    nbytes: int


def export_bundle(checkpoint: str, out: Path, options: ExportOptions, progress: Progress | None = None) -> ExportReport:
    """Writes the bundle of `checkpoint` (a folder, or a hub id that is downloaded first) to folder `out`.

    Args:
        checkpoint: what to export.
        out: the bundle's folder; must not exist, unless `options.force`.
        options: see `ExportOptions`.
        progress: called with (stage, bytes done, bytes in total) of the weights written.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: `out` exists, an unknown voice or graph.
        ResourceError: the disk is full.
    """
    if out.exists() and not options.force:
        raise UsageError(f"{out} exists already. Choose another --out, or replace it with --force.")
    return _Export(Checkpoint(find_checkpoint(checkpoint)), checkpoint, out, options).run(progress or (lambda *_: None))


def find_checkpoint(checkpoint: str) -> Path:
    """The folder of `checkpoint`, downloading it from the hub where it is an id."""
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
        self.config = OmniConfig.parse(checkpoint.config)
        if options.text_only:
            self.config = dataclasses.replace(self.config, talker=None, dit=None, bigvgan=None)
        self.folder = out.with_name(f"{out.name}.partial")

    def run(self, progress: Progress) -> ExportReport:
        # Everything that can be refused is refused before the first byte is written.
        builders = self._builders()
        speakers = voices.read(self.checkpoint, self.config, self.options.voices) if self.config.talker else None
        finished = self._begin()
        total = sum(builder.data_nbytes for builder in builders.values())
        done = 0
        graphs: dict[str, GraphEntry] = {}
        for role, builder in builders.items():
            if role in finished:
                graphs[role] = finished[role]
                done += builder.data_nbytes
                progress(role, done, total)
                continue

            def report(count: int, role: str = role) -> None:
                nonlocal done
                done += count
                progress(role, done, total)

            graphs[role] = self._write(builder, report)
            self._note(graphs)
        if self.options.int8_cache:
            self._quantize_cache(graphs["thinker"])
        manifest = self._manifest(graphs, speakers)
        self._finish(manifest)
        rows = [
            GraphRow(role, entry.nodes, entry.precision, self._nbytes(manifest, entry))
            for role, entry in manifest.graphs.items()
        ]
        return ExportReport(self.out, rows, sum(entry.bytes for entry in manifest.files.values()))

    # -- the parts ---------------------------------------------------------------------------------------------

    def _builders(self) -> dict[str, GraphBuilder]:
        weights, config, of = self.checkpoint.scope, self.config, self.options.of
        thinker = config.thinker
        builders = {
            "audio_encoder": audio_encoder.build(weights("thinker.audio_tower"), thinker.audio, of("audio_encoder")),
            "vision_encoder": vision_encoder.build(weights("thinker.visual"), thinker.vision, of("vision_encoder")),
            "token_embedding": decoder.build_token_embedding(
                weights("thinker.model"), thinker.text, of("token_embedding")
            ),
            "thinker": decoder.build_thinker(weights("thinker"), thinker.text, of("thinker")),
        }
        if config.talker and config.dit and config.bigvgan:
            builders["talker"] = decoder.build_talker(weights("talker"), config.talker, of("talker"))
            builders["dit"] = dit.build(weights(dit.PREFIX), config.dit, of("dit"))
            builders["dit_time"] = dit_time.build(weights(dit.PREFIX), config.dit, of("dit_time"))
            mels = [voice.ref_mel for voice in voices.published(self.checkpoint, config.dit).values()]
            builders["bigvgan"] = bigvgan.build(weights(bigvgan.PREFIX), config.bigvgan, of("bigvgan"), mels)
        return builders

    def _write(self, builder: GraphBuilder, progress: Callable[[int], None]) -> GraphEntry:
        saved = builder.save(self.folder, progress)
        return GraphEntry(
            file=saved.graph.name,
            data=saved.data.name if saved.data else None,
            precision=str(saved.precision),
            nodes=saved.nodes,
            inputs=_roles(builder.input_names),
            outputs=_roles(builder.output_names),
        )

    def _quantize_cache(self, entry: GraphEntry) -> None:
        """Writes the Thinker's graph once more, with an INT8 cache; its weights stay as they are."""
        text, weights = self.config.thinker.text, self.checkpoint.scope("thinker")
        tokenizer = conversation.write_tokenizer(self.checkpoint, self.folder)
        table = weights("model.embed_tokens.weight")
        scales = cache_scales(self.folder, entry, decoder.section(text), table, tokenizer)
        builder = decoder.build_thinker(weights, text, self.options.of("thinker"), scales)
        builder.save(self.folder, write_data=False)

    def _manifest(self, graphs: dict[str, GraphEntry], speakers: voices.Speakers | None) -> Manifest:
        config, checkpoint = self.config, self.checkpoint
        preprocessor = checkpoint.read_json("preprocessor_config.json", optional=True)
        tokenizer = conversation.write_tokenizer(checkpoint, self.folder)
        spoken = speakers.write(self.folder) if speakers else None
        talker = config.talker
        thinker = config.thinker
        return Manifest(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            generator=f"omni-export {version('omni-edge')}",
            origin=self._origin(),
            files={path.name: FileEntry(path.stat().st_size, sha256_of(path)) for path in self._files()},
            graphs=graphs,
            text=conversation.text_section(checkpoint, config, tokenizer),
            thinker=decoder.section(thinker.text, int8_cache=self.options.int8_cache),
            positions=PositionSection(thinker.position_id_per_seconds, thinker.seconds_per_chunk),
            audio=audio_encoder.section(thinker.audio, preprocessor),
            vision=vision_encoder.section(thinker.vision, preprocessor, max_positions=thinker.text.max_positions),
            sampling=conversation.sampling_section(checkpoint),
            talker_decoder=decoder.section(talker.decoder) if talker else None,
            talker=decoder.talker_section(talker) if talker else None,
            talker_sampling=conversation.TALKER_SAMPLING if talker else None,
            token2wav=dit.section(config.dit, config.bigvgan) if config.dit and config.bigvgan else None,
            voices=spoken,
        )

    def _origin(self) -> Origin:
        raw = self.checkpoint.config
        return Origin(
            source=str(raw.get("_name_or_path") or Path(self.source).name),
            licence=_licence(self.checkpoint.path),
            dtype=str(raw.get("torch_dtype") or raw.get("dtype") or "unknown"),
        )

    # -- the folder --------------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        """What must be equal for finished graphs to be taken over."""
        index = self.checkpoint.path / "model.safetensors.index.json"
        weights = index if index.exists() else self.checkpoint.path / "model.safetensors"
        options = dataclasses.asdict(dataclasses.replace(self.options, force=False, resume=False))
        return {
            "checkpoint": str(self.checkpoint.path.resolve()),
            "config": hashlib.sha256(json.dumps(self.checkpoint.config, sort_keys=True).encode()).hexdigest(),
            "weights": [weights.stat().st_size, weights.stat().st_mtime_ns],
            "options": json.loads(json.dumps(options)),
            "generator": version("omni-edge"),
        }

    def _begin(self) -> dict[str, GraphEntry]:
        """Makes the working folder; returns the graphs that an interrupted export finished there."""
        progress = self.folder / _PROGRESS_FILE
        if self.options.resume and progress.exists():
            noted = json.loads(progress.read_text("utf-8"))
            if noted["fingerprint"] == self._fingerprint():
                return {role: GraphEntry(**entry) for role, entry in noted["graphs"].items()}
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise ResourceError(f"{self.folder} cannot be created ({error.strerror}). Choose another --out.") from None
        return {}

    def _note(self, graphs: dict[str, GraphEntry]) -> None:
        entries = {role: dataclasses.asdict(entry) for role, entry in graphs.items()}
        text = json.dumps({"fingerprint": self._fingerprint(), "graphs": entries}, indent=1)
        _write_text(self.folder / _PROGRESS_FILE, text)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name not in (_PROGRESS_FILE, MANIFEST_NAME))

    def _finish(self, manifest: Manifest) -> None:
        _write_text(self.folder / MANIFEST_NAME, manifest.to_json())
        (self.folder / _PROGRESS_FILE).unlink(missing_ok=True)
        if self.out.exists():
            # The old bundle makes way only now that the new one is complete.
            old = self.out.with_name(f"{self.out.name}.old.partial")
            self.out.rename(old)
            self.folder.rename(self.out)
            shutil.rmtree(old)
        else:
            self.folder.rename(self.out)

    @staticmethod
    def _nbytes(manifest: Manifest, entry: GraphEntry) -> int:
        return sum(manifest.files[name].bytes for name in (entry.file, entry.data) if name is not None)


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ResourceError(f"Writing {path} failed: {error.strerror}. Free some disk space.") from None


def _roles(names: list[str]) -> dict[str, str]:
    """Tensor names by role: a name is its own role; numbered ones, as past.3.key, share one with a {layer} in it."""
    roles = {}
    for name in names:
        parts = name.split(".")
        if len(parts) == 3 and parts[1].isdigit():
            roles[f"{parts[0]}_{parts[2]}"] = f"{parts[0]}.{{layer}}.{parts[2]}"
        else:
            roles[name] = name
    return roles


def _licence(folder: Path) -> str:
    """What the checkpoint says of its licence: the model card's field, else the licence file's first line."""
    card = folder / "README.md"
    if card.exists():
        lines = card.read_text("utf-8", "replace").splitlines()
        stated = {key: value for key, _, value in (line.partition(":") for line in lines[:40])}
        for key in ("license_name", "license"):
            if stated.get(key, "").strip():
                return stated[key].strip()
    licence = folder / "LICENSE"
    if licence.exists():
        return next((line.strip() for line in licence.read_text("utf-8", "replace").splitlines() if line.strip()), "")
    return "not stated"
