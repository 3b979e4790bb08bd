"""The weights of a bundle, ready to run; immutable, shared by any number of sessions and threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.audio.front_end import Ear
from omni_edge.backend.graph import Trace
from omni_edge.backend.loader import GraphLoader, Stages
from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.bundle.manifest import Manifest
from omni_edge.bundle.reader import Bundle
from omni_edge.conversation.session import Session
from omni_edge.decoders.decoder import Decoder
from omni_edge.decoders.sampling import Sampling
from omni_edge.decoders.talker import Talker
from omni_edge.decoders.thinker import Thinker
from omni_edge.decoders.tokenizer import TextCodec
from omni_edge.errors import BundleError, UsageError
from omni_edge.vision.encoder import VisionEncoder
from omni_edge.vision.image_processor import ImageProcessor
from omni_edge.vocoder.dit import TimeTableCache
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings
from omni_edge.vocoder.vocoder import Vocoder

# Positions a session reserves when it is not told otherwise. Unused ones cost address space, not memory.
DEFAULT_CONTEXT = 8192


class OmniEdge:
    """A loaded bundle. `OmniEdge.load(path)` makes one; `session()` starts a conversation on it.

    The Thinker and, where the bundle speaks, the Talker and the vocoder are loaded at once; an encoder when the first
    sound or picture comes.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, low_memory: bool = False, trace: Trace | None = None
    ) -> None:
        self.bundle = bundle
        self._load = load = GraphLoader(bundle, threads, trace)
        self._stages = Stages(exclusive=low_memory)
        self.text = TextCodec.from_bundle(bundle)
        self.ear = Ear(bundle.manifest.audio)
        self.image_processor = ImageProcessor(bundle.manifest.vision)
        thinker = Decoder(self._load("thinker"), bundle.manifest.thinker)
        self.thinker = Thinker(thinker, self._load("token_embedding"))
        self.talker = self._load_talker()
        # Not `self._load`: an engine that its own parts refer to would keep its gigabytes until a garbage collection.
        self._time_tables = TimeTableCache(lambda: load("dit_time"))
        if self.talker is not None and not low_memory:
            _ = self.vocoder

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        *,
        threads: int | None = None,
        verify: bool = False,
        low_memory: bool = False,
        trace: Trace | None = None,
    ) -> OmniEdge:
        """Loads the bundle in folder `path`.

        Args:
            path: the folder that holds `bundle.json`; None: the built-in demonstration model, see `shipped_bundle`.
            threads: cores to use; None: all that this process may run on.
            verify: hash every file first (seconds for a large bundle); sizes are always checked.
            low_memory: of the encoders and the vocoder, keep only the one in use: less memory, and a pause of a second
                or so whenever the conversation goes from one to another.
            trace: is told of every run of a graph: its role, begin and end in the clock of `time.perf_counter`.

        Raises:
            BundleError: the folder is no bundle, or a damaged one; the installation has no built-in one.
            ResourceError: not enough memory.
        """
        bundle = Bundle(shipped_bundle() if path is None else path, verify=verify)
        return cls(bundle, threads=threads, low_memory=low_memory, trace=trace)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def voices(self) -> list[str]:
        """Names of the speakers; empty in a text-only bundle."""
        return list(self.manifest.voices.speakers) if self.manifest.voices else []

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the bundle."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    @property
    def audio_encoder(self) -> AudioEncoder:
        """Mel blocks -> embeds; loaded on first use."""
        section = self.manifest.audio
        return self._stages.get("ear", lambda: AudioEncoder(self._load("audio_encoder", varying=True), section))

    @property
    def vision_encoder(self) -> VisionEncoder:
        """Patches -> embeds; loaded on first use."""
        section = self.manifest.vision
        return self._stages.get("eye", lambda: VisionEncoder(self._load("vision_encoder", varying=True), section))

    @property
    def vocoder(self) -> Vocoder:
        """Codec tokens -> samples; where memory is short, loaded on first use."""
        return self._stages.get("voice", lambda: Vocoder.load(self._load, self._time_tables))

    def voice_embed(self, name: str) -> NDArray[np.float32]:
        """The embed [hidden] of the text token that announces speaker `name` to the Talker."""
        if self.manifest.voices is None or name not in self.manifest.voices.speakers:
            raise UsageError(f"There is no voice {name!r}; this bundle has {', '.join(self.voices) or 'none'}.")
        embed: NDArray[np.float32] = self.thinker.embed(np.array([self.manifest.voices.speakers[name].bos_token]))[0]
        return embed

    def session(
        self,
        *,
        voice: str | None = None,
        system: str | None = None,
        context: int | None = None,
        seed: int | None = None,
        speech: bool | None = None,
        sampling: Sampling | None = None,
        talker_sampling: Sampling | None = None,
        vocoder: SolverSettings | None = None,
        chunks: ChunkSchedule | None = None,
        max_pixels: int | None = None,
    ) -> Session:
        """A fresh conversation.

        Args:
            voice: who speaks; None: the bundle's default speaker.
            system: the system prompt; None: the one that speech requires, or the checkpoint's default without speech.
            context: positions the conversation may use (text tokens, 25 a second of sound, one per 28 x 28 pixels).
            seed: makes everything reproducible (all but the samples where `chunks` are paced); None: different
                every time.
            speech: answer in speech too; None: where the bundle can.
            sampling: how text tokens are drawn.
            talker_sampling: how codec tokens are drawn.
            vocoder: solver and guidance of token2wav.
            chunks: how the speech is divided into chunks.
            max_pixels: larger pictures are scaled down to this many; None: to a quarter of the context.

        Raises:
            UsageError: an unknown voice, speech from a text-only bundle, a context the model cannot hold.
        """
        limit = self.manifest.thinker.max_positions
        capacity = min(DEFAULT_CONTEXT, limit) if context is None else context
        if not 0 < capacity <= limit:
            raise UsageError(f"The context is {capacity}; this model holds from 1 to {limit} positions.")
        if speech and self.talker is None:
            raise UsageError("This bundle has no speech: it was exported with --text-only. Ask without speech.")
        return Session(
            self,
            capacity=capacity,
            speech=self.talker is not None if speech is None else speech,
            voice=voice,
            system=system,
            seed=seed,
            sampling=sampling or Sampling(),
            talker_sampling=talker_sampling or Sampling(),
            solver=vocoder,
            chunks=chunks,
            max_pixels=max_pixels,
        )

    def _load_talker(self) -> Talker | None:
        manifest = self.manifest
        if manifest.talker is None:
            return None
        if manifest.talker_decoder is None or manifest.token2wav is None:
            raise BundleError("bundle.json: a bundle that speaks needs talker_decoder and token2wav. Export it again.")
        decoder = Decoder(self._load("talker"), manifest.talker_decoder)
        marks = self.thinker.embed(np.array([manifest.talker.text_end_token, manifest.talker.text_pad_token]))
        limit = manifest.token2wav.codec_limit
        return Talker(decoder, manifest.talker, codec_limit=limit, text_end=marks[0], text_pad=marks[1])
