"""The settings of a conversation: one frozen object, from the caller to the session; checked here and nowhere else."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from omni_edge.bundle.manifest import Manifest, SamplingSection
from omni_edge.decoders.sampling import OnToken, Sampling, TokenMask
from omni_edge.errors import UsageError
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings

# Positions that a session reserves by default. Unused ones cost address space, not memory.
DEFAULT_CONTEXT = 8192
_SEED_BITS = 63
# Each chunk of 2 s then holds whole temporal patches of two frames.
_CAMERA_FPS = (1, 2)


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How a conversation answers. None takes the default of the bundle.

    Attributes:
        voice: name of the speaker.
        system: the system prompt. None: the one that speech requires, or without speech the checkpoint's default.
            "": no system turn.
        context: positions that the conversation may use: one for each text token, 25 for each second of sound, one for
            each 28 x 28 pixels. None: 8192, or the model's limit where that is lower.
        seed: makes everything reproducible, except the samples where `chunks` are paced. None: a random seed.
        speech: whether replies are spoken. None: where the bundle can speak.
        sampling: how text tokens are drawn.
        talker_sampling: how codec tokens are drawn.
        solver: solver and guidance of the vocoder.
        chunks: how the speech is cut into chunks.
        max_pixels: pixels of the largest picture; a larger one is scaled down. None: a quarter of the context.
        camera_fps: frames of a live video that the model sees in a second. A minute of them fits the default context
            at 1; 2 is the rate of recorded videos.

    Raises:
        UsageError: a seed below 0, or a camera_fps that is not offered.
    """

    voice: str | None = None
    system: str | None = None
    context: int | None = None
    seed: int | None = None
    speech: bool | None = None
    sampling: Sampling | None = None
    talker_sampling: Sampling | None = None
    solver: SolverSettings | None = None
    chunks: ChunkSchedule | None = None
    max_pixels: int | None = None
    camera_fps: int = 1

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"The seed is {self.seed}; it must be 0 or more.")
        if self.camera_fps not in _CAMERA_FPS:
            choices = " or ".join(map(str, _CAMERA_FPS))
            raise UsageError(f"A live video cannot have {self.camera_fps} frames per second; choose {choices}.")

    def complete(self, manifest: Manifest) -> CompleteSettings:
        """These settings with the defaults of a bundle in place of every None.

        Raises:
            UsageError: the bundle cannot do what is asked: an unknown voice, speech from a text-only bundle, or a
                context that the model cannot hold.
        """
        limit = manifest.thinker.max_positions
        context = min(DEFAULT_CONTEXT, limit) if self.context is None else self.context
        if not 0 < context <= limit:
            raise UsageError(f"The context is {context}; this model holds from 1 to {limit} positions.")
        speech = manifest.talker is not None if self.speech is None else self.speech
        if speech and manifest.talker is None:
            raise UsageError("This bundle has no speech: it was exported with --text-only. Ask without speech.")
        default_system = manifest.text.speech_system if speech else manifest.text.default_system
        talker_sampling = None
        if speech and manifest.talker_sampling is not None:
            talker_sampling = (self.talker_sampling or Sampling()).over(manifest.talker_sampling)
        return CompleteSettings(
            voice=_voice(self.voice, manifest),
            system=default_system if self.system is None else self.system,
            context=context,
            seed=secrets.randbits(_SEED_BITS) if self.seed is None else self.seed,
            sampling=(self.sampling or Sampling()).over(manifest.sampling),
            talker_sampling=talker_sampling,
            solver=self.solver or SolverSettings(),
            chunks=self.chunks or ChunkSchedule(),
            max_pixels=self.max_pixels,
            camera_fps=self.camera_fps,
        )


@dataclass(frozen=True, kw_only=True)
class ReplySettings:
    """What is different in one reply; None leaves it to the conversation's settings.

    Attributes:
        text: the reply itself, which is spoken as it stands; None: the Thinker writes it.
        speech: False: this reply is text only.
        sampling: how text tokens are drawn.
        seed: of this reply's random streams.
        stop: texts that end the reply; neither they nor what follows them comes out.
        unspoken: texts that end the speech; they and what follows them is written only.
        mask: which tokens the Thinker may write; good for one reply. None: all.
        on_token: called with the Thinker's logits, float32 [vocabulary], and the token that was drawn from them.

    Raises:
        UsageError: a seed below 0, an empty `text`, or an empty one in `stop` or `unspoken`.
    """

    text: str | None = None
    speech: bool = True
    sampling: Sampling | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    unspoken: tuple[str, ...] = ()
    mask: TokenMask | None = None
    on_token: OnToken | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"The seed is {self.seed}; it must be 0 or more.")
        if self.text == "" or "" in self.stop + self.unspoken:
            raise UsageError("The text of a reply and the texts that end it or its speech must not be empty.")


@dataclass(frozen=True, kw_only=True)
class CompleteSettings:
    """The settings of one conversation on one bundle, nothing left open.

    Attributes:
        voice: name of the first speaker; empty in a text-only bundle.
        talker_sampling: how codec tokens are drawn; None: replies are text only.
        max_pixels: pixels of the largest picture; None: a quarter of the context.

    The other attributes are those of `SessionSettings`.
    """

    voice: str
    system: str
    context: int
    seed: int
    sampling: SamplingSection
    talker_sampling: SamplingSection | None
    solver: SolverSettings
    chunks: ChunkSchedule
    max_pixels: int | None
    camera_fps: int

    def reusable(self, voice: str) -> SessionSettings:
        """Settings that start a conversation equal to this one, with another speaker."""
        return SessionSettings(
            voice=voice or None,
            system=self.system,
            context=self.context,
            seed=self.seed,
            speech=self.talker_sampling is not None,
            sampling=_sampling(self.sampling),
            talker_sampling=_sampling(self.talker_sampling) if self.talker_sampling is not None else None,
            solver=self.solver,
            chunks=self.chunks,
            max_pixels=self.max_pixels,
            camera_fps=self.camera_fps,
        )


def _sampling(section: SamplingSection) -> Sampling:
    return Sampling(section.temperature, section.top_k, section.top_p, section.repetition_penalty)


def check_voice(name: str, manifest: Manifest) -> str:
    """`name`, where a bundle has a speaker of that name.

    Raises:
        UsageError: it has none.
    """
    speakers = manifest.voices.speakers if manifest.voices is not None else {}
    if name not in speakers:
        raise UsageError(f"There is no voice {name!r}; this bundle has {', '.join(speakers) or 'none'}.")
    return name


def _voice(name: str | None, manifest: Manifest) -> str:
    if manifest.voices is not None:
        return check_voice(manifest.voices.default if name is None else name, manifest)
    if name is not None:
        raise UsageError("This bundle has no voices: it was exported with --text-only. Leave --voice out.")
    return ""
