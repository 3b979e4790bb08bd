"""Export: what a bundle contains, what is refused, and what an interruption leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from omni_edge import CheckpointError, OmniEdge, Sampling, TurnDone, UsageError
from omni_edge.bundle.reader import Bundle
from omni_export.bundle import ROLES, ExportOptions, export_bundle
from omni_export.graph.builder import GraphBuilder
from omni_export.output.progress import ExportProgress
from omni_export.verify.verify import verify_bundle
from omni_quant.precision import Kind, Precision
from support.checkpoints import CHAT_TEMPLATE, write_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint", "sectionless")


@pytest.fixture
def checkpoint(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "checkpoint"))


def options(kind: Any = "int4", **settings: Any) -> ExportOptions:
    return ExportOptions(Precision(Kind(kind), 32), calibration="none", **settings)


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4"])
def test_every_graph_passes_verification(case: Any, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "bundle"
    export_bundle(str(case.path), out, options(kind))
    rows = verify_bundle(out, case.path)
    assert [row.graph for row in rows] == list(ROLES)
    assert all(row.passed for row in rows), rows
    if kind == "fp32":
        assert min(row.snr for row in rows) > 90


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantized_bundle_goes_the_same_way(case: Any, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "bundle"
    export_bundle(str(case.path), out, options(kind))
    session = OmniEdge.load(out, threads=1).session(seed=1, sampling=Sampling(temperature=0))
    session.push("What is the time?")
    done = list(session.reply(max_new_tokens=8, max_codec_tokens=30))[-1]
    assert isinstance(done, TurnDone)
    assert done.token_ids
    assert done.metrics.audio == pytest.approx(len(done.codec_tokens) / 50)


def test_verification_fails_for_other_weights(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle(str(source), out, options("int8"))
    other = write_checkpoint(tmp_path / "other", "sectionless")
    index = json.loads((other / "model.safetensors.index.json").read_text())
    shard = other / index["weight_map"]["thinker.model.layers.0.mlp.down_proj.weight"]
    data = bytearray(shard.read_bytes())
    data[-40_000:] = data[-80_000:-40_000]
    shard.write_bytes(data)
    assert not all(row.passed for row in verify_bundle(out, other))


def test_the_report_and_the_manifest_agree(source: Path, tmp_path: Path) -> None:
    told: list[ExportProgress] = []
    out = tmp_path / "bundle"
    mixed = options(precision_of={"talker": Precision(Kind.INT8, 64), "dit": Precision()})
    report = export_bundle(str(source), out, mixed, told.append)
    manifest = Bundle(out, verify=True).manifest
    assert {row.role: row.precision for row in report.graphs} == {r: e.precision for r, e in manifest.graphs.items()}
    assert manifest.graphs["talker"].precision == "int8 g64"
    assert manifest.graphs["dit"].precision == "fp32"
    assert manifest.graphs["thinker"].precision == "int4 g32"
    assert report.nbytes == sum(entry.bytes for entry in manifest.files.values())
    assert sorted(path.name for path in out.iterdir()) == sorted([*manifest.files, "bundle.json"])
    layers = [f"random tokens in layer {layer} of 2" for layer in (1, 2)]
    assert [news.item for news in told if news.item not in ROLES] == layers
    graphs = [news.item for news in told if news.item in ROLES]
    assert graphs == sorted(graphs, key=ROLES.index)
    for role in ROLES:
        steps = [news for news in told if news.item == role]
        assert steps[0].item_done == 0
        assert steps[-1].item_done == steps[-1].item_total > 0
        assert manifest.files[f"{role}.onnx.data"].bytes >= steps[-1].item_total
    assert told[-1].done == told[-1].total == sum(news.item_total for news in told if news.item_done == 0)
    assert told[-1].remaining == 0
    assert not list(out.parent.glob("*.partial"))


def test_text_only_and_chosen_voices(source: Path, tmp_path: Path) -> None:
    export_bundle(str(source), tmp_path / "mute", options(text_only=True))
    engine = OmniEdge.load(tmp_path / "mute", threads=1)
    assert engine.voices == []
    session = engine.session(seed=0)
    session.push("Hi")
    assert list(session.reply(max_new_tokens=2))[-1].codec_tokens == ()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no speech"):
        engine.session(speech=True)
    export_bundle(str(source), tmp_path / "one", options(voices=("Ethan",)))
    assert OmniEdge.load(tmp_path / "one", threads=1).voices == ["Ethan"]
    with pytest.raises(UsageError, match="no voice Bob; the voices are Chelsie, Ethan"):
        export_bundle(str(source), tmp_path / "none", options(voices=("Bob",)))


def test_wrong_options_name_the_choices() -> None:
    with pytest.raises(UsageError, match="no graph tlaker; the graphs are audio_encoder"):
        options(precision_of={"tlaker": Precision()})
    with pytest.raises(UsageError, match="group size is 48; it must be one of 16, 32"):
        ExportOptions(Precision(Kind.INT4, 48))


def test_an_existing_bundle_is_kept_unless_forced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle(str(source), out, options())
    before = (out / "bundle.json").read_text()
    with pytest.raises(UsageError, match="exists already"):
        export_bundle(str(source), out, options("int8"))
    assert (out / "bundle.json").read_text() == before
    export_bundle(str(source), out, options("int8", force=True))
    assert Bundle(out).manifest.graphs["thinker"].precision == "int8 g32"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_interrupted_export_is_no_bundle_and_can_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, saved = tmp_path / "bundle", []
    save = GraphBuilder.save

    def interrupted(self: GraphBuilder, *arguments: Any) -> Any:
        if self.name == "thinker" and len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(self.name)
        return save(self, *arguments)

    monkeypatch.setattr(GraphBuilder, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(str(source), out, options())
    assert not out.exists()
    assert not (tmp_path / "bundle.partial" / "bundle.json").exists()
    saved.append("")
    export_bundle(str(source), out, options(resume=True))
    assert saved[4:] == ["thinker", "talker", "dit", "dit_time", "bigvgan"]
    Bundle(out, verify=True)
    fresh = tmp_path / "fresh"
    export_bundle(str(source), fresh, options())
    assert Bundle(out).manifest == Bundle(fresh).manifest


def test_resume_with_other_options_starts_over(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        patch.setattr("omni_export.bundle._Export._manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_bundle(str(source), out, options("int4"))
    export_bundle(str(source), out, options("int8", resume=True))
    assert {e.precision for e in Bundle(out).manifest.graphs.values()} <= {"int8 g32", "int8 g128", "int16"}


def rewrite(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


def test_damaged_checkpoints_are_named(checkpoint: Path, tmp_path: Path) -> None:
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    whole = shards[0].read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            export_bundle(str(checkpoint), tmp_path / "bundle", options())
        assert not (tmp_path / "bundle").exists()

    shards[0].write_bytes(whole[:-100])
    refused(f"{shards[0].name} is truncated: it should have {len(whole)} bytes and has {len(whole) - 100}")
    shards[0].write_bytes(whole[:5])
    refused("is truncated: it has 5 bytes")
    shards[0].write_bytes(b"\x10" + bytes(7) + b"no json at all!!" * 10)
    refused("not a safetensors file")
    shards[0].unlink()
    refused(f"{shards[0].name} is missing")
    shards[0].write_bytes(whole)
    index = checkpoint / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    rewrite(index, weight_map={k: v for k, v in names.items() if k != "thinker.model.norm.weight"})
    refused(r"has no tensor thinker\.model\.norm\.weight")
    rewrite(index, weight_map={**names, "thinker.extra": shards[0].name})
    refused(r"lacks thinker\.extra")
    rewrite(index, weight_map=names)
    config = json.loads((checkpoint / "config.json").read_text())
    rewrite(checkpoint / "config.json", model_type="llama")
    refused("holds a 'llama' model")
    rewrite(checkpoint / "config.json", model_type="qwen2_5_omni", quantization_config={"quant_method": "fp8"})
    refused('quant_method is "fp8"; supported: gptq, awq, auto-round')
    (checkpoint / "config.json").write_text(json.dumps(config))
    config["thinker_config"]["text_config"]["hidden_size"] += 4
    rewrite(checkpoint / "config.json", thinker_config=config["thinker_config"])
    refused("do not belong together")
    (checkpoint / "config.json").unlink()
    refused(r"config\.json is missing")
    with pytest.raises(CheckpointError, match="is not a directory"):
        export_bundle(str(tmp_path / "nowhere"), tmp_path / "bundle", options())


def test_another_chat_format_is_refused_before_weights_are_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GraphBuilder, "save")
    rewrite(checkpoint / "chat_template.json", chat_template=CHAT_TEMPLATE.replace("<|im_end|>", "</s>"))
    with pytest.raises(CheckpointError, match="does not write plain ChatML turns"):
        export_bundle(str(checkpoint), tmp_path / "bundle", options())


def test_defaults_of_the_checkpoint_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    rewrite(checkpoint / "generation_config.json", do_sample=True, temperature=0.6, top_k=7, repetition_penalty=1.1)
    (checkpoint / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n")
    export_bundle(str(checkpoint), tmp_path / "bundle", options())
    manifest = Bundle(tmp_path / "bundle").manifest
    assert manifest.sampling.temperature == 0.6
    assert (manifest.sampling.top_k, manifest.sampling.top_p, manifest.sampling.repetition_penalty) == (7, 1.0, 1.1)
    assert manifest.sampling.max_new_tokens == 1024
    assert manifest.origin.licence == "qwen-research"
    assert manifest.talker_sampling is not None
    assert manifest.talker_sampling.repetition_penalty == 1.05
