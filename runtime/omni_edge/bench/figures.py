"""Settings and results of a measurement."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from omni_edge.backend import kernels
from omni_edge.backend.machine import Machine, memory
from omni_edge.bench.timeline import Arrival, Span
from omni_edge.engine import OmniEdge
from omni_edge.errors import UsageError
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings

STAGES = ("load", "thinker", "talker", "audio", "vision", "token2wav", "reply")
_PACKAGES = ("omni-edge", "onnxruntime", "numpy", "tokenizers")


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        stages: of `STAGES`.
        runs: of which the median counts.
        threads: cores to use; None: all.
        low_memory, device: as in `OmniEdge.load`.
        contexts: positions in the KV cache at which decoding is measured.
        prefills: lengths of prompts.
        steps: tokens of one decode measurement.
        sound_seconds: length of the question and of the encoder's input.
        picture: height and width in pixels.
        reply_tokens, reply_codec_tokens: length of the whole reply (random weights would never end it).
        chunk_blocks: DiT blocks of one chunk, each size of which is measured.
        solvers: settings of the vocoder that are measured; the last one speaks the whole reply.
        chunks: schedule of a reply's chunks; the vocoder's own stage takes its order alone.

    Raises:
        UsageError: an unknown stage, or a number below 1.
    """

    stages: tuple[str, ...] = STAGES
    runs: int = 5
    threads: int | None = None
    low_memory: bool = False
    device: str = "cpu"
    contexts: tuple[int, ...] = (128, 2048)
    prefills: tuple[int, ...] = (64, 128, 512)
    steps: int = 16
    sound_seconds: float = 5.0
    picture: tuple[int, int] = (448, 448)
    reply_tokens: int = 20
    reply_codec_tokens: int = 300
    chunk_blocks: tuple[int, ...] = (1, 2, 4)
    solvers: tuple[SolverSettings, ...] = (SolverSettings(guidance=0.0), SolverSettings())
    chunks: ChunkSchedule = field(default_factory=ChunkSchedule)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.stages) - set(STAGES)):
            raise UsageError(f"There is no stage {', '.join(unknown)}; the stages are {', '.join(STAGES)}.")
        if min(self.runs, self.steps, self.reply_tokens, *self.contexts, *self.prefills, *self.chunk_blocks) < 1:
            raise UsageError("Runs, steps, lengths and blocks must be at least 1.")


@dataclass(frozen=True)
class Figure:
    """One measured quantity: its runs, in `unit` ('tok/s', 's', 'RTF', 'B', '%', or '' for a count)."""

    stage: str
    name: str
    unit: str
    runs: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median."""
        return median(self.runs)


@dataclass(frozen=True)
class Report:
    """All figures, and what they were measured on; `spans` and `arrivals` are the timeline of a whole reply.

    `bundle` is the folder's name alone: reports are kept and published.
    """

    bundle: str
    precision: dict[str, str]
    machine: Machine
    threads: int
    versions: dict[str, str]
    figures: tuple[Figure, ...]
    spans: tuple[Span, ...] = ()
    arrivals: tuple[Arrival, ...] = ()


@dataclass
class Subject:
    """A bundle under measurement.

    Attributes:
        path: its folder.
        settings: what is asked.
        spans: every run of a graph since the list was last cleared, in the clock of `time.perf_counter`.
        engine: the loaded bundle.
        fresh: memory of the process right after the first load.
    """

    path: Path
    settings: Settings
    spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = self.load()
        self.fresh = memory()

    def load(self) -> OmniEdge:
        """The bundle, loaded anew."""
        return OmniEdge.load(
            self.path,
            threads=self.settings.threads,
            low_memory=self.settings.low_memory,
            device=self.settings.device,
            trace=lambda role, begin, end: self.spans.append(Span(role, begin, end)),
        )

    def inside(self, begin: float, end: float) -> float:
        """Seconds that graphs ran between two moments."""
        return sum(span.end - span.begin for span in self.spans if begin <= span.begin < end)

    def seconds(self, call: Callable[[], object]) -> tuple[float, ...]:
        """Seconds of each run, after one run that does not count."""
        call()
        return tuple(timed(call) for _ in range(self.settings.runs))


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that speed depends on; whether our operators are compiled."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **packages,
        "operators": "compiled" if kernels.compiled() else "standard",
    }
