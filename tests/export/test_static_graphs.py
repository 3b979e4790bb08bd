"""Static graphs for an NPU: the same weights and answers, on the processor and in the simulator, where it is installed.

Qualcomm's simulator comes with onnxruntime-qnn, which CI does not install; docs/npu.md has the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from omni_edge import OmniEdge, Sampling, TurnDone
from omni_edge.backend import qnn
from omni_edge.backend.graph import Graph
from omni_edge.backend.onnx_runtime import ort
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import Decoder
from omni_edge.decoders.static_graphs import StaticGraphs
from omni_edge.errors import ContextFullError, UsageError
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.models import decoder as export
from omni_export.models import static_decoder
from omni_export.models.static_decoder import static_talker, static_thinker
from omni_export.output.graph_entry import graph_entry
from omni_quant.precision import Kind, Precision
from support.checkpoints import Case
from support.commands import run_edge, run_export

ROOT = Path(__file__).parents[2]
TARGET = "qnn-htp:v75"
CONTEXT = 320
# A whole piece of a prompt and a part of one, one position, a few.
PIECES = (140, 1, 1, 5)


def decoders(graph: GraphBuilder, static: static_decoder.StaticGraphs, section: object, folder: Path) -> list[Decoder]:
    """The decoder by its own graph, and by its static graphs on the processor."""
    entry = graph_entry(graph, graph.save(folder))
    assert [builder.save(folder).data for builder in static.builders] == [None] * len(static.builders)
    own = Graph(folder / entry.file, entry.inputs, entry.outputs, 1)

    def load(file: str) -> Graph:
        return Graph(folder / file, threads=1)

    return [Decoder(each, section) for each in (own, StaticGraphs(static.entry, CONTEXT, load, load))]  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "tolerance"), [(Precision(), 1e-4), (Precision(Kind.INT4), 0.03)])
def test_static_graphs_equal_the_decoders_own(
    case: Case, tmp_path: Path, precision: Precision, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_decoder, "PART_LAYERS", 1)
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config)
    rng = np.random.default_rng(1)
    assert config.talker
    text, talker, count = config.thinker.text, config.talker, sum(PIECES)
    weights = checkpoint.scope("thinker"), checkpoint.scope("talker")
    own = export.build_thinker(weights[0], text, precision), export.build_talker(weights[1], talker, precision)
    embeds = rng.standard_normal((1, count, text.hidden_size)).astype(np.float32)
    states = rng.standard_normal((1, count, talker.embedding_size)).astype(np.float32)
    codec = rng.integers(0, talker.decoder.vocab_size + 1, (1, count))
    for graph, static, section, inputs in (
        (own[0], static_thinker(own[0], weights[0], text, CONTEXT), export.section(text), {"embeds": embeds}),
        (
            own[1],
            static_talker(own[1], weights[1], talker, CONTEXT),
            export.section(talker.decoder),
            {"codec_ids": codec, "states": states},
        ),
    ):
        assert static.entry.part_layers == (1, 1)
        both = decoders(graph, static, section, tmp_path)
        caches = [each.cache(count + 1) for each in both]
        ids = np.stack([np.arange(count), np.arange(count) // 2, np.arange(count) % 7])
        start = 0
        for piece in PIECES:
            part = slice(start, start + piece)
            fed = {role: value[:, part] for role, value in inputs.items()}
            (hidden, logits), (static_hidden, static_logits) = (
                each.step(fed, ids[:, part], cache) for each, cache in zip(both, caches, strict=True)
            )
            for name, expected, actual in (
                ("hidden", hidden, static_hidden),
                ("logits", logits, static_logits),
                *((name, view, caches[1].views(part.stop)[name]) for name, view in caches[0].views(part.stop).items()),
            ):
                error = np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean())
                assert error < tolerance, (name, piece, error)
            start += piece
        # What was trimmed is still in the cache's memory, and must not be attended to.
        for cache in caches:
            cache.trim(3)
        fed = {role: value[:, :1] for role, value in inputs.items()}
        again = [each.step(fed, ids[:, :1], cache)[1] for each, cache in zip(both, caches, strict=True)]
        assert np.abs(again[0] - again[1]).max() < 3 * tolerance * np.abs(again[0]).max()
        with pytest.raises(ContextFullError):
            both[1].step(inputs, ids, caches[1])


@pytest.fixture(scope="module")
def npu_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of `checkpoint` with static graphs."""
    out = tmp_path_factory.mktemp("npu") / "tiny"
    result = run_export(checkpoint, "--out", out, "--precision", "fp32", "--target", TARGET, "--npu-context", CONTEXT)
    assert result.exit_code == 0, result.output
    return out


def test_a_target_adds_graphs_and_no_weights(npu_bundle: Path, exported_bundle: Path) -> None:
    with_npu, without = (Bundle(path, verify=True).manifest for path in (npu_bundle, exported_bundle))
    assert with_npu.static is not None
    assert (with_npu.static.target, with_npu.static.context) == (TARGET, CONTEXT)
    added = {name: entry for name, entry in with_npu.files.items() if name not in without.files}
    assert sorted(added) == sorted(with_npu.static.files)
    assert {name: with_npu.files[name] for name in without.files} == without.files
    # A matrix would be larger; the checkpoint's are tiny.
    assert all(entry.bytes < 20_000 for entry in added.values())
    for file in with_npu.static.files:
        graph = onnx.load(npu_bundle / file, load_external_data=False).graph
        fixed = all(dim.dim_value > 0 for value in graph.input for dim in value.type.tensor_type.shape.dim)
        assert fixed == (file != "talker.input.onnx")
    assert '"static"' not in (exported_bundle / "bundle.json").read_text()


def reply(bundle: Path, device: str) -> tuple[OmniEdge, TurnDone, Counter[str]]:
    """The loaded model, its greedy reply, and how often each role ran."""
    ran: Counter[str] = Counter()
    engine = OmniEdge.load(bundle, threads=1, device=device, trace=lambda role, *_: ran.update([role]))
    session = engine.session(seed=1, context=300, sampling=Sampling(temperature=0), talker_sampling=Sampling(0))
    session.push("Say something.")
    done = list(session.reply(max_new_tokens=5, max_codec_tokens=12))[-1]
    assert isinstance(done, TurnDone)
    assert (len(done.token_ids), len(done.codec_tokens)) == (5, 12)
    return engine, done, ran


@pytest.fixture
def processor_as_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static graphs run on the processor, as if it were the NPU."""
    monkeypatch.setattr(qnn, "installed", lambda: True)
    monkeypatch.setattr(qnn, "_devices", lambda: ["npu"])
    monkeypatch.setattr(qnn, "version", lambda: "0")
    monkeypatch.setattr(
        qnn,
        "open_session",
        lambda path, target, compiled=None: ort.InferenceSession(path, providers=["CPUExecutionProvider"]),
    )


@pytest.mark.usefixtures("processor_as_npu")
def test_a_conversation_by_static_graphs(npu_bundle: Path) -> None:
    _, expected, _ = reply(npu_bundle, "cpu")
    engine, done, ran = reply(npu_bundle, "qnn")
    assert (done.token_ids, done.codec_tokens) == (expected.token_ids, expected.codec_tokens)
    # Two pieces of the prompt and four decoded tokens, each by two graphs: the layers and the head.
    assert ran["thinker (qnn)"] == 2 * (2 + 4)
    assert ran["talker (qnn)"] > 2 * len(done.codec_tokens)
    # The processor runs what enters the Talker, and nothing of the Thinker but its table.
    assert {"thinker", "talker"} & ran.keys() == {"talker"}
    assert engine.session().capacity == CONTEXT
    with pytest.raises(UsageError, match="holds from 1 to 320 positions"):
        engine.session(context=CONTEXT + 1)


def test_devices_that_are_not_there(
    checkpoint: Path, npu_bundle: Path, exported_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qnn, "installed", lambda: False)
    missing = run_edge("run", "Hi", "-m", npu_bundle, "--device", "qnn")
    assert missing.exit_code == 6
    assert "pip install 'omni-edge[qnn]'" in missing.output
    without = run_edge("run", "Hi", "-m", exported_bundle, "--device", "qnn")
    assert (without.exit_code, "--target" in without.output) == (2, True)
    assert run_edge("run", "Hi", "-m", npu_bundle, "--device", "gpu").exit_code == 2
    assert qnn.choose_target("auto", Bundle(npu_bundle).manifest.static) is None
    compiled = run_export(checkpoint, "--out", tmp_path / "out", "--target", TARGET, "--compile")
    assert (compiled.exit_code, "pip install" in compiled.output) == (6, True)


def test_wrong_targets_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    wrong = ["--target qnn-htp:v68", "--npu-context 64", f"--target {TARGET} --npu-context 99999", "--compile"]
    for words in map(str.split, wrong):
        result = run_export(checkpoint, "--out", tmp_path / "out", *words)
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "out").exists()


def test_info_shows_the_graphs(npu_bundle: Path) -> None:
    text = run_edge("info", npu_bundle).output
    assert f"npu      {TARGET}: thinker in 3 graphs, talker in 4 graphs, {CONTEXT} positions" in text


def test_a_conversation_in_the_simulator(npu_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs onnxruntime-qnn, Qualcomm's simulator")
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path))
    result = run_edge("prepare", npu_bundle, "--device", "qnn")
    assert result.exit_code == 0, result.output
    assert "preparing talker.decode.0" in result.output
    _, expected, _ = reply(npu_bundle, "cpu")
    _, done, ran = reply(npu_bundle, "qnn")
    assert (done.token_ids, done.codec_tokens) == (expected.token_ids, expected.codec_tokens)
    assert ran["thinker (qnn)"] > 6
    prepared = PreparedGraphs.for_bundle(Bundle(npu_bundle), target=TARGET)
    assert prepared.missing() == []
    assert prepared.folder.is_relative_to(tmp_path)
    # The compiled graph stands for itself: a session that loads it compiles nothing.
    node = onnx.load(prepared.folder / "thinker.decode.0.onnx").graph.node
    assert [each.op_type for each in node] == ["EPContext"]


def test_every_kind_of_graph_in_the_simulator(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs onnxruntime-qnn, Qualcomm's simulator")
    words = ("--calibration", "none", "--target", TARGET, "--npu-context", CONTEXT)
    result = run_export(checkpoint, "--out", tmp_path / "int4", *words)
    assert result.exit_code == 0, result.output
    static = Bundle(tmp_path / "int4").manifest.static
    assert static
    graphs = [Path(file).stem for file in static.npu_files]
    script = [sys.executable, "benchmarks/npu.py", tmp_path / "int4", *graphs, "--compare"]
    lines = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row["graph"] for row in rows] == graphs
    assert min(min(row["snr_db"].values()) for row in rows) > 45, rows


def test_a_bundle_of_compiled_graphs_in_the_simulator(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs onnxruntime-qnn, Qualcomm's simulator")
    out, words = tmp_path / "compiled", ("--precision", "fp32", "--text-only", "--target", TARGET, "--compile")
    result = run_export(checkpoint, "--out", out, *words, "--npu-context", CONTEXT)
    assert result.exit_code == 0, result.output
    static = Bundle(out, verify=True).manifest.static
    assert static
    assert static.compiled
    assert (out / "thinker.decode.0_qnn.bin").stat().st_size > 10_000
    # Nothing is left to compile on the device.
    assert PreparedGraphs.for_bundle(Bundle(out), tmp_path, TARGET).missing() == []
    texts = []
    for device in ("cpu", "qnn"):
        session = OmniEdge.load(out, threads=1, device=device).session(seed=1, sampling=Sampling(temperature=0))
        session.push("Hi")
        texts.append(list(session.reply(max_new_tokens=4))[-1].token_ids)  # type: ignore[union-attr]
    assert texts[0] == texts[1]
