"""Bad input: every case has its exit code and a message that says what, why and what to do; never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import Result

from omni_edge import OmniEdge
from support.commands import SHORT, events, picture, run_edge, run_export, tone, write_wav


def assert_refused(result: Result, code: int, *parts: str) -> None:
    """`result` ended with `code` and one line of error that contains `parts`."""
    assert result.exit_code == code, result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("error: "), result.stderr
    assert "Traceback" not in result.output
    for part in parts:
        assert part in message


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint in shards, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def _truncate(folder: Path) -> str:
    shard = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    return shard.name


def _remove_shard(folder: Path) -> str:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    return shard.name


def _remove_tensor(folder: Path) -> str:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = next(name for name in content["weight_map"] if name.startswith("thinker.model.layers.1"))
    del content["weight_map"][name]
    index.write_text(json.dumps(content))
    return name


def _rename_architecture(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "llama"
    (folder / "config.json").write_text(json.dumps(config))
    return "llama"


def _remove_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "config.json"


@pytest.mark.parametrize("damage", [_truncate, _remove_shard, _remove_tensor, _rename_architecture, _remove_config])
def test_a_damaged_checkpoint_is_refused(copy: Path, tmp_path: Path, damage: Callable[[Path], str]) -> None:
    named = damage(copy)
    result = run_export(copy, "--out", tmp_path / "bundle")
    assert_refused(result, 3, named)
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert_refused(run_export(tmp_path / "nothing", "--out", tmp_path / "bundle"), 3, "nothing")


# -- options of the export -----------------------------------------------------------------------------------------


def test_an_unknown_graph_or_precision_lists_the_choices(checkpoint: Path, tmp_path: Path) -> None:
    for value, choices in (
        ("mouth=int8", "talker, dit"),
        ("talker=int2", "int4, mixed, int8, fp32"),
        ("talker", "GRAPH=KIND"),
    ):
        result = run_export(checkpoint, "--out", tmp_path / "b", "--precision-of", value)
        assert_refused(result, 2, value.partition("=")[0], choices)


def test_a_group_size_that_no_kernel_has_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert_refused(run_export(checkpoint, "--out", tmp_path / "b", "--group-size", 48), 2, "48", "16, 32, 64, 128")


def test_an_unknown_speaker_to_keep_lists_the_speakers(checkpoint: Path, tmp_path: Path) -> None:
    result = run_export(checkpoint, "--out", tmp_path / "b", "--voice", "Nobody")
    assert_refused(result, 2, "Nobody", "Chelsie", "Ethan")


def test_a_bundle_is_replaced_only_with_force(checkpoint: Path, mute_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(mute_bundle, tmp_path / "bundle")
    assert_refused(run_export(checkpoint, "--out", bundle), 2, "exists", "--force")
    result = run_export(checkpoint, "--out", bundle, "--force", "--text-only", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert "fp32" in run_edge("info", bundle).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_during_export(checkpoint: Path, tmp_path: Path) -> None:
    """No file of the process may grow beyond 64 kB: the operating system refuses the write, as on a full disk."""
    out = tmp_path / "bundle"
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "from omni_cli.commands.export import run; run(sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint), "--out", str(out), "--precision", "fp32"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 6, result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "disk" in message
    assert "Traceback" not in result.stderr
    assert not out.exists()


# -- bundles -------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(mute_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return Path(shutil.copytree(mute_bundle, tmp_path / "broken"))


def _rewrite_manifest(bundle: Path, change: Callable[[dict[str, object]], None]) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def test_a_flipped_byte_is_found(broken: Path) -> None:
    assert run_edge("info", broken).exit_code == 0
    for file in sorted(broken.iterdir()):
        if file.name == "bundle.json":
            continue
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        assert_refused(run_edge("info", broken), 3, file.name, "SHA-256")
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert run_edge("info", broken).exit_code == 0


def test_a_flipped_byte_in_a_small_bundle_stops_a_run(broken: Path) -> None:
    graph = broken / json.loads((broken / "bundle.json").read_text())["graphs"]["thinker"]["file"]
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    assert_refused(run_edge("run", "Hello", "-m", broken), 3, graph.name)


def test_a_path_that_leaves_the_bundle_is_refused(broken: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")

    def climb(manifest: dict[str, object]) -> None:
        files = manifest["files"]
        assert isinstance(files, dict)
        files["../secret"] = {"bytes": 1, "sha256": "0" * 64}

    _rewrite_manifest(broken, climb)
    assert_refused(run_edge("run", "Hello", "-m", broken), 3, "../secret", "out of the bundle")


def test_a_link_out_of_the_bundle_is_refused(broken: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((broken / "bundle.json").read_text())["text"]["tokenizer"]
    (broken / tokenizer).rename(tmp_path / "elsewhere.json")
    (broken / tokenizer).symlink_to(tmp_path / "elsewhere.json")
    assert_refused(run_edge("run", "Hello", "-m", broken), 3, tokenizer, "outside")


def test_a_bundle_that_is_none_or_incomplete_or_newer_is_refused(broken: Path, tmp_path: Path) -> None:
    assert_refused(run_edge("run", "Hello", "-m", tmp_path), 3, "bundle.json", "omni-export")
    assert_refused(run_edge("info", tmp_path / "nothing"), 3, "nothing")
    _rewrite_manifest(broken, lambda manifest: manifest.update(format_version=99))
    assert_refused(run_edge("run", "Hello", "-m", broken), 3, "version 99")
    _rewrite_manifest(broken, lambda manifest: manifest.update(format_version=1))
    weights = max(broken.iterdir(), key=lambda path: path.stat().st_size)
    weights.unlink()
    assert_refused(run_edge("run", "Hello", "-m", broken), 3, weights.name)


# -- usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speech", [[], ["--no-speech"]])
def test_an_unknown_voice_names_the_voices(bundle: Path, speech: list[str]) -> None:
    result = run_edge("run", "Hello", "-m", bundle, "--voice", "Nobody", *speech)
    assert_refused(result, 2, "Nobody", "Chelsie", "Ethan")


def test_an_unknown_option_is_a_usage_error(bundle: Path) -> None:
    result = run_edge("run", "Hello", "-m", bundle, "--loudly")
    assert result.exit_code == 2
    assert "--loudly" in result.stderr


def test_settings_out_of_range_are_usage_errors(bundle: Path) -> None:
    for option, value in (("--temp", "-1"), ("--top-p", "2"), ("--talker-top-k", "-3"), ("--repeat-penalty", "0")):
        assert_refused(run_edge("run", "Hello", "-m", bundle, f"{option}={value}"), 2, "must be")
    assert_refused(run_edge("run", "Hello", "-m", bundle, "--context", 10**9), 2, "1000000000")


def test_no_prompt_is_a_usage_error(bundle: Path) -> None:
    assert_refused(run_edge("run", "-m", bundle, input=""), 2, "no prompt")
    assert_refused(run_edge("run", "-", "-m", bundle, input=b"\xff\xfe"), 2, "UTF-8")


def test_speech_that_cannot_be_kept_is_a_usage_error(bundle: Path, mute_bundle: Path, tmp_path: Path) -> None:
    assert_refused(run_edge("run", "Hello", "-m", bundle, "-o", tmp_path / "a.wav", "--no-speech"), 2, "--no-speech")
    assert_refused(run_edge("run", "Hello", "-m", mute_bundle, "-o", tmp_path / "a.wav"), 2, "--text-only")
    assert_refused(run_edge("run", "Hello", "-m", bundle, "-o", tmp_path / "no" / "a.wav"), 2, "does not exist")
    assert_refused(run_edge("run", "Hello", "-m", bundle, "-o", tmp_path), 2, "cannot be written")


def test_a_conversation_that_does_not_fit_is_refused(bundle: Path) -> None:
    result = run_edge("run", "word " * 400, "-m", bundle, "--context", 200)
    assert_refused(result, 1, "200")


# -- media ---------------------------------------------------------------------------------------------------------


def refused_media(bundle: Path, option: str, path: Path) -> Result:
    result = run_edge("run", "What is this?", option, path, "-m", bundle, *SHORT)
    assert_refused(result, 4, path.name)
    return result


@pytest.mark.parametrize("option", ["--audio", "--image", "--video"])
def test_files_that_hold_nothing_of_the_kind_are_refused(bundle: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "letter.txt").write_text("Dear reader,\n" * 50)
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder").mkdir()
    for name in ("empty", "letter.txt", "noise.bin", "folder", "nothing"):
        refused_media(bundle, option, tmp_path / name)


def test_kinds_are_not_confused(bundle: Path, files: Path) -> None:
    refused_media(bundle, "--audio", files / "photo.jpg")
    refused_media(bundle, "--image", files / "question.wav")
    refused_media(bundle, "--video", files / "question.wav")


def test_a_cut_off_file_is_refused(bundle: Path, files: Path, tmp_path: Path) -> None:
    for name, option in (("photo.jpg", "--image"), ("question.wav", "--audio"), ("clip.mp4", "--video")):
        data = (files / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        refused_media(bundle, option, tmp_path / name)


def test_a_single_pixel_is_a_picture(bundle: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "pixel.png"), picture(1, 1))
    done = events(run_edge("run", "?", "--image", tmp_path / "pixel.png", "-m", bundle, *SHORT, "--json"))[-1]
    assert done["prompt_tokens"] > 4


def test_a_line_is_no_picture(bundle: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "line.png"), picture(1, 500))
    assert_refused(run_edge("run", "?", "--image", tmp_path / "line.png", "-m", bundle), 4, "200")


def test_a_sound_of_20_ms_and_an_empty_one_are_refused(bundle: Path, tmp_path: Path) -> None:
    refused_media(bundle, "--audio", write_wav(tmp_path / "empty.wav", tone(0)))
    result = run_edge("run", "?", "--audio", write_wav(tmp_path / "blip.wav", tone(0.02)), "-m", bundle)
    assert_refused(result, 4, "20.0 ms")


def test_samples_that_are_no_numbers_are_refused(bundle: Path, tmp_path: Path) -> None:
    samples = tone(1).astype("<f4")
    samples[100] = np.nan
    data = samples.tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        3,
        1,
        16_000,
        64_000,
        4,
        32,
        b"data",
        len(data),
    )
    (tmp_path / "nan.wav").write_bytes(head + data)
    assert_refused(run_edge("run", "?", "--audio", tmp_path / "nan.wav", "-m", bundle), 4, "NaN")


def test_half_an_hour_does_not_fit_and_says_so(bundle: Path, tmp_path: Path) -> None:
    long = write_wav(tmp_path / "lecture.wav", np.zeros(30 * 60 * 8000), rate=8000)
    result = run_edge("run", "?", "--audio", long, "-m", bundle, "--context", 2000)
    assert_refused(result, 1, "context is full", "2000", "The model itself holds 32768")
    minute = write_wav(tmp_path / "minute.wav", np.zeros(60 * 8000), rate=8000)
    assert_refused(run_edge("run", "?", "--audio", minute, "-m", bundle, "--context", 1000), 1, "raise", "--context")


def test_a_picture_of_fifty_megapixels_is_scaled_down(bundle: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    cv2.imwrite(str(large), cv2.resize(picture(58, 87), (8700, 5800)))
    command = ("run", "?", "--image", large, "-m", bundle, "--no-speech", "--json", "--max-new-tokens", "2")
    positions = [events(run_edge(*command, *more))[-1]["prompt_tokens"] for more in ((), ("--max-pixels", 100_000))]
    # A quarter of the context of 8192, and 100 000 pixels of 28 x 28 a position.
    assert 1900 < positions[0] < 2048 + 100
    assert positions[1] < 128 + 100
    full = ("--max-pixels", 12_000_000)
    assert_refused(run_edge(*command, *full), 1, "context is full")
    assert_refused(run_edge(*command, "--max-pixels", 100), 2, "3136 pixels at least")


# -- what nobody foresaw -------------------------------------------------------------------------------------------


def test_an_unforeseen_error_shows_its_traceback_only_with_debug(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(OmniEdge, "load", fail)
    assert_refused(run_edge("run", "Hello", "-m", bundle), 1, "surprise", "--debug")
    result = run_edge("run", "Hello", "-m", bundle, "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_errors_of_the_machine_have_their_code(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError(), OSError(28, "No space left on device", "reply.wav")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(OmniEdge, "load", fail)
        assert_refused(run_edge("run", "Hello", "-m", bundle), 6)


def test_a_reader_that_goes_away_is_no_traceback(bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    program = "from omni_cli.app import main; main()"
    arguments = ["run", "Hello", "-m", str(bundle), *SHORT]
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
