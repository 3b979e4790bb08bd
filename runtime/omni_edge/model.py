"""The loaded parts of a bundle: immutable, shared by any number of sessions and threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.backend.graph import Trace
from omni_edge.backend.loader import GraphLoader, LazyParts
from omni_edge.bundle.manifest import Manifest
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import Decoder
from omni_edge.decoders.talker import Talker
from omni_edge.decoders.thinker import Thinker
from omni_edge.decoders.tokenizer import TextTokenizer
from omni_edge.errors import BundleError
from omni_edge.vision.encoder import VisionEncoder
from omni_edge.vision.image_processor import ImageProcessor
from omni_edge.vocoder.dit import TimeTableCache
from omni_edge.vocoder.vocoder import Vocoder


class Model:
    """Everything that a bundle's weights can do; it holds no state of a conversation.

    The Thinker is loaded at once, as are the Talker and the vocoder of a bundle that speaks. An encoder is loaded when
    the first sound or picture comes.

    Args:
        bundle: the opened bundle.
        threads: cores that one graph may use; None: all.
        low_memory: keep one of the encoders and the vocoder in memory at a time, and load none at once.
        trace: called after every run of a graph.

    Raises:
        BundleError: a graph is missing or damaged.
        ResourceError: not enough memory.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, low_memory: bool = False, trace: Trace | None = None
    ) -> None:
        manifest = bundle.manifest
        load = GraphLoader(bundle, threads, trace)
        self.bundle = bundle
        self.tokenizer = TextTokenizer.from_bundle(bundle)
        self.audio_front_end = AudioFrontEnd(manifest.audio)
        self.image_processor = ImageProcessor(manifest.vision)
        self.thinker = Thinker(Decoder(load("thinker"), manifest.thinker), load("token_embedding"))
        self.talker = _load_talker(load, manifest, self.thinker)
        self._load = load
        self.lazy_parts = LazyParts(one_at_a_time=low_memory)
        # `self._load` in its place would make the model refer to itself and outlive its last user.
        self._time_tables = TimeTableCache(lambda: load("dit_time"))
        if self.talker is not None and not low_memory:
            self.vocoder()

    @property
    def manifest(self) -> Manifest:
        """The description of the bundle."""
        return self.bundle.manifest

    def audio_encoder(self) -> AudioEncoder:
        """Mel blocks -> embeds. The call loads it, in about a second, where it is not in memory."""
        role, section = "audio_encoder", self.manifest.audio
        return self.lazy_parts.get(role, lambda: AudioEncoder(self._load(role, varying=True), section))

    def vision_encoder(self) -> VisionEncoder:
        """Patches -> embeds. The call loads it, in about a second, where it is not in memory."""
        role, section = "vision_encoder", self.manifest.vision
        return self.lazy_parts.get(role, lambda: VisionEncoder(self._load(role, varying=True), section))

    def vocoder(self) -> Vocoder:
        """Codec tokens -> samples. The call loads it, in about a second, where it is not in memory.

        Raises:
            BundleError: a text-only bundle.
        """
        return self.lazy_parts.get("vocoder", lambda: Vocoder.load(self._load, self._time_tables))

    def voice_embed(self, name: str) -> NDArray[np.float32]:
        """The embed, float32 [hidden], of the text token that announces speaker `name` to the Talker."""
        voices = self.manifest.voices
        if voices is None:
            raise BundleError(f"The bundle {self.bundle.path} has no voices. Export it again without --text-only.")
        embed: NDArray[np.float32] = self.thinker.embed(np.array([voices.speakers[name].bos_token]))[0]
        return embed


def _load_talker(load: GraphLoader, manifest: Manifest, thinker: Thinker) -> Talker | None:
    """The Talker; None in a text-only bundle."""
    if manifest.talker is None:
        return None
    if manifest.talker_decoder is None or manifest.token2wav is None or manifest.talker_sampling is None:
        raise BundleError(
            "bundle.json: a bundle that speaks needs talker_sampling, talker_decoder and token2wav. Export it again."
        )
    decoder = Decoder(load("talker"), manifest.talker_decoder)
    marks = thinker.embed(np.array([manifest.talker.text_end_token, manifest.talker.text_pad_token]))
    limit = manifest.token2wav.codec_limit
    return Talker(decoder, manifest.talker, codec_limit=limit, text_end=marks[0], text_pad=marks[1])
