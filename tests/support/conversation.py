"""A live conversation on a virtual clock: pushed in frames of 20 ms, faster than real time, the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge import OmniEdge, PcmBlock, Sampling, Session, TurnDone
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import Interrupted, LiveEvent, SpeechResumed, SpeechStarted, SpeechStopped
from omni_edge.live.hearing import Hearing
from omni_edge.live.talk import REFILL_POSITIONS
from omni_edge.live.virtual_sink import VirtualSink
from omni_edge.live.voice_detector import VOICE_RATE
from support.spoken import LoudnessDetector, question, silence

TOKENS, CODEC_TOKENS = 12, 60
# Codec tokens of a reply that is long enough to be interrupted: 4 s.
LONG = 200
FRAME = 320
GREEDY = Sampling(temperature=0)


def session(engine: OmniEdge, speech: bool = True, context: int | None = None) -> Session:
    return engine.session(seed=4, speech=speech, context=context, sampling=GREEDY, talker_sampling=GREEDY)


class Conversation:
    """A `Duplex`, its loudspeaker, and what happened; `say` moves the clock."""

    def __init__(
        self,
        engine: OmniEdge,
        *,
        speech: bool = True,
        half_duplex: bool = False,
        context: int | None = None,
        **limits: int,
    ) -> None:
        self.session = session(engine, speech, context)
        assert engine.manifest.token2wav is not None
        self.sink = VirtualSink(engine.manifest.token2wav.sample_rate)
        settings: dict[str, Any] = {"max_new_tokens": TOKENS, "max_codec_tokens": CODEC_TOKENS, **limits}
        hearing = Hearing(LoudnessDetector())
        self.duplex = Duplex(self.session, hearing, sink=self.sink, half_duplex=half_duplex, **settings)
        self.events: list[LiveEvent] = []

    def say(self, samples: NDArray[np.float32], compute: bool = True) -> None:
        """Pushes a sound in frames; the loudspeaker plays meanwhile, and `compute` says whether the model runs."""
        for start in range(0, samples.size - FRAME + 1, FRAME):
            self.sink.advance(self.sink.rate * FRAME // VOICE_RATE)
            self.duplex.push(PcmBlock(samples[start : start + FRAME], VOICE_RATE))
            if compute:
                self.run()

    def run(self) -> None:
        """Computes until nothing is left to do."""
        self.events += self.duplex.events(wait=False)

    def until(self, kind: type) -> None:
        """Computes up to the first event of a kind."""
        for event in self.duplex.events():
            self.events.append(event)
            if isinstance(event, kind):
                return

    def take(self, *kinds: type) -> list[Any]:
        """The events of these kinds so far, in order; forgets all."""
        found = [event for event in self.events if isinstance(event, kinds)]
        self.events = []
        return found


SPOKEN = SpeechStarted, SpeechStopped, SpeechResumed, TurnDone, Interrupted


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def plain(engine: OmniEdge, samples: NDArray[np.float32], speech: bool = True) -> Session:
    """The conversation of a caller who knows the turn's end: the sound, without speculation.

    Compiled operators round by how positions are batched, so it prefills in the same batches.
    """
    one = session(engine, speech)
    while one.refilling:
        one.refill(REFILL_POSITIONS)
    one.push(PcmBlock(samples, VOICE_RATE))
    one.end_sound()
    return one


def reply(one: Session, max_codec_tokens: int = CODEC_TOKENS) -> TurnDone:
    done = list(one.reply(max_new_tokens=TOKENS, max_codec_tokens=max_codec_tokens))[-1]
    assert isinstance(done, TurnDone)
    return done


def first_turn() -> NDArray[np.float32]:
    """The sound of a turn that is `question` alone."""
    return turn_in(np.concatenate([question(), silence(1)]))


def turn_in(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the turn in a sound holds."""
    hearing = Hearing(LoudnessDetector())
    pieces = [sound[start : start + FRAME] for start in range(0, sound.size, FRAME)]
    return np.concatenate([heard.samples for piece in pieces for heard in hearing.step(piece, VOICE_RATE)])
