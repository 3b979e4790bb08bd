"""This project, through its public API: sessions, pushed text, sampling with the bundle's defaults.

    python benchmarks/peers/omni.py measure /tmp/b3b          # a bundle, as omni-export writes it

`prefill` is the time to the first token of a reply to a prompt of exactly that many positions (the turn's marks
counted), `decode` the wall time between `TextDelta` events: tokenizer, sampling and Python included.
"""

from __future__ import annotations

from pathlib import Path

from engine import CAPACITY, main

from omni_edge import OmniEdge, UsageError
from omni_edge.bench.decoders import ThinkerProbe
from omni_edge.bench.figures import versions


def build(text_model: Path, model: Path) -> None:
    """Refused: the text model alone makes no bundle."""
    raise UsageError(f"{model} is made from the whole checkpoint ({text_model} is a part): use omni-export.")


class Omni:
    """A loaded bundle."""

    def __init__(self, bundle: Path, threads: int) -> None:
        engine = OmniEdge.load(bundle, threads=threads)
        self._probe = ThinkerProbe(engine, CAPACITY)
        self.versions = versions()
        self.build = f"omni-export, {engine.manifest.graphs['thinker'].precision}"

    def prefill(self, tokens: int) -> float:
        return self._probe.prefill(tokens)

    def decode(self, context: int, steps: int) -> float:
        return sum(ended - began for began, ended in self._probe.decode(context, steps))


if __name__ == "__main__":
    main(__doc__, build, Omni)
