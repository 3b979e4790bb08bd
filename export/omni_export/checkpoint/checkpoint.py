"""A Hugging Face checkpoint's folder: its configuration and its weights by name, without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import JsonObject, read_bytes, read_json
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.checkpoint.quantized_weights import QuantizedWeights, find_quantized_config
from omni_export.checkpoint.weight_files import find_weights

_WHOLE, _THINKER = "qwen2_5_omni", "qwen2_5_omni_thinker"
_SPEECH_PARTS = ("talker.", "token2wav.")


class Checkpoint:
    """A checkpoint of Qwen2.5-Omni, or of its Thinker alone, which fine-tuning tools write.

    Attributes:
        path: the folder.
        config: `config.json`; a Thinker's own stands under `thinker_config`, as in a whole model.
        thinker_only: the checkpoint holds the Thinker alone.
        quantized: the matrices that are quantized already; None: there are none.

    Raises:
        CheckpointError: a file is missing or damaged, the model is another one, or quantized in a form that is not
            read.
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
        quantized_config = find_quantized_config(self.path, own)
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
        self.quantized: QuantizedWeights | None = None
        if quantized_config is not None:
            self.quantized = QuantizedWeights(self.path, quantized_config, self._weights)
        elif packed := next((name for name in self._weights if name.endswith(".qweight")), None):
            raise CheckpointError(
                f"{self.path} has {packed}, and neither a quantization_config in config.json nor a "
                "quantize_config.json says how it is packed. Download the checkpoint again."
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
        return name in self._weights or self._quantized_module(name) is not None

    def _quantized_module(self, name: str) -> str | None:
        """The quantized module whose weight is `name`."""
        module = name.removesuffix(".weight")
        return module if module != name and self.quantized is not None and module in self.quantized else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
        """The weight `name`; with `shape`, checked against what the config promises."""
        tensor = self._tensor(name)
        if shape is not None and tensor.shape != shape:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}, the config asks for {list(shape)}. "
                "config.json and the weights do not belong together."
            )
        return tensor

    def _tensor(self, name: str) -> LazyTensor:
        module = self._quantized_module(name)
        if module is not None and self.quantized is not None:
            return LazyTensor.wrap_quantized(name, self.quantized.matrix(module))
        if name not in self._weights:
            remedy = "Is it a complete Qwen2.5-Omni checkpoint?"
            if name.startswith(_SPEECH_PARTS):
                remedy = "Export it with --text-only, or give a complete Qwen2.5-Omni checkpoint."
            raise CheckpointError(f"The checkpoint {self.path} has no tensor {name}. {remedy}")
        file, stored = self._weights[name]
        tensor = file.tensor(stored)
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
