"""Forms in which checkpoints come: each gives transformers' own tokens, or a refusal that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from omni_edge import OmniEdge, Sampling, TurnDone
from omni_export.bundle import ExportOptions, export_bundle
from omni_export.verify.verify import verify_bundle
from omni_quant.precision import Precision
from support.checkpoints import SPECIAL, write_checkpoint
from support.commands import run_export

PROMPT = "Hello"
TURNS = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "You are a helpful assistant."
ENDS = [SPECIAL["<|im_end|>"], SPECIAL["<|endoftext|>"]]
SMALL_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "preprocessor_config.json")
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint in one file."""
    return write_checkpoint(tmp_path_factory.mktemp("grouped") / "checkpoint", "grouped")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint in shards."""
    return write_checkpoint(tmp_path_factory.mktemp("sharded") / "checkpoint", "sectionless")


@pytest.fixture
def folder(grouped: Path, tmp_path: Path) -> Path:
    """A copy of `grouped` to change."""
    return Path(shutil.copytree(grouped, tmp_path / "checkpoint"))


def rewrite(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; a new file where there is none."""
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **changes}))


def reference_tokens(checkpoint: Path, system: str = SYSTEM) -> list[int]:
    """What transformers answers in text, greedily."""
    from tokenizers import Tokenizer

    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(TURNS.format(system, PROMPT), add_special_tokens=False).ids])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=ENDS,
        pad_token_id=ENDS[1],
    )
    tokens: list[int] = out[0, ids.shape[1] :].tolist()
    return tokens[: next((at for at, token in enumerate(tokens) if token in ENDS), len(tokens))]


def our_tokens(checkpoint: Path, out: Path) -> list[int]:
    """What a float32 bundle without speech answers, greedily."""
    export_bundle(str(checkpoint), out, ExportOptions(Precision(), text_only=True))
    session = OmniEdge.load(out, threads=1).session(sampling=Sampling(temperature=0))
    session.push(PROMPT)
    done = list(session.reply(max_new_tokens=NEW_TOKENS))[-1]
    assert isinstance(done, TurnDone)
    return [token for token in done.token_ids if token not in ENDS]


def thinker_alone(source: Path, target: Path) -> Path:
    """The Thinker as `save_pretrained` writes it from a whole checkpoint: names with the prefix `thinker.`."""
    Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(source, dtype=torch.float32).save_pretrained(target)
    for name in SMALL_FILES:
        shutil.copy(source / name, target)
    return target


def thinker_without_prefix(source: Path, target: Path) -> Path:
    """The Thinker as tools write it that have loaded it alone: names without a prefix."""
    thinker_alone(source, target)
    weights = load_file(target / "model.safetensors")
    save_file({name.removeprefix("thinker."): value for name, value in weights.items()}, target / "model.safetensors")
    return target


def names_of_memory(source: Path, target: Path) -> Path:
    """The Thinker's state dict as transformers 5 has it in memory, saved as it is."""
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    thinker_alone(source, target)
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    assert any(name.startswith("model.language_model.") for name in state)
    save_file(state, target / "model.safetensors")
    return target


def merged_beside_shards(source: Path, target: Path) -> Path:
    """Other weights in one file beside the shards of before: transformers takes the file."""
    shutil.copytree(source, target)
    weights = {name: value for shard in source.glob("model-*.safetensors") for name, value in load_file(shard).items()}
    norm = weights["thinker.model.norm.weight"]
    weights["thinker.model.norm.weight"] = norm.flip(0).contiguous()
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("form", [thinker_alone, thinker_without_prefix, names_of_memory])
def test_a_thinker_alone_gives_a_text_only_bundle(
    form: Callable[[Path, Path], Path], grouped: Path, tmp_path: Path
) -> None:
    checkpoint = form(grouped, tmp_path / "thinker")
    expected = reference_tokens(grouped)
    assert expected
    assert our_tokens(checkpoint, tmp_path / "bundle") == expected
    result = run_export(checkpoint, "--out", tmp_path / "said", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert f"note: {checkpoint} holds the Thinker alone: the bundle is text-only." in result.stderr
    assert json.loads((tmp_path / "said" / "bundle.json").read_text())["talker"] is None
    assert all(row.passed for row in verify_bundle(tmp_path / "said", checkpoint))
    voice = run_export(checkpoint, "--out", tmp_path / "voice", "--voice", "Ethan")
    assert voice.exit_code == 2, voice.output


def test_a_merged_file_wins_over_older_shards_as_in_transformers(sharded: Path, tmp_path: Path) -> None:
    checkpoint = merged_beside_shards(sharded, tmp_path / "merged")
    old, new = reference_tokens(sharded), reference_tokens(checkpoint)
    assert old != new
    assert our_tokens(checkpoint, tmp_path / "new") == new
    assert our_tokens(sharded, tmp_path / "old") == old
    assert all(row.passed for row in verify_bundle(tmp_path / "new", checkpoint))
    failed = [row.graph for row in verify_bundle(tmp_path / "old", checkpoint) if not row.passed]
    assert failed == ["thinker"]


def test_verification_does_not_read_through_the_exporters_code(
    grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the exporter's reader is seen."""
    read = "omni_export.checkpoint.safetensors_file.SafetensorsFile.tensor"
    with monkeypatch.context() as patch:
        from omni_export.checkpoint.safetensors_file import SafetensorsFile

        tensor = SafetensorsFile.tensor
        patch.setattr(read, lambda self, name: tensor(self, name).map(lambda values: values * 1.5))
        export_bundle(str(grouped), tmp_path / "wrong", ExportOptions(Precision(), text_only=True))
        rows = {row.graph: row.passed for row in verify_bundle(tmp_path / "wrong", grouped)}
    assert not rows["token_embedding"]


def test_text_only_needs_nothing_of_what_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if name.startswith("thinker.")}
    save_file(kept, folder / "model.safetensors")
    (folder / "spk_dict.pt").unlink()
    result = run_export(folder, "--out", tmp_path / "speaking", "--precision", "fp32")
    assert result.exit_code == 3, result.output
    assert "Export it with --text-only" in result.stderr
    config = json.loads((folder / "config.json").read_text())
    for broken in ({"talker_config": None}, {"talker_config": "x"}, {"token2wav_config": None}):
        (folder / "config.json").write_text(json.dumps({**config, **broken}))
        result = run_export(folder, "--out", tmp_path / "bundle", "--precision", "fp32", "--text-only", "--force")
        assert result.exit_code == 0, result.output
    assert all(row.passed for row in verify_bundle(tmp_path / "bundle", folder))


def test_a_checkpoint_without_a_talker_says_so(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / "config.json", talker_config=None, quantization_config=None)
    result = run_export(folder, "--out", tmp_path / "bundle", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert f"note: {folder} holds no Talker: the bundle is text-only." in result.stderr


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345678\n".format("0" * 64)


def pointer(name: str) -> Callable[[Path], tuple[str, str]]:
    def prepare(folder: Path) -> tuple[str, str]:
        (folder / name).write_text(LFS)
        return name, "is a Git LFS pointer, not the file itself. Run 'git lfs pull'"

    return prepare


def adapter_beside(folder: Path) -> tuple[str, str]:
    rewrite(folder / "adapter_config.json", peft_type="LORA")
    return "adapter_config.json", "a PEFT adapter, which is not applied here. Merge it into its base model"


def adapter_alone(folder: Path) -> tuple[str, str]:
    rewrite(folder / "adapter_config.json", peft_type="LORA")
    (folder / "config.json").unlink()
    return "checkpoint", "holds a PEFT adapter, not a model. Merge it into its base model"


def quantized(place: str, method: str) -> Callable[[Path], tuple[str, str]]:
    def prepare(folder: Path) -> tuple[str, str]:
        config = json.loads((folder / "config.json").read_text())
        part = config[place] if place else config
        part["quantization_config"] = {"quant_method": method, "bits": 4}
        (folder / "config.json").write_text(json.dumps(config))
        return method, "supported: gptq, awq, auto-round. Export the bf16 checkpoint that it was made from"

    return prepare


def quantized_weights(part: str, message: str) -> Callable[[Path], tuple[str, str]]:
    def prepare(folder: Path) -> tuple[str, str]:
        weights = load_file(folder / "model.safetensors")
        weights[f"thinker.model.layers.0.mlp.up_proj.{part}"] = torch.zeros(4, 4, dtype=torch.int32)
        save_file(weights, folder / "model.safetensors")
        return rf"up_proj\.{part}", message

    return prepare


def pickled_weights(folder: Path) -> tuple[str, str]:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return r"pytorch_model\.bin", "pickled weights .* Save them as safetensors"


def no_weights(folder: Path) -> tuple[str, str]:
    (folder / "model.safetensors").unlink()
    return r"model\.safetensors", "is missing, and so is model.safetensors.index.json"


@pytest.mark.parametrize(
    "prepare",
    [
        pointer("model.safetensors"),
        pointer("config.json"),
        pointer("tokenizer.json"),
        pointer("spk_dict.pt"),
        pointer("chat_template.json"),
        adapter_beside,
        adapter_alone,
        quantized("", "bitsandbytes"),
        quantized("", "compressed-tensors"),
        quantized("thinker_config", "fp8"),
        quantized_weights("qweight", "and neither a quantization_config in config.json nor a quantize_config.json"),
        quantized_weights("weight_packed", "is quantized already, in a form that is not read"),
        pickled_weights,
        no_weights,
    ],
)
def test_other_forms_are_refused_with_the_way_out(
    prepare: Callable[[Path], tuple[str, str]], folder: Path, tmp_path: Path
) -> None:
    named, message = prepare(folder)
    result = run_export(folder, "--out", tmp_path / "bundle")
    assert result.exit_code == 3, result.output
    import re

    assert re.search(message, result.stderr), result.stderr
    assert re.search(named, result.stderr), result.stderr
    assert "This is a bug" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
