"""When a Realtime client's turn ends by `semantic_vad`, with a model of sentences and without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_edge.live.turn_detector import Transition
from omni_edge.serve.realtime.microphone import Microphone
from omni_edge.serve.realtime.session_config import TurnDetection
from support.spoken import LoudnessDetector, question, silence


@pytest.mark.parametrize(
    ("eagerness", "complete", "seconds"),
    [("low", None, 1.2), ("high", None, 0.5), ("low", True, 0.5), ("low", False, 8.0), ("high", False, 2.0)],
)
def test_a_turn_ends_after_its_silence(eagerness: str, complete: bool | None, seconds: float) -> None:
    silences = {"low": 1.2, "high": 0.5}
    detection = TurnDetection("semantic_vad", silence=silences[eagerness], eagerness=eagerness)
    detector: Any = LoudnessDetector()
    judge = None if complete is None else lambda samples: complete
    microphone = Microphone(detection, detector, judge)
    sound = np.concatenate([silence(0.5), question(), silence(9)])
    said = np.flatnonzero(np.abs(sound) > 0.01)[-1] / 16_000
    ended = []
    for start in range(0, sound.size, 320):
        heard = microphone.step(sound[start : start + 320], 16_000)
        ended += [start / 16_000 for each in heard if each.transition is Transition.ENDED]
    assert len(ended) == 1
    assert ended[0] - said == pytest.approx(seconds, abs=0.1)
