"""One spoken turn of the built-in model, greedy, on the machine or emulator that runs this: a line of JSON.

python turn.py SOUND SAMPLES: SAMPLES gets the speech, float32.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np

from omni_edge import AudioChunk, OmniEdge, Sampling, TurnDone
from omni_edge.backend import kernels
from omni_edge.media.load import load_audio

GREEDY = Sampling(temperature=0)


def main() -> None:
    """Answers the sound."""
    engine = OmniEdge.load(threads=1)
    session = engine.session(seed=7, voice="Chelsie", context=512, sampling=GREEDY, talker_sampling=GREEDY)
    session.push(load_audio(Path(sys.argv[1])))
    events = list(session.reply())
    done = events[-1]
    assert isinstance(done, TurnDone)
    speech = np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)])
    Path(sys.argv[2]).write_bytes(speech.astype("<f4").tobytes())
    library = kernels.compiled()
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "operators": library.stem if library else None,
                "text": done.text,
                "tokens": list(done.token_ids),
                "codec_tokens": list(done.codec_tokens),
            }
        )
    )


if __name__ == "__main__":
    main()
