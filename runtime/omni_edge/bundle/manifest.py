"""`bundle.json`: what a bundle says of itself. Every size, rate and special id of the model comes from here.

The reader is strict: an unknown or missing field, a wrong type, a path that leaves the bundle or another format version
is a `BundleError` that names the field. `docs/bundle.md` documents the format for readers in other languages.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from omni_edge.errors import BundleError

FORMAT = "omni-edge-bundle"
FORMAT_VERSION = 1
MANIFEST_NAME = "bundle.json"


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CalibrationEntry:
    """What a graph's matrices were calibrated with.

    Attributes:
        source: "built-in", or the name of the user's folder.
        tokens: positions that went through the graph.
        sha256: of their embeds and position ids (hex).
    """

    source: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class GraphEntry:
    """One graph: its file, how its matrices are stored, and which tensor plays which role.

    `inputs` and `outputs` map roles to tensor names, `recipes` matrices to how they were quantized; a name with
    `{layer}` stands for one tensor per layer.
    """

    file: str
    precision: str
    nodes: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    data: str | None = None
    recipes: dict[str, str] | None = None
    calibration: CalibrationEntry | None = None


@dataclass(frozen=True)
class Origin:
    """Where the weights come from and under which licence; both as the checkpoint states them."""

    source: str
    licence: str
    dtype: str


@dataclass(frozen=True)
class TextSection:
    """The tokenizer, the marks of a conversation (ChatML) and the ids that stand for media.

    `default_system` "" means that a conversation has no system turn by default.
    """

    tokenizer: str
    vocab_size: int
    eos_tokens: tuple[int, ...]
    turn_start: str
    turn_end: str
    roles: dict[str, str]
    default_system: str
    speech_system: str
    audio_token: int
    image_token: int
    video_token: int
    audio_start_token: int
    audio_end_token: int
    vision_start_token: int
    vision_end_token: int


@dataclass(frozen=True)
class DecoderSection:
    """A decoder's sizes, as its graph has them: `head_dim` is the cache's, `rotary_dim` the model's.

    `head_dim` can be larger than `rotary_dim`: the attention kernel asks for multiples of 16, and the exporter pads
    each rotary half with zeros. `mrope_section` counts rotary pairs taken from time, height and width. `cache_dtype` is
    the cache's element type: "float32", or "int8" with the scales inside the graph.
    """

    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    mrope_section: tuple[int, int, int]
    vocab_size: int
    max_positions: int
    cache_dtype: str = "float32"


@dataclass(frozen=True)
class PositionSection:
    """TMRoPE: how seconds of sound and video become time ids."""

    ids_per_second: int
    seconds_per_chunk: float


@dataclass(frozen=True)
class AudioSection:
    """The log-mel front end and the audio encoder's blocks (lengths in mel frames)."""

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    block_frames: int


@dataclass(frozen=True)
class VisionSection:
    """Picture preprocessing and the vision encoder's windows (lengths in pixels unless said otherwise)."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    head_dim: int
    rope_theta: float
    min_pixels: int
    max_pixels: int
    video_min_pixels: int
    video_max_pixels: int
    video_total_pixels: int
    video_fps: float
    video_min_frames: int
    video_max_frames: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TalkerSection:
    """The codec's special tokens; `none_codec` is the id of an all-zero embedding row (a position without a codec)."""

    codec_start: int
    codec_end: int
    codec_pad: int
    codec_mask: int
    none_codec: int
    text_end_token: int
    text_pad_token: int


@dataclass(frozen=True)
class Token2WavSection:
    """The vocoder: rates, what the DiT keeps from block to block, how far BigVGAN sees.

    `block_frames` mel frames make a DiT block. `look_backward_layers` layers keep keys and values of the last block,
    `attention_size` wide; each of `look_ahead_layers` layers can hold a block back, `hidden_size` wide. Codec ids below
    `codec_limit` have an embedding. BigVGAN's receptive field reaches `reach_frames` mel frames to each side;
    `reach_samples` of context must survive each of its levels.
    """

    sample_rate: int
    mel_dim: int
    samples_per_frame: int
    frames_per_codec: int
    block_frames: int
    look_backward_layers: int
    look_ahead_layers: int
    hidden_size: int
    attention_size: int
    codec_limit: int
    reach_frames: int
    reach_samples: tuple[int, ...]


@dataclass(frozen=True)
class Voice:
    """A speaker: the text token that announces it to the Talker, and its row in the speakers file."""

    bos_token: int
    row: int


@dataclass(frozen=True)
class VoiceSection:
    """`file`: float32 [rows, hidden], little-endian; `unconditional_row` is the one that guidance contrasts with."""

    file: str
    unconditional_row: int
    default: str
    speakers: dict[str, Voice]


@dataclass(frozen=True)
class SamplingSection:
    """Sampling defaults; temperature 0 is greedy."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    max_new_tokens: int


@dataclass(frozen=True)
class StaticDecoder:
    """A decoder as static graphs: files that share the weights of the decoder's own graph.

    `prefill` and `decode` are the files of a step over `prefill_positions` and over one position, in parts of
    `part_layers` layers. `head` makes logits of one position. `input` makes what enters the first layer; None: the
    embeds enter it.
    """

    prefill_positions: int
    part_layers: tuple[int, ...]
    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    head: str
    input: str | None = None

    @property
    def npu_files(self) -> list[str]:
        """Files of the graphs that the NPU runs: all but `input`."""
        return [*self.prefill, *self.decode, self.head]

    @property
    def files(self) -> list[str]:
        """Names of all files."""
        return [*([self.input] if self.input else []), *self.npu_files]


@dataclass(frozen=True)
class StaticSection:
    """Static graphs for an NPU: `target` names its compiler and architecture, `context` positions fit the caches.

    `compiled`: what the NPU runs is compiled already, and holds weights of its own.
    """

    target: str
    context: int
    thinker: StaticDecoder
    talker: StaticDecoder | None = None
    compiled: bool = False

    @property
    def npu_files(self) -> list[str]:
        """Files of the graphs that the NPU runs."""
        return [*self.thinker.npu_files, *(self.talker.npu_files if self.talker else [])]

    @property
    def files(self) -> list[str]:
        """Names of all files."""
        return [*self.thinker.files, *(self.talker.files if self.talker else [])]


@dataclass(frozen=True)
class Manifest:
    """A whole bundle. `talker`, `talker_decoder`, `token2wav` and `voices` are None in a text-only bundle.

    `static` is None where the bundle was exported for no NPU.
    """

    format: str
    format_version: int
    generator: str
    origin: Origin
    files: dict[str, FileEntry]
    graphs: dict[str, GraphEntry]
    text: TextSection
    thinker: DecoderSection
    positions: PositionSection
    audio: AudioSection
    vision: VisionSection
    sampling: SamplingSection
    talker_decoder: DecoderSection | None = None
    talker: TalkerSection | None = None
    talker_sampling: SamplingSection | None = None
    token2wav: Token2WavSection | None = None
    voices: VoiceSection | None = None
    static: StaticSection | None = None

    def used_files(self) -> list[str]:
        """The files that sections name: of graphs and their data, the tokenizer and the voices."""
        graphs = [name for graph in self.graphs.values() for name in (graph.file, graph.data) if name is not None]
        others = [*([self.voices.file] if self.voices else []), *(self.static.files if self.static else [])]
        return [*graphs, self.text.tokenizer, *others]

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        fields = dataclasses.asdict(self)
        # Versions that do not have this section read all other bundles.
        if self.static is None:
            del fields["static"]
        return json.dumps(fields, indent=1) + "\n"


T = TypeVar("T")


def parse(kind: type[T], value: Any, where: str) -> T:
    """`value` (from JSON) as the dataclass `kind`.

    Raises:
        BundleError: naming the field that is unknown, missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise BundleError(f"{MANIFEST_NAME}: {where} must be an object.")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(value) - set(fields)):
        raise BundleError(f"{MANIFEST_NAME}: {where} has unknown fields {unknown}; known are {sorted(fields)}.")
    parsed: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            parsed[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING:
            raise BundleError(f"{MANIFEST_NAME}: {where} lacks {name!r}. Export the bundle again.")
    return kind(**parsed)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _convert(arguments[0], value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise BundleError(f"{MANIFEST_NAME}: {where} must have {len(arguments)} items.")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is typing.Literal and value in arguments:
        return value
    if dataclasses.is_dataclass(kind):
        return parse(kind, value, where)  # type: ignore[arg-type]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise BundleError(f"{MANIFEST_NAME}: {where} must be {getattr(kind, '__name__', kind)}, not {value!r}.")


def graph_bytes(manifest: Manifest, role: str) -> int:
    """Size of a graph and its weights on disk."""
    entry = manifest.graphs[role]
    return sum(manifest.files[name].bytes for name in (entry.file, entry.data) if name is not None)
