"""The scripts in benchmarks/ stay alive: their quick forms, on tiny sizes, without any peer's packages."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from omni_edge.backend.kernels.compiler import find_compiler
from omni_edge.bundle.builtin import shipped_bundle
from omni_export import ExportOptions, export_bundle
from omni_quant.precision import Precision
from support.checkpoints import load_reference, write_checkpoint

ROOT = Path(__file__).parents[1]
KINDS = ("weight", "bias")


def run(*words: object, status: int = 0) -> str:
    """A script's stdout."""
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    return result.stdout if status == 0 else result.stderr


def load_script(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_live(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The stdout of `live.py`, without the time that a process takes to start."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    options = load_script("live").parse([*map(str, words)])
    options.measure(options)
    return capsys.readouterr().out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_comparison_runs_interleaved_and_keeps_every_result(tmp_path: Path) -> None:
    # The reference stands for the peers: it needs what the tests need anyway.
    table = run("benchmarks/compare.py", "--quick", "--quick-peers", "reference", "--threads", 1, "--results", tmp_path)
    (path,) = tmp_path.glob("*-thinker.jsonl")
    head, *results = lines(path)
    assert head["machine"]["cores"] >= 1
    assert "--quick" in head["command"]
    assert str(tmp_path) not in head["command"]
    decode = [line for line in results if line["figure"] == "decode 96"]
    assert [line["engine"] for line in decode] == ["omni", "reference", "reference", "omni"]
    assert all(line["rate"] == pytest.approx(line["steps"] / line["seconds"]) for line in decode)
    assert {line["figure"] for line in results} == {
        "load", "prefill 48", "prefill 64", "decode 48", "decode 96", "memory"
    }  # fmt: skip
    ratio = np.median([a["rate"] / b["rate"] for a, b in ((decode[0], decode[1]), (decode[3], decode[2]))])
    row = next(line for line in table.splitlines() if line.startswith("| decode 96"))
    assert row.endswith(f"| {ratio:.2f} |")


def test_the_text_model_of_the_peers_is_the_thinker(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "ragged")
    run("benchmarks/peers/text_model.py", checkpoint, tmp_path / "text")
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.float32).eval()
    thinker = load_reference(checkpoint, "ragged").thinker
    tokens = torch.tensor([[5, 17, 200, 33, 91]])
    with torch.inference_mode():
        expected, actual = thinker(input_ids=tokens).logits, peer(tokens).logits
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_a_peer_that_is_not_one_is_refused() -> None:
    assert "is not NAME[-LABEL]=PYTHON:MODEL" in run("benchmarks/compare.py", "--peer", "llama", status=2)
    assert "--bundle is needed" in run("benchmarks/compare.py", status=2)


def test_the_bandwidth_of_a_small_array_is_measured(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    table = run("benchmarks/bandwidth.py", "--megabytes", 8, "--runs", 2, "--threads", 1, "--json", raw)
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in table.splitlines()[2:]]
    ways = ["sum of an array (numpy)", "loop over an array (C)", "INT4 matrix times vector (onnxruntime)"]
    assert [row[0] for row in rows] == [way for way in ways if find_compiler() or "(C)" not in way]
    assert all(float(row[2]) > 0 for row in rows)
    assert max(int(row[4].rstrip("%")) for row in rows) <= 100
    readings = json.loads(raw.read_text())["readings"]
    assert [reading["reading"] for reading in readings] == [row[0] for row in rows]
    assert all(len(reading["gigabytes_per_second"]) == 2 for reading in readings)


def test_decoding_beside_busy_programs_is_compared(tmp_path: Path) -> None:
    out = tmp_path / "busy.jsonl"
    sizes = ("--rounds", 1, "--runs", 1, "--busy", 0, 1, "--out", out)
    printed = run("benchmarks/busy.py", shipped_bundle(), *sizes)
    found = lines(out)
    assert [json.loads(line) for line in printed.splitlines()] == found
    assert [row["busy"] for row in found] == [0, 1]
    assert all(row["rates"]["talker codec tokens at 128"] > 1 for row in found)


def test_decoding_is_set_against_the_bandwidth(exported_mute_bundle: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    sizes = ("--megabytes", 8, "--runs", 1, "--threads", 1, "--contexts", 80)
    table = run("benchmarks/bandwidth.py", *sizes, "--bundle", exported_mute_bundle, "--json", raw)
    *readings, decoding = json.loads(raw.read_text())["readings"]
    assert decoding["reading"] == "decoding at 80"
    (rate,), best = decoding["gigabytes_per_second"], max(each["gigabytes_per_second"][0] for each in readings)
    assert rate > 0
    assert table.splitlines()[-1].endswith(f"| {rate / best:.0%} |")


def test_a_stage_of_the_reference_is_timed() -> None:
    (line,) = run("benchmarks/reference_stages.py", "--quick", "--stage", "bigvgan", "--runs", 1).splitlines()
    result = json.loads(line)
    assert result["stage"] == "bigvgan"
    assert result["unit"] == "RTF"
    assert len(result["runs"]) == 1
    assert result["runs"][0] > 0


def test_a_reply_of_the_reference_is_timed() -> None:
    lengths = ("--text-tokens", 3, "--codec-tokens", 24)
    (line,) = run("benchmarks/reference_reply.py", "--quick", *lengths, "--threads", 1).splitlines()
    result = json.loads(line)
    stages = [result[name] for name in ("thinker", "talker", "token2wav")]
    assert min(stages) > 0
    assert sum(stages) <= result["total"]
    assert result["audio_seconds"] > 0


def test_a_float32_bundle_has_no_loss_of_quality(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    bundle = tmp_path / "bundle"
    export_bundle(str(checkpoint), bundle, ExportOptions(Precision(), text_only=True))
    (tmp_path / "a-text").write_text("One, two, three; and then four?\n%\nFive.\n", "utf-8")
    (tmp_path / "a-text.dat").write_bytes(b"\xff")
    results = tmp_path / "results.jsonl"
    prose = ("--text", tmp_path, "--skip", 4, "--tokens", 24, "--passage", 16)
    words = (checkpoint, "--bundle", f"float32={bundle}", *prose, "--threads", 1, "--results", results)
    table = run("benchmarks/quality.py", *words)
    head, row = lines(results)
    assert head["questions"] == 24
    assert row["tokens"] == 15 + 7
    assert row["kl"] < 1e-7
    assert row["perplexity"] == pytest.approx(row["reference_perplexity"], rel=1e-4)
    shares = [row[name] for name in ("same_first_choice", "reply_tokens_equal", "first_tokens_equal")]
    assert shares == [1, 1, 1]
    assert row["bits_per_weight"] > 31.9
    assert table.splitlines()[2].startswith("| float32 | ")
    assert table.splitlines()[2].endswith("| 100.0 % | 100 % | 100 % |")


def test_whispers_encoder_in_the_published_layout_is_whispers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("whisper_encoder")
    config = transformers.WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=96, num_mel_bins=80
    )
    torch.manual_seed(3)
    whisper = WhisperEncoder(config).eval()
    own = replace(script.CONFIG, d_model=64, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=96)
    monkeypatch.setattr(script, "CONFIG", replace(own, output_dim=64))
    checkpoint = script.write_checkpoint(ctranslate2_model(whisper.state_dict()), tmp_path / "checkpoint")
    clip = np.random.default_rng(1).standard_normal(20_000).astype(np.float32) * 0.1
    actual, nbytes = script.embeds(checkpoint, 1500, Precision(), [clip], tmp_path)
    features = transformers.WhisperFeatureExtractor()(clip, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        norm, whisper.layer_norm = whisper.layer_norm, torch.nn.Identity()
        states = whisper(features).last_hidden_state[0]
        expected = norm(states.reshape(-1, 2, 64).mean(1))[: len(actual)]
    assert len(actual) == 20_000 // 640
    assert nbytes > 4 * sum(value.numel() for name, value in whisper.named_parameters() if "layers" in name)
    np.testing.assert_allclose(actual, expected, atol=2e-4)


def ctranslate2_model(weights: dict[str, torch.Tensor]) -> bytes:
    """An encoder's weights in the form of the package, in float32."""
    tensors = {name: value.numpy() for name, value in weights.items()}
    variables = {f"encoder/{conv}/{kind}": tensors[f"{conv}.{kind}"] for conv in ("conv1", "conv2") for kind in KINDS}
    norms, linears = {"layer_norm": "layer_norm"}, {}
    for layer in range(2):
        at, source = f"layer_{layer}", f"layers.{layer}"
        norms |= {
            f"{at}/self_attention/layer_norm": f"{source}.self_attn_layer_norm",
            f"{at}/ffn/layer_norm": f"{source}.final_layer_norm",
        }
        linears |= {
            f"{at}/self_attention/linear_1": f"{source}.self_attn.out_proj",
            f"{at}/ffn/linear_0": f"{source}.fc1",
            f"{at}/ffn/linear_1": f"{source}.fc2",
        }
        tensors[f"{source}.self_attn.k_proj.bias"] = np.zeros(64, np.float32)
        for kind in KINDS:
            parts = [tensors[f"{source}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            variables[f"encoder/{at}/self_attention/linear_0/{kind}"] = np.concatenate(parts)
    for kind, theirs in zip(KINDS, ("gamma", "beta"), strict=True):
        variables |= {f"encoder/{at}/{theirs}": tensors[f"{source}.{kind}"] for at, source in norms.items()}
        variables |= {f"encoder/{at}/{kind}": tensors[f"{source}.{kind}"] for at, source in linears.items()}
    parts = [struct.pack("<IH", 6, 12), b"WhisperSpec\0", struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        parts += [struct.pack("<H", len(name) + 1), name.encode() + b"\0"]
        parts += [struct.pack(f"<B{value.ndim}IBI", value.ndim, *value.shape, 0, value.nbytes), value.tobytes()]
    return b"".join(parts)


def test_a_vocoder_without_errors_has_the_solvers_alone() -> None:
    script = load_script("vocoder_error")
    speaker = script.Speaker(shipped_bundle(), seed=0)
    codec = script.read_utterances(ROOT / "tests" / "data" / "nano" / "heldout.json")[0][:16]
    solver, *parts = script.score(speaker, speaker, codec).values()
    assert 10 < solver["mel_snr"] < 50
    assert 0.1 < solver["log_spectral_distance"] < 5
    assert [part["snr"] for part in parts] == [200] * 3  # the ceiling, of equal samples
    assert [part["log_spectral_distance"] for part in parts] == [0] * 3


def test_the_wait_of_a_user_is_measured_in_real_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "live.jsonl"
    short = ("--seconds", 1, "--runs", 1, "--max-new-tokens", 2, "--max-codec-tokens", 12, "--threads", 1)
    run_live(monkeypatch, capsys, "wait", *short, "--results", results)
    # What is there already is not measured again.
    table = run_live(monkeypatch, capsys, "wait", *short, "--results", results)
    head, warm_up, measured, again = lines(results)
    assert head["machine"]["cores"] >= 1
    assert "run" not in warm_up
    assert again["command"] == head["command"]
    # The silence that ends the turn is part of it, and nothing comes before the turn is over.
    assert 0.45 < measured["endpoint"] <= measured["first_text"] <= measured["first_sound"]
    assert measured["speech"] == pytest.approx(0.24, abs=0.05)
    row = table.splitlines()[-1].split("|")
    assert (row[1].strip(), row[2].strip(), row[4].strip()) == ("1", "1", f"{measured['first_text']:.2f}")


def test_an_interruption_is_measured_in_real_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "live.jsonl"
    table = run_live(monkeypatch, capsys, "interrupt", "--runs", 1, "--threads", 1, "--results", results)
    _, measured = lines(results)
    assert 0.5 < measured["onset_to_decision"] < 2
    assert 0 < measured["decision_to_silence"] < 0.2
    assert measured["events_after"] == 0
    assert measured["played"] > 0
    assert "| interruptions | 1 |" in table


def test_long_conversations_are_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "live.jsonl"
    for words in (("echo-room", "--echo", "half"), ("babble", "--decibels", -60), ("hour",)):
        table = run_live(monkeypatch, capsys, *words, "--max-codec-tokens", 24, "--minutes", 0.05, "--results", results)
    room, people, hour = (line for line in lines(results) if "what" in line)
    for tally in (room, people, hour):
        assert tally["seconds"] >= 3
        assert (tally["false_turns"], tally["false_interruptions"], tally["errors"]) == (0, 0, [])
        assert tally["asked"] == tally["answered"] > 0
        assert tally["played"] == pytest.approx(0.48 * tally["answered"], abs=0.1)
        assert tally["resident"][0] > 1e6
    assert len(table.splitlines()) == 5


def test_a_session_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transcript = run_live(monkeypatch, capsys, "record", "--out", tmp_path)
    assert (tmp_path / "session.txt").read_text("utf-8") == transcript
    said = [line.split(" s  ", 1)[1] for line in transcript.splitlines()]
    assert [line.split(":")[0] for line in said] == ["user", "reply"] * 4
    assert said[1] == "reply: Timer set for eleven minutes."
    assert "[interrupted at " in said[3]
    with wave.open(str(tmp_path / "session.wav")) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 24_000)
        sides = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert len(sides) / 24_000 > 10
    # The user speaks first, and both were heard.
    begins = np.argmax(np.abs(sides) > 1000, axis=0) / 24_000
    assert 0.4 < begins[0] < 1 < begins[1]
    picture = ElementTree.parse(tmp_path / "session.svg")
    words = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"set a timer for eleven minutes", "Timer set for eleven minutes.", "interrupted"} <= set(words)
