"""Checks of a manifest's values beyond their types: ranges, ids inside the vocabulary, names that can be filled in."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from omni_edge.bundle.manifest import MANIFEST_NAME, Manifest
from omni_edge.errors import BundleError

_LARGEST = (1 << 31) - 1
# Loops run over these; anything larger is damage.
_LARGEST_COUNTS = {"num_layers": 1 << 12, "look_backward_layers": 1 << 12, "look_ahead_layers": 1 << 12}
# Integers that may be 0: ids, rows, limits that are off, and a side or an axis that is absent.
_FROM_ZERO = re.compile(
    r"_tokens?$|^codec_|^none_codec$|row$|^top_k$|^nodes$|^mrope_section$|^reach_|^look_|^bos_token$|^bytes$"
)
_FLOATS_FROM_ZERO = {"temperature", "mean"}
_CACHE_DTYPES = ("float32", "int8")
_TENSOR_NAME = re.compile(r"[^{}]+(\{layer\}[^{}]*)?|\{layer\}[^{}]*")


def check(manifest: Manifest) -> None:
    """Refuses values that no exporter writes.

    Raises:
        BundleError: naming the field.
    """
    for field in dataclasses.fields(manifest):
        value = getattr(manifest, field.name)
        if dataclasses.is_dataclass(value):
            _check_section(value, field.name)
    _check_speech(manifest)
    for sampling in (manifest.sampling, manifest.talker_sampling):
        _require(sampling is None or sampling.top_p <= 1, "sampling.top_p")
    for decoder in (manifest.thinker, manifest.talker_decoder):
        _require(decoder is None or decoder.cache_dtype in _CACHE_DTYPES, "thinker.cache_dtype")
        _require(decoder is None or 2 * sum(decoder.mrope_section) == decoder.rotary_dim, "thinker.mrope_section")
        _require(decoder is None or decoder.rotary_dim <= decoder.head_dim, "thinker.rotary_dim")
    _check_tokens(manifest)
    _check_graphs(manifest)
    _check_static(manifest)
    if manifest.voices is not None:
        speakers = manifest.voices.speakers
        for name, voice in speakers.items():
            _check_section(voice, f"voices.speakers.{name}")
            _require(voice.bos_token < manifest.text.vocab_size, f"voices.speakers.{name}.bos_token")
        _require(manifest.voices.default in speakers, "voices.default")


def _check_speech(manifest: Manifest) -> None:
    """The sections of speech: all of them, or none."""
    sections = [manifest.talker_decoder, manifest.token2wav, manifest.talker, manifest.talker_sampling, manifest.voices]
    if any(section is not None for section in sections) and any(section is None for section in sections):
        raise BundleError(
            f"{MANIFEST_NAME}: speech needs talker_decoder and token2wav, talker, talker_sampling and voices. "
            "Export the bundle again."
        )


def _check_section(section: Any, where: str) -> None:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, bool | str) or item is None:
                continue
            name = f"{where}.{field.name}"
            if isinstance(item, int):
                low = 0 if _FROM_ZERO.search(field.name) else 1
                _require(low <= item <= _LARGEST_COUNTS.get(field.name, _LARGEST), name)
            elif isinstance(item, float):
                _require(math.isfinite(item) and (item > 0 or (item == 0 and field.name in _FLOATS_FROM_ZERO)), name)


def _check_tokens(manifest: Manifest) -> None:
    text = manifest.text
    for field in dataclasses.fields(text):
        if not re.search(r"_tokens?$", field.name):
            continue
        value = getattr(text, field.name)
        for token in value if isinstance(value, tuple) else (value,):
            _require(token < text.vocab_size, f"text.{field.name}")
    _require(set(text.roles) >= {"system", "user", "assistant"}, "text.roles")
    _require(text.vocab_size == manifest.thinker.vocab_size, "text.vocab_size")


def _check_graphs(manifest: Manifest) -> None:
    for role, graph in manifest.graphs.items():
        for side in ("inputs", "outputs"):
            for name, tensor in getattr(graph, side).items():
                _require(_TENSOR_NAME.fullmatch(tensor) is not None, f"graphs.{role}.{side}.{name}")


def _check_static(manifest: Manifest) -> None:
    static = manifest.static
    if static is None:
        return
    for name, entry, section in (
        ("thinker", static.thinker, manifest.thinker),
        ("talker", static.talker, manifest.talker_decoder),
    ):
        where = f"static.{name}"
        _require((entry is None) == (section is None), where)
        if entry is None or section is None:
            continue
        _check_section(entry, where)
        _require(static.context <= section.max_positions, "static.context")
        _require(sum(entry.part_layers) == section.num_layers, f"{where}.part_layers")
        _require(len(entry.prefill) == len(entry.decode) == len(entry.part_layers), f"{where}.prefill")


def _require(condition: bool, where: str) -> None:
    if not condition:
        raise BundleError(f"{MANIFEST_NAME}: bundle.{where} has a value that cannot be. Export the bundle again.")
