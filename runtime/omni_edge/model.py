"""The loaded parts of a bundle: immutable, shared by any number of sessions and threads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.backend.graph import Trace
from omni_edge.backend.loader import GraphLoader, LazyParts
from omni_edge.bundle.manifest import DecoderSection, Manifest
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.decoder import Decoder
from omni_edge.decoders.static_graphs import StaticGraphs
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
        device: what runs the Thinker and the Talker: "cpu", "qnn" (Qualcomm's NPU, or its simulator) or "auto".

    Attributes:
        manifest: the description of the bundle; on an NPU with the context that its graphs hold.

    Raises:
        BundleError: a graph is missing or damaged.
        ResourceError: not enough memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        low_memory: bool = False,
        trace: Trace | None = None,
        device: str = "cpu",
    ) -> None:
        load = GraphLoader(bundle, threads, trace, device)
        self.bundle = bundle
        self.manifest = manifest = _limited(bundle.manifest) if load.target else bundle.manifest
        self.tokenizer = TextTokenizer.from_bundle(bundle)
        self.audio_front_end = AudioFrontEnd(manifest.audio)
        self.image_processor = ImageProcessor(manifest.vision)
        self.thinker = Thinker(_decoder(load, "thinker", manifest.thinker), load("token_embedding"))
        self.talker = _load_talker(load, manifest, self.thinker)
        self._load = load
        self.lazy_parts = LazyParts(one_at_a_time=low_memory)
        # `self._load` in its place would make the model refer to itself and outlive its last user.
        self._time_tables = TimeTableCache(lambda: load("dit_time"))
        if self.talker is not None and not low_memory:
            self.vocoder()

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


def _limited(manifest: Manifest) -> Manifest:
    """`manifest` with the decoders as their static graphs have them: a context of fixed size, in float32."""
    if manifest.static is None:
        return manifest

    def limited(section: DecoderSection, context: int) -> DecoderSection:
        return replace(section, max_positions=context, cache_dtype="float32")

    context = manifest.static.context
    talker = manifest.talker_decoder
    return replace(
        manifest,
        thinker=limited(manifest.thinker, context),
        talker_decoder=limited(talker, context) if talker else None,
    )


def _decoder(load: GraphLoader, role: str, section: DecoderSection) -> Decoder:
    """The decoder that plays `role`: its own graph, or its static ones where an NPU runs them."""
    static = load.bundle.manifest.static if load.target else None
    entry = {"thinker": static.thinker, "talker": static.talker}[role] if static else None
    if static is None or entry is None:
        return Decoder(load(role), section)
    graphs = StaticGraphs(entry, static.context, partial(load.static, role), partial(load.beside_static, role))
    return Decoder(graphs, section)


def _load_talker(load: GraphLoader, manifest: Manifest, thinker: Thinker) -> Talker | None:
    """The Talker; None in a text-only bundle."""
    if manifest.talker is None:
        return None
    if manifest.talker_decoder is None or manifest.token2wav is None or manifest.talker_sampling is None:
        raise BundleError(
            "bundle.json: a bundle that speaks needs talker_sampling, talker_decoder and token2wav. Export it again."
        )
    decoder = _decoder(load, "talker", manifest.talker_decoder)
    marks = thinker.embed(np.array([manifest.talker.text_end_token, manifest.talker.text_pad_token]))
    limit = manifest.token2wav.codec_limit
    return Talker(decoder, manifest.talker, codec_limit=limit, text_end=marks[0], text_pad=marks[1])
