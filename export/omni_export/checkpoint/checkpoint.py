"""Reads a Hugging Face checkpoint directory: config, weights, tokenizer and speaker files, without loading a model.

safetensors files are parsed here: numpy has no bfloat16, a damaged file must give a message rather than a traceback,
and tensors are read a few rows at a time (pages of a memory map would count as this process's memory). Layout: 8-byte
little-endian header length, JSON header, then the raw tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.lazy_tensor import LazyTensor

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class SafetensorsFile:
    """One `.safetensors` file; only its header is kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is missing. Download the checkpoint again, or copy the shard here."
            ) from None
        if size < 8:
            raise self._truncated(f"it has {size} bytes")
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if header_size > size - 8:
                raise self._truncated(f"its header claims {header_size} bytes and the file has {size}")
            header = file.read(header_size)
        try:
            self.header: dict[str, Any] = json.loads(header)
        except ValueError:
            raise CheckpointError(f"{path} is not a safetensors file. Download it again.") from None
        self.header.pop("__metadata__", None)
        self._start = 8 + header_size
        end = max((entry["data_offsets"][1] for entry in self.header.values()), default=0)
        if self._start + end > size:
            raise self._truncated(f"it should have {self._start + end} bytes and has {size}")

    def _truncated(self, detail: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is truncated: {detail}. Download it again.")

    def tensor(self, name: str) -> LazyTensor:
        """The tensor `name`, converted to float32 when it is loaded."""
        entry = self.header[name]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(
                f"{name} in {self.path.name} has dtype {entry['dtype']}; readable are {', '.join(_DTYPES)}. "
                "Export the original bf16 checkpoint, not a quantized one."
            )
        shape = tuple(entry["shape"])
        row_values = int(np.prod(shape[1:], dtype=np.int64))
        begin = self._start + entry["data_offsets"][0]

        def read(first: int, last: int) -> NDArray[np.float32]:
            offset = begin + first * row_values * dtype.itemsize
            raw = np.fromfile(self.path, dtype, (last - first) * row_values, offset=offset)
            values = bfloat16_to_float32(raw) if entry["dtype"] == "BF16" else np.asarray(raw, np.float32)
            return values.reshape(last - first, *shape[1:])

        return LazyTensor(name, shape, read)


class Checkpoint:
    """A checkpoint directory in the published Qwen2.5-Omni layout.

    Raises:
        CheckpointError: a file is missing, truncated or of another architecture.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path} is not a directory. Give the folder that holds config.json.")
        self.config = self.read_json("config.json")
        architecture = self.config.get("model_type")
        if architecture != "qwen2_5_omni":
            raise CheckpointError(
                f"{self.path} holds a {architecture!r} model; this tool exports 'qwen2_5_omni' (Qwen2.5-Omni 3B or 7B)."
            )
        if "quantization_config" in self.config:
            method = self.config["quantization_config"].get("quant_method")
            raise CheckpointError(
                f"{self.path} is quantized already ({method}). Export the original bf16 checkpoint instead."
            )
        self._files = self._open()

    def _open(self) -> dict[str, SafetensorsFile]:
        index = self.path / "model.safetensors.index.json"
        if not index.exists():
            single = SafetensorsFile(self.path / "model.safetensors")
            return dict.fromkeys(single.header, single)
        weight_map: dict[str, str] = self.read_json(index.name)["weight_map"]
        shards = {name: SafetensorsFile(self.path / name) for name in sorted(set(weight_map.values()))}
        for tensor, shard in weight_map.items():
            if tensor not in shards[shard].header:
                raise CheckpointError(
                    f"{shard} lacks {tensor}, which {index.name} places there. Download the checkpoint again."
                )
        return {tensor: shards[shard] for tensor, shard in weight_map.items()}

    def read_json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """The JSON object in file `name`; with `optional`, {} where the file does not exist."""
        path = self.path / name
        if optional and not path.exists():
            return {}
        try:
            value = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing. Give the folder of a complete checkpoint.") from None
        except ValueError as error:
            raise CheckpointError(f"{path} is not valid JSON ({error}). Download it again.") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{path} does not hold a JSON object. Download it again.")
        return value

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
        """The weight `name`; with `shape`, checked against what the config promises."""
        file = self._files.get(name)
        if file is None:
            raise CheckpointError(
                f"The checkpoint {self.path} has no tensor {name}. Is it a complete Qwen2.5-Omni checkpoint?"
            )
        tensor = file.tensor(name)
        if shape is not None and tensor.shape != shape:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}, the config asks for {list(shape)}. "
                "config.json and the weights do not belong together."
            )
        return tensor

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
