"""The settings of a Realtime session: what `session.update` changes, and how the session is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from omni_edge.live.settings import TurnSettings
from omni_edge.serve.chat_request import read_voice
from omni_edge.serve.fields import Fields
from omni_edge.serve.sound_format import TELEPHONE_RATE
from omni_edge.serve.tools import NO_TOOLS, ToolSet, read_tools

PCM_RATE = 24_000
_LAWS = {"audio/pcmu": "pcmu", "audio/pcma": "pcma"}
_LONGEST_INSTRUCTIONS = 100_000
# Silence in seconds that ends a turn where nothing judges whether a sentence is complete, and where that is judged, one
# that is not.
_EAGERNESS = {"low": 1.2, "medium": 0.8, "auto": 0.8, "high": 0.5}
_PATIENCE = {"low": 8.0, "medium": 4.0, "auto": 4.0, "high": 2.0}
_MOST_TOKENS = 1 << 20
# Milliseconds; OpenAI takes no less than 5000.
_IDLE_TIMEOUTS = (100, 30_000)


@dataclass(frozen=True)
class TurnDetection:
    """How turns end.

    Attributes:
        kind: "server_vad" or "semantic_vad".
        threshold: probability of speech.
        padding: sound before the speech that belongs to the turn, in seconds.
        silence: that ends a turn, in seconds.
        eagerness: of semantic_vad.
        create_response: answer a turn that ends.
        interrupt_response: end the reply when the user speaks.
        idle_timeout: seconds without speech, after a reply was played, that the model answers; None: none are.
    """

    kind: str = "server_vad"
    threshold: float = 0.5
    padding: float = 0.3
    silence: float = 0.5
    eagerness: str = "auto"
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout: float | None = None

    def turn_settings(self, *, judged: bool = False) -> TurnSettings:
        """The rules of the microphone; `judged`: a model judges whether a sentence is complete."""
        defaults = TurnSettings()
        if judged:
            return replace(defaults, give_up=_PATIENCE[self.eagerness])
        return replace(
            defaults,
            threshold=self.threshold,
            exit_threshold=min(defaults.exit_threshold, self.threshold),
            pre_roll=self.padding,
            speculation=min(defaults.speculation, self.silence),
            end_of_turn=self.silence,
            give_up=max(defaults.give_up, self.silence),
        )

    def as_json(self) -> dict[str, Any]:
        """As clients see it."""
        both = {"create_response": self.create_response, "interrupt_response": self.interrupt_response}
        if self.kind == "semantic_vad":
            return {"type": self.kind, "eagerness": self.eagerness, **both}
        return {
            "type": self.kind,
            "threshold": self.threshold,
            "prefix_padding_ms": round(1000 * self.padding),
            "silence_duration_ms": round(1000 * self.silence),
            "idle_timeout_ms": None if self.idle_timeout is None else round(1000 * self.idle_timeout),
            **both,
        }


@dataclass(frozen=True)
class SessionConfig:
    """What a session is set to.

    Attributes:
        instructions: the system prompt; "": the model's default.
        spoken: whether replies are spoken.
        voice: speaker; None: the default one.
        input_law, output_law: "pcmu" or "pcma"; None: 16-bit PCM at 24 kHz.
        turn_detection: None: turns end by `input_audio_buffer.commit`.
        transcription: the client asked for transcripts of the user, which are not made.
        max_output_tokens: text tokens of a reply at most; None: the bundle's default.
        tools: functions that the model may call.
    """

    instructions: str = ""
    spoken: bool = True
    voice: str | None = None
    input_law: str | None = None
    output_law: str | None = None
    turn_detection: TurnDetection | None = TurnDetection()
    transcription: bool = False
    max_output_tokens: int | None = None
    tools: ToolSet = NO_TOOLS

    @property
    def input_rate(self) -> int:
        """Samples per second of the user's sound."""
        return PCM_RATE if self.input_law is None else TELEPHONE_RATE

    def updated(self, session: Fields) -> SessionConfig:
        """These settings with the changes of a `session.update`.

        Raises:
            RequestError: something is wrong or not supported; nothing is changed.
        """
        if session.text("type", "realtime") != "realtime":
            raise session.wrong("type", "must be realtime", "unsupported_session")
        session.refuse("prompt", "include")
        changed = self._output(session)
        audio = session.object("audio")
        if audio is not None:
            changed = changed._input(audio.object("input"))._speech(audio.object("output"))
        return changed

    def for_response(self, response: Fields) -> SessionConfig:
        """These settings with those of one `response.create`.

        Raises:
            RequestError: something is wrong or not supported.
        """
        response.refuse("input", "prompt")
        if response.text("conversation", "auto") != "auto":
            raise response.wrong("conversation", "must be auto; out-of-band responses are not supported", "unsupported")
        changed = self._output(response)
        audio = response.object("audio")
        return changed if audio is None else changed._speech(audio.object("output"))

    def as_json(self, session_id: str, model: str, voices: list[str], expires: int) -> dict[str, Any]:
        """As clients see it."""
        detection = None if self.turn_detection is None else self.turn_detection.as_json()
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": model,
            "expires_at": expires,
            "instructions": self.instructions,
            "output_modalities": ["audio" if self.spoken else "text"],
            "max_output_tokens": self.max_output_tokens or "inf",
            "tools": list(self.tools.offered),
            "tool_choice": self.tools.choice,
            "parallel_tool_calls": self.tools.parallel,
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "audio": {
                "input": {
                    "format": _format(self.input_law),
                    "noise_reduction": None,
                    "transcription": {"model": model} if self.transcription else None,
                    "turn_detection": detection,
                },
                "output": {
                    "format": _format(self.output_law),
                    "voice": self.voice or (voices[0] if voices else None),
                    "speed": 1.0,
                },
            },
        }

    def _output(self, fields: Fields) -> SessionConfig:
        changed = self
        if fields.has("instructions"):
            changed = replace(changed, instructions=fields.text("instructions", longest=_LONGEST_INSTRUCTIONS))
        modalities = fields.strings("output_modalities", 2)
        if modalities:
            if not set(modalities) <= {"audio", "text"}:
                raise fields.wrong("output_modalities", "must be ['audio'] or ['text']")
            changed = replace(changed, spoken="audio" in modalities)
        if fields.raw("max_output_tokens") == "inf":
            changed = replace(changed, max_output_tokens=None)
        elif fields.has("max_output_tokens"):
            changed = replace(changed, max_output_tokens=fields.integer("max_output_tokens", 1, _MOST_TOKENS))
        return changed._functions(fields)

    def _functions(self, fields: Fields) -> SessionConfig:
        names = {"tools": list(self.tools.offered), "tool_choice": self.tools.choice}
        names["parallel_tool_calls"] = self.tools.parallel
        if not any(name in fields for name in names):
            return self
        merged = {name: fields.raw(name) if name in fields else before for name, before in names.items()}
        return replace(self, tools=read_tools(Fields(merged, fields.path), flat=True))

    def _input(self, fields: Fields | None) -> SessionConfig:
        if fields is None:
            return self
        changed = self
        if fields.has("format"):
            changed = replace(changed, input_law=_law(fields))
        if "transcription" in fields:
            changed = replace(changed, transcription=fields.has("transcription"))
        if "turn_detection" in fields:
            changed = replace(changed, turn_detection=_turn_detection(fields.object("turn_detection")))
        return changed

    def _speech(self, fields: Fields | None) -> SessionConfig:
        if fields is None:
            return self
        changed = self
        if fields.has("format"):
            changed = replace(changed, output_law=_law(fields))
        if fields.has("voice"):
            named = fields.object("voice") if isinstance(fields.raw("voice"), dict) else None
            voice = read_voice(named.text("id") if named is not None else fields.text("voice"))
            changed = replace(changed, voice=voice)
        if fields.number("speed", 0.25, 1.5) not in (None, 1.0):
            raise fields.wrong("speed", "must be 1; this model has one speed", "unsupported_parameter")
        return changed


def _format(law: str | None) -> dict[str, Any]:
    return {"type": "audio/pcm", "rate": PCM_RATE} if law is None else {"type": f"audio/{law}"}


def _law(fields: Fields) -> str | None:
    form = fields.object("format")
    assert form is not None
    kind = form.choice("type", ("audio/pcm", *_LAWS))
    if kind == "audio/pcm" and form.integer("rate", PCM_RATE, PCM_RATE) is None:
        return None
    return _LAWS.get(kind)


def _turn_detection(fields: Fields | None) -> TurnDetection | None:
    if fields is None:
        return None
    kind = fields.choice("type", ("server_vad", "semantic_vad"))
    create, interrupt = fields.flag("create_response", True), fields.flag("interrupt_response", True)
    if kind == "semantic_vad":
        fields.refuse("idle_timeout_ms")
        eagerness = fields.choice("eagerness", _EAGERNESS, "auto")
        return TurnDetection(
            kind,
            silence=_EAGERNESS[eagerness],
            eagerness=eagerness,
            create_response=create,
            interrupt_response=interrupt,
        )
    usual = TurnDetection()
    threshold, idle = fields.number("threshold", 0, 1), fields.integer("idle_timeout_ms", *_IDLE_TIMEOUTS)
    padding, silence = fields.integer("prefix_padding_ms", 0, 5000), fields.integer("silence_duration_ms", 100, 10_000)
    return TurnDetection(
        kind,
        threshold=usual.threshold if threshold is None else threshold,
        padding=usual.padding if padding is None else padding / 1000,
        silence=usual.silence if silence is None else silence / 1000,
        create_response=create,
        interrupt_response=interrupt,
        idle_timeout=None if idle is None else idle / 1000,
    )
