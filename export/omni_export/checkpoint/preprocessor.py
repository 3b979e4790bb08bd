"""The settings of a checkpoint's feature extractor and image processor, from either generation of files.

transformers 5 writes `processor_config.json` with a section for each of them; before, both shared
`preprocessor_config.json`. A section wins where both files exist, as it does in transformers.
"""

from __future__ import annotations

from typing import Any

from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.json_object import JsonObject

_NESTED_FILE, _FLAT_FILE = "processor_config.json", "preprocessor_config.json"
_AUDIO_SIZES = ("feature_size", "sampling_rate", "n_fft", "hop_length")
_IMAGE_SIZES = ("patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels", "video_min_pixels")
_EDGES = ("shortest_edge", "longest_edge")
_NORMALIZATION = ("image_mean", "image_std")


def audio_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """`feature_size`, `sampling_rate`, `n_fft` and `hop_length`, as far as they are stated.

    Raises:
        CheckpointError: a value is wrong.
    """
    raw = _settings(checkpoint, "feature_extractor")
    return {name: raw.integer(name, minimum=1) for name in _AUDIO_SIZES if name in raw}


def image_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Patch and merge sizes, pixel limits (`min_pixels`, `max_pixels`, `size`) and normalisation, as far as stated.

    Raises:
        CheckpointError: a value is wrong.
    """
    raw = _settings(checkpoint, "image_processor")
    settings: dict[str, Any] = {name: raw.integer(name, minimum=1) for name in _IMAGE_SIZES if name in raw}
    size = raw.optional_section("size")
    settings["size"] = {name: size.integer(name, minimum=1) for name in _EDGES if name in size}
    for name in _NORMALIZATION:
        if name in raw:
            settings[name] = raw.numbers(name, (0.0, 0.0, 0.0))
    low = settings.get("min_pixels") or settings["size"].get("shortest_edge") or 1
    high = settings.get("max_pixels") or settings["size"].get("longest_edge") or low
    if high < low:
        raise raw.wrong("max_pixels" if "max_pixels" in raw else "size", f"no fewer than min_pixels = {low}")
    if not all(settings.get("image_std", (1.0,))):
        raise raw.wrong("image_std", "a list of numbers other than 0")
    return settings


def _settings(checkpoint: Checkpoint, name: str) -> JsonObject:
    nested = checkpoint.json(_NESTED_FILE)
    return nested.section(name) if name in nested else checkpoint.json(_FLAT_FILE)
