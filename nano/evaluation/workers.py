"""The evaluation's tasks, and a pool of processes for them: one bundle and one thread each."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nano import world
from nano.data.exercises import Exercise
from nano.data.word_errors import word_errors
from nano.evaluation.dialogue import CONTEXT, GREEDY, MOST_CODEC_TOKENS, WHOLE, converse, system_prompt, vocode
from nano.evaluation.metrics import median_pitch
from nano.evaluation.recognizer import Recognizer
from nano.evaluation.shuffle import Shuffle, shuffled_times
from omni_edge import OmniEdge
from omni_edge.vocoder.solver import SolverSettings

T = TypeVar("T")
R = TypeVar("R")
_PROGRESS_EVERY_S = 10.0


@dataclass(frozen=True)
class Question:
    """An exercise that is answered in text; with `shuffle`, `seed` draws the permutations."""

    exercise: Exercise
    shuffle: Shuffle | None = None
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """An exercise that is answered in speech; `greedy` takes the likeliest codec tokens instead of sampling."""

    exercise: Exercise
    voice: str
    greedy: bool
    seed: int


@dataclass(frozen=True)
class Utterance:
    """A sentence and its codec tokens, int64 [n], from the codec."""

    text: str
    voice: str
    codec: NDArray[np.int64]


@dataclass(frozen=True)
class Rendering:
    """An utterance that is vocoded with one solver setting."""

    utterance: Utterance
    solver: SolverSettings
    whole: bool
    seed: int


@dataclass(frozen=True)
class Recognition:
    """The result of recognizing a sound.

    Attributes:
        spoken: the words that were spoken.
        words: the words that were recognized.
        samples: float32 [n]; the sound, empty where it is not compared.
        seconds: time that computing the sound took.
    """

    spoken: tuple[str, ...]
    words: tuple[str, ...]
    samples: NDArray[np.float32]
    seconds: float = 0.0

    @property
    def errors(self) -> tuple[int, int]:
        """Word errors, and the number of words spoken."""
        return word_errors(list(self.spoken), list(self.words)), len(self.spoken)


@dataclass(frozen=True)
class SpokenReply:
    """A spoken reply.

    Attributes:
        text: the Thinker's text.
        streamed: the speech as it was streamed.
        whole: the same codec tokens, vocoded as one utterance.
        pitch: median fundamental frequency of `streamed` in Hz; 0 without voiced frames.
        finished: whether the Talker ended the utterance within the limit.
    """

    text: str
    streamed: Recognition
    whole: Recognition
    pitch: float
    finished: bool


def understand(engine: OmniEdge, question: Question) -> str:
    """The text of the last reply, greedy, from a fresh session."""
    exercise = question.exercise
    session = engine.session(system=system_prompt(exercise), speech=False, sampling=GREEDY, seed=0, context=CONTEXT)
    shuffled: AbstractContextManager[None] = nullcontext()
    if question.shuffle is not None:
        shuffled = shuffled_times(question.shuffle, question.seed)
    with shuffled:
        return converse(session, exercise).done.text


def speak(engine: OmniEdge, request: Request) -> SpokenReply:
    """The last reply in speech, from a fresh session, recognized and compared with the model's own text."""
    session = engine.session(
        voice=request.voice,
        system=system_prompt(request.exercise),
        sampling=GREEDY,
        talker_sampling=GREEDY if request.greedy else None,
        seed=request.seed,
        context=CONTEXT,
    )
    answer = converse(session, request.exercise)
    codec = np.array(answer.done.codec_tokens, np.int64)
    whole = vocode(engine, codec, request.voice, (request.seed, answer.turn), chunks=WHOLE)
    rate, text = engine.model.vocoder().sample_rate, answer.done.text
    return SpokenReply(
        text=text,
        streamed=_recognize(text, answer.samples, rate, answer.done.metrics.total),
        whole=_recognize(text, whole, rate),
        pitch=median_pitch(answer.samples, rate),
        finished=len(codec) < MOST_CODEC_TOKENS,
    )


def render(engine: OmniEdge, rendering: Rendering) -> Recognition:
    """The utterance's samples, recognized."""
    utterance = rendering.utterance
    began = time.perf_counter()
    chunks = WHOLE if rendering.whole else None
    samples = vocode(engine, utterance.codec, utterance.voice, rendering.seed, rendering.solver, chunks)
    seconds = time.perf_counter() - began
    return _recognize(utterance.text, samples, engine.model.vocoder().sample_rate, seconds, keep=True)


def _recognize(
    text: str, samples: NDArray[np.float32], rate: int, seconds: float = 0.0, *, keep: bool = False
) -> Recognition:
    words = _recognizer().words(samples, rate)
    kept = samples if keep else samples[:0]
    return Recognition(tuple(world.plain_words(text).split()), tuple(words), kept, seconds)


@cache
def _recognizer() -> Recognizer:
    return Recognizer()


# -- processes ---------------------------------------------------------------------------------------------------

# The engine of a worker process.
_engines: list[OmniEdge] = []


def _load(bundle: Path) -> None:
    _engines.append(OmniEdge.load(bundle, threads=1))


def _work(function: Callable[[OmniEdge, T], R], item: T) -> R:
    return function(_engines[-1], item)


class WorkerPool:
    """Processes with one bundle loaded; a context manager.

    Args:
        bundle: the bundle's folder.
        workers: number of processes; 1 uses this process, without a pool.
    """

    def __init__(self, bundle: Path, workers: int) -> None:
        self._name = bundle.name
        self._pool: ProcessPoolExecutor | None = None
        self._engine: OmniEdge | None = None
        if workers == 1:
            self._engine = OmniEdge.load(bundle, threads=1)
        else:
            # Forking a process that has threads (numpy's, onnxruntime's) can hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_load, initargs=(bundle,))

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, label: str, function: Callable[[OmniEdge, T], R], items: Sequence[T]) -> list[R]:
        """Applies a module-level `function` to every item, in order; progress goes to stderr."""
        if self._engine is not None:
            results: Iterable[R] = map(partial(function, self._engine), items)
        else:
            assert self._pool is not None
            results = self._pool.map(partial(_work, function), items)
        return list(self._watched(f"{self._name}: {label}", results, len(items)))

    def _watched(self, label: str, results: Iterable[R], count: int) -> Iterator[R]:
        began = shown = time.monotonic()
        for number, result in enumerate(results, 1):
            yield result
            now = time.monotonic()
            if number == count or now - shown > _PROGRESS_EVERY_S:
                shown = now
                print(f"{label}: {number} of {count}, {now - began:.0f} s", file=sys.stderr, flush=True)
