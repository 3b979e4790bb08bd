"""What an export takes from a checkpoint's small files: pixel limits, the system prompt, whatever templates may use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omni_edge import OmniEdge, TurnDone
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.chat_template import default_system
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.preprocessor import audio_settings, image_settings
from support.checkpoints import CHAT_TEMPLATE
from support.commands import run_export

FALLBACK = "fallback"


class SmallFiles(Checkpoint):
    """A checkpoint of which only small files exist."""

    def __init__(self, path: Path, **files: Any) -> None:
        self.path = path
        for name, value in files.items():
            (path / f"{name}.json").write_text(json.dumps(value))


PROCESSOR = {
    "processor_class": "Qwen2_5OmniProcessor",
    "feature_extractor": {"feature_size": 80, "sampling_rate": 8000, "n_fft": 200, "hop_length": 80},
    "image_processor": {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 784, "longest_edge": 50176},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [1, 2, 3],
    },
    "video_processor": {"size": {"shortest_edge": 1, "longest_edge": 2}},
}


def test_sections_of_processor_config_win(tmp_path: Path) -> None:
    flat = {"feature_size": 128, "sampling_rate": 16000, "min_pixels": 3136, "max_pixels": 12845056}
    files = SmallFiles(tmp_path, processor_config=PROCESSOR, preprocessor_config=flat)
    assert audio_settings(files) == PROCESSOR["feature_extractor"]
    image = image_settings(files)
    assert image["size"] == {"shortest_edge": 784, "longest_edge": 50176}
    assert "max_pixels" not in image
    assert (image["image_mean"], image["image_std"]) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    older = SmallFiles(tmp_path, processor_config={"processor_class": "x"})
    assert audio_settings(older) == {"feature_size": 128, "sampling_rate": 16000}
    assert (image_settings(older)["min_pixels"], image_settings(older)["max_pixels"]) == (3136, 12845056)


def test_the_bundle_has_the_pixel_limits_that_transformers_writes(checkpoint: Path, tmp_path: Path) -> None:
    """`save_pretrained` of the installed transformers writes the file."""
    from transformers import Qwen2VLImageProcessor

    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    (folder / "preprocessor_config.json").unlink()
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 6272, "longest_edge": 200704})
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor.to_dict()}, default=str))
    result = run_export(folder, "--out", tmp_path / "bundle", "--precision", "int8", "--text-only")
    assert result.exit_code == 0, result.output
    vision = json.loads((tmp_path / "bundle" / "bundle.json").read_text())["vision"]
    assert (vision["min_pixels"], vision["max_pixels"]) == (6272, 200704)


OWN_SYSTEM = CHAT_TEMPLATE.replace("You are a helpful assistant.", "You are a pirate.")
NO_SYSTEM = CHAT_TEMPLATE.replace("{% if loop.first and message['role'] != 'system' %}", "{% if false %}")
TOOLS_OF_TRANSFORMERS = (
    "{% set names = namespace(count=0) %}"
    "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'never' %}{% break %}{% endif %}"
    "{% set names.count = names.count + 1 %}{% endfor %}"
    "{% set year = strftime_now('%Y') %}{% set shown = messages | tojson(ensure_ascii=False) %}"
    "{% if bos_token is defined and bos_token != '<s>' %}{{ raise_exception('no bos') }}{% endif %}"
)
NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system prompt is needed') }}{% endif %}"
) + CHAT_TEMPLATE
TEXT_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT_TEMPLATE, "You are a helpful assistant."),
        (OWN_SYSTEM, "You are a pirate."),
        (TOOLS_OF_TRANSFORMERS + OWN_SYSTEM, "You are a pirate."),
        (NEEDS_SYSTEM, FALLBACK),
        (NO_SYSTEM, ""),
        (TEXT_ONLY, ""),
        (None, FALLBACK),
    ],
)
def test_the_templates_own_system_prompt(template: str | None, expected: str, tmp_path: Path) -> None:
    tokens = {"bos_token": {"content": "<s>"}}
    files = SmallFiles(tmp_path, chat_template={"chat_template": template}, tokenizer_config=tokens)
    assert default_system(files, FALLBACK) == expected
    (tmp_path / "chat_template.json").unlink()
    if template:
        (tmp_path / "chat_template.jinja").write_text(template)
        assert default_system(files, FALLBACK) == expected
        (tmp_path / "chat_template.jinja").unlink()
        named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
        files = SmallFiles(tmp_path, tokenizer_config={**tokens, "chat_template": named})
        assert default_system(files, FALLBACK) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHAT_TEMPLATE.replace("<|im_end|>", "</s>"), "does not write plain ChatML turns"),
        ("{{ raise_exception('never') }}", r"cannot be rendered \(never\)"),
        ("{% for %}", "cannot be rendered"),
        ("{{ messages[0].__class__.__mro__ }}", "cannot be rendered|does not write"),
        (
            CHAT_TEMPLATE.replace("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "Hi!"),
            "opens a conversation without a system prompt by 'Hi!'",
        ),
    ],
)
def test_another_form_is_refused(template: str, message: str, tmp_path: Path) -> None:
    files = SmallFiles(tmp_path, chat_template={"chat_template": template})
    with pytest.raises(CheckpointError, match=message):
        default_system(files, FALLBACK)


def test_the_bundle_keeps_the_templates_system_prompt(checkpoint: Path, tmp_path: Path) -> None:
    from omni_export.checkpoint.config import OmniConfig
    from omni_export.checkpoint.text import read_tokenizer, text_section

    source = Checkpoint(checkpoint)
    files = cast("Checkpoint", SimpleNamespace(json=source.json, text=source.text, path=source.path))
    section = text_section(files, OmniConfig.parse(source.config), read_tokenizer(source).tokenizer)
    assert section.default_system == "You are a helpful assistant."


def test_a_template_without_a_system_turn_gives_a_conversation_without_one(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": NO_SYSTEM}))
    assert run_export(folder, "--out", tmp_path / "bundle", "--precision", "int8", "--text-only").exit_code == 0
    session = OmniEdge.load(tmp_path / "bundle", threads=1).session()
    session.push("Hi")
    done = list(session.reply(max_new_tokens=1))[-1]
    assert isinstance(done, TurnDone)
    # A byte is a token, and so is a mark.
    marks = ["<|im_start|>", *"user\nHi", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]
    assert done.prompt_tokens == len(marks)
