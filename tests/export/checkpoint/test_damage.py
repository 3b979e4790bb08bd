"""Damaged and unexpected files of a checkpoint: exit 3 with the file and the key, and nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_export.graph.builder import GraphBuilder
from support.commands import run_export


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the sharded checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def refused(folder: Path, message: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(GraphBuilder, "save")
        result = run_export(folder, "--out", folder.with_name("bundle"))
    assert result.exit_code == 3, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "This is a bug" not in result.output
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def put(path: Path, key: str, value: Any) -> None:
    """Sets `key` (with dots) of a JSON file."""
    root = json.loads(path.read_text()) if path.exists() else {}
    *above, last = key.split(".")
    node = root
    for name in above:
        node = node[name]
    node[last] = value
    path.write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("thinker_config", None),
        ("thinker_config", []),
        ("thinker_config.text_config", "x"),
        ("thinker_config.audio_config", None),
        ("thinker_config.vision_config", 3),
        ("thinker_config.text_config.hidden_size", None),
        ("thinker_config.text_config.hidden_size", "96"),
        ("thinker_config.text_config.hidden_size", 0),
        ("thinker_config.text_config.num_attention_heads", 0),
        ("thinker_config.text_config.num_key_value_heads", 2),
        ("thinker_config.text_config.num_hidden_layers", -1),
        ("thinker_config.text_config.vocab_size", 10**30),
        ("thinker_config.text_config.rope_parameters", 5),
        ("thinker_config.text_config.rope_parameters.mrope_section", [1, "2", 3]),
        ("thinker_config.text_config.rope_parameters.mrope_section", 7),
        ("thinker_config.text_config.rope_parameters.rope_theta", "x"),
        ("thinker_config.text_config.rms_norm_eps", []),
        ("thinker_config.text_config.use_sliding_window", "no"),
        ("thinker_config.audio_config.n_window", 7),
        ("thinker_config.audio_config.encoder_attention_heads", 0),
        ("thinker_config.vision_config.patch_size", 0),
        ("thinker_config.vision_config.window_size", 0),
        ("thinker_config.vision_config.fullatt_block_indexes", 1),
        ("thinker_config.audio_token_index", "x"),
        ("thinker_config.seconds_per_chunk", 0),
        ("talker_config", 4),
        ("talker_config.embedding_size", None),
        ("talker_config.embedding_size", 97),
        ("token2wav_config", None),
        ("token2wav_config.dit_config", None),
        ("token2wav_config.dit_config.num_attention_heads", 0),
        ("token2wav_config.dit_config.look_ahead_layers", [99]),
        ("token2wav_config.dit_config.enc_dilations", []),
        ("token2wav_config.bigvgan_config", []),
        ("token2wav_config.bigvgan_config.upsample_rates", [0]),
        ("token2wav_config.bigvgan_config.resblock_dilation_sizes", [1, 2, 3]),
        ("enable_audio_output", "yes"),
        ("quantization_config", "gptq"),
    ],
)
def test_a_wrong_value_in_the_config_is_named(folder: Path, key: str, value: Any) -> None:
    put(folder / "config.json", key, value)
    where = "rope_scaling" if key.endswith("mrope_section") else ""
    refused(folder, rf"config\.json.*{re.escape(key.rpartition('.')[2])}|{where or key}")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("generation_config.json", "temperature", "warm"),
        ("generation_config.json", "top_k", []),
        ("generation_config.json", "do_sample", 3),
        ("generation_config.json", "max_new_tokens", 0),
        ("generation_config.json", "eos_token_id", "x"),
        ("generation_config.json", "eos_token_id", [10**9]),
        ("preprocessor_config.json", "min_pixels", "x"),
        ("preprocessor_config.json", "image_mean", [1]),
        ("preprocessor_config.json", "image_std", [0, 0, 0]),
        ("preprocessor_config.json", "size", 7),
        ("preprocessor_config.json", "feature_size", -1),
        ("processor_config.json", "image_processor", []),
        ("chat_template.json", "chat_template", 5),
        ("model.safetensors.index.json", "weight_map", None),
        ("model.safetensors.index.json", "weight_map", ["a"]),
    ],
)
def test_a_wrong_value_in_a_small_file_is_named(folder: Path, name: str, key: str, value: Any) -> None:
    put(folder / name, key, value)
    refused(folder, f"{key}|{name}")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"nul", b"\xff\xfe{}", b'{"dtype": "\\udce4"}', b"{" * 100_000, b"[" * 100_000]
)
def test_a_file_that_is_no_json_object_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, re.escape(name))


def with_entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: next(entry for name, entry in header.items() if name != "__metadata__").update(changes)


@pytest.mark.parametrize(
    "change",
    [
        with_entry(data_offsets=[0]),
        with_entry(data_offsets=None),
        with_entry(data_offsets=["a", "b"]),
        with_entry(data_offsets=[-8, 8]),
        with_entry(data_offsets=[0, 1]),
        with_entry(shape=None),
        with_entry(shape=[-1]),
        with_entry(shape="x"),
        with_entry(shape=[2**40, 2**40]),
        with_entry(dtype=3),
        lambda header: header.update({"x": None}),
        lambda header: header.update({"x": []}),
    ],
)
def test_a_damaged_header_is_named(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    shard = min(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(folder, f"{shard.name} has a damaged header")


def test_a_header_length_beyond_the_file_reads_nothing(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    shard.write_bytes((1 << 62).to_bytes(8, "little") + data[8:])
    refused(folder, f"{shard.name} is truncated: its header claims {1 << 62} bytes")


def test_an_index_leads_to_files_beside_it_only(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in ("../x.safetensors", "", 5, "/etc/passwd"):
        name = next(iter(index["weight_map"]))
        changed = {"weight_map": {**index["weight_map"], name: shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(changed))
        refused(folder, rf"weight_map\.{re.escape(name)} must be the name of a file beside it")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_named(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def forbidden(self: Path) -> bytes:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    refused(folder, rf"{name} cannot be read \(Permission denied\)")


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    whole = (folder / "tokenizer.json").read_text()
    for text in (whole[: len(whole) // 2], "{}", "[]", ""):
        (folder / "tokenizer.json").write_text(text)
        refused(folder, r"tokenizer\.json is not a tokenizer file")
