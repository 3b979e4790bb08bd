"""The parts of the shipped checkpoint: nothing is lost, and the Thinker continues from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nano.data.exercises import training_exercise
from nano.data.sequences import Sample
from nano.model.architecture import write_checkpoint
from nano.model.unpack import unpack
from nano.training import train_thinker
from nano.training.train_thinker import Plan, Source

CHECKPOINT = Path(__file__).parents[3] / "nano" / "omni-nano"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    unpack(CHECKPOINT, folder)
    return folder


def test_what_was_taken_apart_goes_together_again(work: Path, tmp_path: Path) -> None:
    assert write_checkpoint(work, tmp_path) == []
    before, after = (load_file(folder / "model.safetensors") for folder in (CHECKPOINT, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert (tmp_path / "config.json").read_text() == (CHECKPOINT / "config.json").read_text()


def test_the_thinker_goes_on_from_there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []

    def typed(self: Source, step: int, count: int, *_: object) -> list[Sample]:
        return [self._composer.compose(training_exercise(step * 100 + n, None, "light", False)) for n in range(count)]

    def learn(*given: object) -> dict[str, float]:
        losses.append(learned(*given)["reply"])
        return {"reply": losses[-1]}

    learned = train_thinker._learn
    monkeypatch.setattr(Source, "reload", lambda _: None)
    monkeypatch.setattr(Source, "exercises", typed)
    monkeypatch.setattr(train_thinker, "_learn", learn)
    monkeypatch.setattr(train_thinker, "evaluate", lambda *_: {})
    monkeypatch.setattr(Source, "cache", None, raising=False)
    before = load_file(work / "weights" / "thinker.safetensors")
    train_thinker.train(work, Plan(steps=2, words=0, fade=1, batch=4, rate=1e-4), evaluate_every=9, count=1)
    after = load_file(work / "weights" / "thinker.safetensors")
    # From nothing it would be ln(768) = 6.6.
    assert max(losses) < 0.1
    assert {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert all(torch.equal(t, after[n]) for n, t in before.items() if "audio_tower" in n or "visual" in n)
