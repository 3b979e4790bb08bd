"""What `/metrics` says, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from omni_edge.backend.machine import memory
from omni_edge.events import Metrics, TurnDone

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RTF = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)


@dataclass
class Histogram:
    """Counts of values up to each bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ServerMetrics:
    """Counters of one server since it started. One thread.

    Attributes:
        requests: by path's pattern and status.
    """

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self._replies: dict[str, int] = {}
        self._tokens = {"prompt": 0, "cached": 0, "text": 0, "codec": 0}
        self._ttft, self._ttfa, self._rtf = Histogram(_SECONDS), Histogram(_SECONDS), Histogram(_RTF)

    def request(self, path: str, status: int) -> None:
        """Counts a response."""
        self.requests[path, status] = self.requests.get((path, status), 0) + 1

    def reply(self, done: TurnDone, cached: int) -> None:
        """Counts a reply, of whose prompt `cached` positions were in the caches."""
        measured: Metrics = done.metrics
        self._replies[done.finish_reason] = self._replies.get(done.finish_reason, 0) + 1
        for kind, count in (
            ("prompt", done.prompt_tokens),
            ("cached", cached),
            ("text", len(done.token_ids)),
            ("codec", len(done.codec_tokens)),
        ):
            self._tokens[kind] += count
        if done.token_ids:
            self._ttft.add(measured.ttft)
        if measured.ttfa is not None:
            self._ttfa.add(measured.ttfa)
        if measured.rtf is not None:
            self._rtf.add(measured.rtf)

    def text(self, *, active: int, waiting: int, sessions: int, connections: int) -> str:
        """The page."""
        lines: list[str] = []
        _gauge(lines, "generations_active", "Generations that are computed", active)
        _gauge(lines, "generations_waiting", "Generations in the queue", waiting)
        _gauge(lines, "realtime_sessions", "Open Realtime sessions", sessions)
        _gauge(lines, "connections", "Open connections", connections)
        _gauge(lines, "resident_memory_bytes", "Resident memory", memory().resident)
        _head(lines, "requests_total", "Responses", "counter")
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'omni_edge_requests_total{{path="{path}",status="{status}"}} {count}')
        _head(lines, "replies_total", "Replies", "counter")
        for reason, count in sorted(self._replies.items()):
            lines.append(f'omni_edge_replies_total{{finish_reason="{reason}"}} {count}')
        _head(lines, "tokens_total", "Tokens of prompts and replies", "counter")
        lines += [f'omni_edge_tokens_total{{kind="{kind}"}} {count}' for kind, count in self._tokens.items()]
        _histogram(lines, "ttft_seconds", "End of the input to the first text token", self._ttft)
        _histogram(lines, "ttfa_seconds", "End of the input to the first playable sample", self._ttfa)
        _histogram(lines, "rtf", "Compute seconds per second of speech", self._rtf)
        return "\n".join(lines) + "\n"


def _head(lines: list[str], name: str, what: str, kind: str) -> None:
    lines += [f"# HELP omni_edge_{name} {what}.", f"# TYPE omni_edge_{name} {kind}"]


def _gauge(lines: list[str], name: str, what: str, value: float) -> None:
    _head(lines, name, what, "gauge")
    lines.append(f"omni_edge_{name} {value}")


def _histogram(lines: list[str], name: str, what: str, histogram: Histogram) -> None:
    _head(lines, name, what, "histogram")
    count = 0
    for bound, more in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        count += more
        lines.append(f'omni_edge_{name}_bucket{{le="{bound}"}} {count}')
    lines += [f"omni_edge_{name}_sum {histogram.total}", f"omni_edge_{name}_count {count}"]
