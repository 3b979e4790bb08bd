"""What a session was pushed, for the tests of live conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import PcmBlock, Session


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[[Session], NDArray[np.float32]]:
    """What a session was pushed as live sound, all of it that it was not taken back from."""
    pushed: dict[Session, list[NDArray[np.float32]]] = {}
    push = Session.push

    def recording(self: Session, item: Any) -> None:
        if isinstance(item, PcmBlock) and item.samples.size:
            pushed.setdefault(self, []).append(np.asarray(item.samples))
        push(self, item)

    monkeypatch.setattr(Session, "push", recording)
    return lambda one: np.concatenate(pushed[one])
