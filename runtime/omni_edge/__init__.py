"""Qwen2.5-Omni on a CPU: text, sound, images and video in; streamed text and speech out.

Example::

    engine = OmniEdge.load()  # the built-in demonstration model; OmniEdge.load("bundle") takes another
    session = engine.session(voice="Chelsie")
    session.push("Tell me a joke.")
    for event in session.reply():
        ...
"""

from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.bundle.manifest import Manifest
from omni_edge.conversation.session import Session
from omni_edge.conversation.settings import ReplySettings, SessionSettings
from omni_edge.decoders.sampling import Sampling
from omni_edge.engine import OmniEdge
from omni_edge.errors import (
    BundleError,
    CheckpointError,
    ContextFullError,
    ConversationError,
    DeviceError,
    MediaError,
    OmniEdgeError,
    ResourceError,
    ServerError,
    UsageError,
)
from omni_edge.events import (
    AudioChunk,
    AudioClip,
    CameraFrame,
    Event,
    ImageFrame,
    Media,
    Metrics,
    PcmBlock,
    TextDelta,
    TurnDone,
    VideoClip,
)
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import (
    ContextUse,
    Interrupted,
    Level,
    LiveEvent,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnCut,
    TurnsEvicted,
    Underrun,
)
from omni_edge.live.hearing import Hearing
from omni_edge.live.playback import SpeechSink
from omni_edge.live.settings import TurnSettings
from omni_edge.live.voice_detector import VoiceDetector
from omni_edge.vocoder.pacing import PacingSettings
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings

__all__ = [
    "AudioChunk",
    "AudioClip",
    "BundleError",
    "CameraFrame",
    "CheckpointError",
    "ChunkSchedule",
    "ContextFullError",
    "ContextUse",
    "ConversationError",
    "DeviceError",
    "Duplex",
    "Event",
    "Hearing",
    "ImageFrame",
    "Interrupted",
    "Level",
    "LiveEvent",
    "Manifest",
    "Media",
    "MediaError",
    "Metrics",
    "OmniEdge",
    "OmniEdgeError",
    "PacingSettings",
    "PcmBlock",
    "ReplySettings",
    "ResourceError",
    "Sampling",
    "ServerError",
    "Session",
    "SessionSettings",
    "SolverSettings",
    "SpeechResumed",
    "SpeechSink",
    "SpeechStarted",
    "SpeechStopped",
    "TextDelta",
    "TurnCut",
    "TurnDone",
    "TurnSettings",
    "TurnsEvicted",
    "Underrun",
    "UsageError",
    "VideoClip",
    "VoiceDetector",
    "shipped_bundle",
]
