"""A Hugging Face checkpoint's folder: its configuration and its weights by name, without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import JsonObject, read_bytes, read_json
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.checkpoint.weight_files import find_weights

_WHOLE, _THINKER = "qwen2_5_omni", "qwen2_5_omni_thinker"
# Keys of config.json, and files of older tools beside it, that mark quantized weights.
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json")
_SPEECH_PARTS = ("talker.", "token2wav.")


class Checkpoint:
    """A checkpoint of Qwen2.5-Omni, or of its Thinker alone, which fine-tuning tools write.

    Attributes:
        path: the folder.
        config: `config.json`; a Thinker's own stands under `thinker_config`, as in a whole model.
        thinker_only: the checkpoint holds the Thinker alone.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is another one or quantized.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path} is not a directory. Give the folder that holds config.json.")
        if not (self.path / "config.json").exists() and (self.path / "adapter_config.json").exists():
            raise CheckpointError(
                f"{self.path} holds a PEFT adapter, not a model. Merge it into its base model (peft: "
                "merge_and_unload, then save_pretrained) and export the result."
            )
        own = read_json(self.path / "config.json")
        architecture = own.get("model_type")
        if architecture not in (_WHOLE, _THINKER):
            raise CheckpointError(
                f"{self.path} holds a {architecture!r} model; this tool exports {_WHOLE!r} (Qwen2.5-Omni 3B or 7B) and "
                f"{_THINKER!r} (its Thinker)."
            )
        self._refuse_quantized(own)
        self.thinker_only = architecture == _THINKER
        self.config: dict[str, Any] = own.raw
        if self.thinker_only:
            self.config = {
                "model_type": _WHOLE,
                "enable_audio_output": False,
                "thinker_config": own.raw,
                **{key: own.raw[key] for key in ("_name_or_path", "torch_dtype", "dtype") if key in own},
            }
        self._weights = find_weights(self.path)

    def _refuse_quantized(self, config: JsonObject) -> None:
        thinker = config.optional_section("thinker_config")
        for section in (config, thinker, thinker.optional_section("text_config")):
            for key in _QUANTIZATION_KEYS:
                if key in section:
                    raise self._quantized(section.section(key).text("quant_method", section.named(key)))
        for name in _QUANTIZATION_FILES:
            if (self.path / name).exists():
                raise self._quantized(name)

    def _quantized(self, method: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is quantized already ({method}). Export the bf16 checkpoint that it was made from; "
            "omni-export quantizes by itself."
        )

    @property
    def weight_files(self) -> list[Path]:
        """The files that the weights are read from, sorted."""
        return sorted({file.path for file, _ in self._weights.values()})

    def json(self, name: str) -> JsonObject:
        """The JSON object in file `name`; an empty one where the file does not exist."""
        path = self.path / name
        return read_json(path) if path.exists() else JsonObject({}, name)

    def text(self, name: str) -> str | None:
        """The text in file `name`; None where the file does not exist."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return read_bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{path} is not UTF-8 text. Download it again.") from None

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
        """The weight `name`; with `shape`, checked against what the config promises."""
        if name not in self._weights:
            remedy = "Is it a complete Qwen2.5-Omni checkpoint?"
            if name.startswith(_SPEECH_PARTS):
                remedy = "Export it with --text-only, or give a complete Qwen2.5-Omni checkpoint."
            raise CheckpointError(f"The checkpoint {self.path} has no tensor {name}. {remedy}")
        file, stored = self._weights[name]
        tensor = file.tensor(stored)
        if shape is not None and tensor.shape != shape:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}, the config asks for {list(shape)}. "
                "config.json and the weights do not belong together."
            )
        return LazyTensor(name, tensor.shape, tensor.read)

    def scope(self, prefix: str) -> Scope:
        """The weights below `prefix`, addressed without it."""
        return Scope(self, prefix)


class Scope:
    """A part of a checkpoint: `scope("mlp.up_proj.weight")` is that tensor below the scope's prefix."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix

    def __call__(self, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
        return self.checkpoint.tensor(f"{self.prefix}.{name}", shape)

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}.{name}" in self.checkpoint

    def scope(self, name: str) -> Scope:
        """The part of this part below `name`."""
        return Scope(self.checkpoint, f"{self.prefix}.{name}")
