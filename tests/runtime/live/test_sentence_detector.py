"""Smart Turn's input and door. The model itself is not shipped: a graph of the same form takes its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni_edge.errors import UsageError
from omni_edge.live.sentence_detector import SentenceDetector
from support.spoken import noise, question

MELS, FRAMES = 80, 800


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose probability is the sigmoid of the features' mean."""
    return write_graph(tmp_path_factory.mktemp("sentence") / "mean.onnx", "input_features")


def write_graph(path: Path, name: str, last: str = "Sigmoid") -> Path:
    from onnx import TensorProto, helper, save

    features = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", MELS, FRAMES])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, 1])
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[1, 2]),
        helper.make_node(last, ["mean"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "mean", [features], [logits])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("seconds", [0.5, 1.6, 8.0, 11.0])
def test_the_input_is_that_of_the_reference(model: Path, seconds: float) -> None:
    from transformers import WhisperFeatureExtractor

    sound = (np.tile(question(), 8) + noise(13, -50)[: question().size * 8])[: round(seconds * 16_000)]
    last = sound[-8 * 16_000 :]
    padded = np.pad(last, (8 * 16_000 - last.size, 0))
    extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=8)
    expected = extractor(padded, sampling_rate=16_000, do_normalize=True, return_tensors="np").input_features[0]
    actual = SentenceDetector(model).features(sound)
    assert actual.shape == expected.shape == (MELS, FRAMES)
    # The reference mirrors the end of the sound; the last frame alone reads beyond it.
    np.testing.assert_allclose(actual[:, :-1], expected[:, :-1], atol=1e-4)
    np.testing.assert_allclose(actual[:, -1], expected[:, -1], atol=0.3)


def test_a_probability_above_one_half_is_complete(model: Path, tmp_path: Path) -> None:
    detector = SentenceDetector(model)
    for sound in (question(), noise(8, -30)):
        probability = detector.probability(sound)
        assert probability == pytest.approx(1 / (1 + np.exp(-detector.features(sound).mean())), abs=1e-5)
        assert detector(sound) == (probability > 0.5)
    assert detector(noise(8, -30))
    assert not SentenceDetector(write_graph(tmp_path / "negative.onnx", "input_features", "Neg"))(noise(8, -30))


def test_a_missing_or_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone.onnx does not exist\. Name Smart Turn's ONNX file"):
        SentenceDetector(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("nothing")
    with pytest.raises(UsageError, match=r"text.onnx is no model of sentences"):
        SentenceDetector(tmp_path / "text.onnx")
    with pytest.raises(UsageError, match=r"other.onnx is another model"):
        SentenceDetector(write_graph(tmp_path / "other.onnx", "pixels"))
