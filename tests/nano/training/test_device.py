"""Training runs on one device: no loss mixes tensors of two devices, and saved states load on any device.

No GPU is needed. `Away` tensors have another device, compute on the CPU, and refuse tensors of the CPU as a GPU's do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from nano.data import speech_cache, speech_corpus
from nano.data.tokenizer import write_tokenizer
from nano.data.voices import VOICES
from nano.training import (
    train_audio_encoder,
    train_bigvgan,
    train_codec,
    train_dit,
    train_talker,
    train_thinker,
    train_vision_encoder,
)
from nano.training.loop import parse
from nano.training.train_thinker import Plan
from nano.world import wording

# A device that exists in torch, computes in no build, and has its gradients in the calling thread.
_AWAY = torch.device("lazy")
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class Away(Tensor):
    """A tensor whose device is `_AWAY`; `inner`, on the CPU, has the numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        made: Away = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=_AWAY
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})

    # What module.to() asks of a tensor that it puts into a parameter's place.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> Away:
        return Away(inner["inner"])


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = any(isinstance(tensor, Away) for tensor in given)
    # Numbers of no dimension may come from the CPU, on a GPU as well.
    strangers = [tensor for tensor in given if tensor.ndim and not isinstance(tensor, Away)]
    if away and strangers and op not in _COPIES:
        raise RuntimeError(f"{op}: {tuple(strangers[0].shape)} of the CPU among tensors of {_AWAY}")
    wanted = kwargs.get("device")
    if wanted is not None:
        away = torch.device(wanted).type == _AWAY.type
        kwargs = kwargs | {"device": "cpu"}
    made = op(*tree_map_only(Away, lambda each: each.inner, args), **tree_map_only(Away, lambda e: e.inner, kwargs))
    if not away or op is torch.ops.aten.copy_.default:
        return args[0] if op is torch.ops.aten.copy_.default else made
    # A copy is one, even where the CPU's tensor would do.
    wrapped = tree_map_only(Tensor, lambda each: Away(each.clone() if wanted is not None else each), made)
    return wrapped if wanted is not None else return_and_correct_aliasing(op, args, kwargs, wrapped)


@contextmanager
def elsewhere() -> Iterator[None]:
    """New tensors are on `_AWAY`."""
    # As torch's own FakeTensorMode does: what torch.tensor makes is moved where modes see it.
    torch._C._set_only_lift_cpu_tensors(True)
    torch.set_default_device(_AWAY)
    try:
        with _Elsewhere():
            yield
    finally:
        torch.set_default_device(None)
        torch._C._set_only_lift_cpu_tensors(False)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder for training, with noise in the place of speech."""

    def noise(*_: object) -> np.ndarray:
        return rng.uniform(-0.5, 0.5, 140 * speech_corpus.CODE_SAMPLES).astype(np.float32)

    rng = np.random.default_rng(0)
    texts = [(wording.UNKNOWN, "reply", "train"), ("words without sense", "general", "train")]
    monkeypatch.setattr(speech_corpus, "sentences", lambda _: texts)
    monkeypatch.setattr(speech_corpus, "synthesize", noise)
    spoken = [speech_cache.Clip("hello", str(VOICES[0]), split, 1.0, 1.0) for split in ("train", "random_words")]
    monkeypatch.setattr(speech_cache, "plan", lambda **_: spoken)
    monkeypatch.setattr(speech_cache, "synthesize", noise)
    monkeypatch.setattr(train_audio_encoder, "aligned_speech", lambda *_: [(noise(), np.arange(20))])
    monkeypatch.setattr(train_talker, "_DRAWS", 100)
    monkeypatch.setattr(train_bigvgan, "BATCH", 2)
    write_tokenizer(tmp_path / "tokenizer")
    speech_corpus.build(tmp_path)
    speech_cache.build(tmp_path)
    return tmp_path


def test_every_stage_stays_on_its_device_and_saves_for_any(work: Path) -> None:
    with elsewhere():
        train_thinker.train(work, Plan(steps=1, words=1, fade=1, batch=1, rate=1e-3), evaluate_every=1, count=1)
        train_vision_encoder.train(work, steps=1, batch=3, rate=1e-3)
        train_audio_encoder.train(work, steps=1, phones=1, fade=1, batch=8, rate=1e-3)
        train_codec.write_codes(work, train_codec.train(work, 1))
        train_talker.train(work, steps=1, early=1, batch=2, rate=1e-3, fade=1, limit=2)
        train_dit.train(work, 1)
        train_bigvgan.train(work, 1)
    names = (
        "thinker.pt",
        "vision_encoder.pt",
        "audio_encoder.pt",
        "audio_encoder.state",
        "codec.pt",
        "talker.pt",
        "dit.pt",
        "bigvgan.pt",
    )
    for name in names:
        saved = tree_leaves(torch.load(work / "training" / name, weights_only=True))
        assert {tensor.device.type for tensor in saved if isinstance(tensor, Tensor)} == {"cpu"}, name


def test_tensors_of_two_devices_do_not_meet_here() -> None:
    with elsewhere():
        here = torch.zeros(2)
        with pytest.raises(RuntimeError, match=r"\(2,\) of the CPU among tensors of lazy"):
            here + torch.from_numpy(np.zeros(2, np.float32))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["stage", "--device", "cuda"])
    with pytest.raises(SystemExit):
        parse(argparse.ArgumentParser())
