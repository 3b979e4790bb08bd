"""Sampling against transformers' logits processors: the same distribution, not only the same best token."""

from __future__ import annotations

import numpy as np
import pytest

from omni_edge import Sampling, UsageError
from omni_edge.bundle.manifest import SamplingSection
from omni_edge.decoders.sampling import Sampler, _largest

VOCABULARY = 60
DRAWS = 20_000


def reference(logits: np.ndarray, seen: list[int], settings: SamplingSection) -> np.ndarray:
    import torch
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        processors.append(TopPLogitsWarper(settings.top_p))
    scores = processors(torch.tensor([seen]), torch.from_numpy(logits)[None].clone())
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSection(0.9, 40, 0.8, 1.05, 10),
        SamplingSection(1.5, 0, 1.0, 1.0, 10),
        SamplingSection(0.7, 5, 1.0, 1.5, 10),
        SamplingSection(1.0, 0, 0.5, 0.8, 10),
    ],
)
def test_frequencies_equal_the_reference(settings: SamplingSection) -> None:
    logits = (np.random.default_rng(0).standard_normal(VOCABULARY) * 2).astype(np.float32)
    seen = [3, 7, 7, int(logits.argmax())]
    expected = reference(logits, seen, settings)
    drawn = np.zeros(VOCABULARY)
    generator = np.random.default_rng(1)
    sampler = Sampler(settings, (1,), VOCABULARY)
    sampler._random = generator
    for _ in range(DRAWS):
        sampler._seen[:] = False
        sampler.observe(np.array(seen))
        drawn[sampler.draw(logits)] += 1
    assert not drawn[expected == 0].any()
    # Six standard deviations of a binomial count.
    bound = 6 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9
    assert (np.abs(drawn / DRAWS - expected) <= bound).all()


@pytest.mark.parametrize("size", [50, 640, 5000, 151_936])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_largest_logits_are_found(size: int, count: int) -> None:
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert set(_largest(logits, count)) == set(np.argsort(logits)[-count:])


def test_greedy_applies_the_penalty_and_remembers_what_it_drew() -> None:
    sampler = Sampler(SamplingSection(0.0, 0, 1.0, 2.0, 10), (0,), 3)
    logits = np.array([1.0, 1.8, -1.0], np.float32)
    assert [sampler.draw(logits) for _ in range(3)] == [1, 0, 1]
    assert logits.tolist() == pytest.approx([1.0, 1.8, -1.0])


def test_suppressed_tokens_are_never_drawn() -> None:
    sampler = Sampler(SamplingSection(0.0, 0, 1.0, 1.0, 10), (0,), 3, suppress=[1])
    assert sampler.draw(np.array([1.0, 9.0, 0.0], np.float32)) == 0


def test_unset_values_come_from_the_bundle() -> None:
    defaults = SamplingSection(0.9, 40, 0.8, 1.05, 4096)
    assert Sampling(top_k=3).over(defaults) == SamplingSection(0.9, 3, 0.8, 1.05, 4096)
    assert Sampling(temperature=0).over(defaults).temperature == 0


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -1), ("top_k", -2), ("top_p", 0), ("top_p", 1.2), ("repetition_penalty", 0)]
)
def test_impossible_values_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field):
        Sampling(**{field: value})  # type: ignore[arg-type]
