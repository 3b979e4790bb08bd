"""The description of the server for Home Assistant."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from omni_edge.serve.service import Service

_MAKER = {"name": "omni-edge", "url": "https://github.com/omni-edge/omni-edge"}


def info(service: Service, languages: tuple[str, ...]) -> dict[str, Any]:
    """The data of an `info` message.

    Args:
        service: what is served.
        languages: of the model, as Home Assistant names them.
    """

    def artifact(name: str, **more: Any) -> dict[str, Any]:
        about = {"name": name, "attribution": _MAKER, "installed": True, "description": name}
        return {**about, "version": version("omni-edge"), **more}

    model = artifact(service.name, languages=list(languages))
    voices = [artifact(voice, languages=list(languages)) for voice in service.engine.voices]
    recognition = {"supports_transcript_streaming": True, "requires_external_vad": True}
    # Sound goes to the model as it is: gain and noise are no trouble for it.
    recognition |= {"prefers_auto_gain_enabled": False, "prefers_noise_reduction_enabled": False}
    return {
        "asr": [artifact("omni-edge", models=[model], **recognition)],
        "handle": [artifact("omni-edge", models=[model], supports_handled_streaming=True, supports_home_control=False)],
        "tts": [artifact("omni-edge", voices=voices, supports_synthesize_streaming=True)] if service.speaks else [],
        "intent": [],
        "wake": [],
        "mic": [],
        "snd": [],
    }
