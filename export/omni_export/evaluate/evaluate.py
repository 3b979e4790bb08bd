"""What a bundle loses against its checkpoint in float32, by graph and as a whole, teacher-forced.

Three things make up the memory: the bundle's graphs, at most one of the reference's networks other than a decoder, and
one layer of the reference's decoders (or as many as fit into `reference_decoder.RESIDENT_BYTES`).

A row names the bundle's graphs that take part; everything before them is the reference's, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend import kernels
from omni_edge.bundle.manifest import graph_bytes
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import BundleError, UsageError
from omni_edge.model import Model
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.evaluate import thinker as thinkers
from omni_export.evaluate.material import Limits, Material
from omni_export.evaluate.metrics import TokenScores, cosine, relative_error
from omni_export.evaluate.reference_decoder import ReferenceDecoder
from omni_export.evaluate.speech import SpeechScore, score_speech
from omni_export.evaluate.talker import (
    ReferenceTalker,
    Utterance,
    bundle_marks,
    reference_marks,
    score_utterance,
    speak,
)
from omni_export.evaluate.turns import EMBEDDING, Encoded, Turn, encode_pictures, encode_sounds, text_embeds, turn
from omni_export.models import decoder
from omni_export.models.token2wav.voices import published
from omni_export.verify.reference import ReferenceModules

OnEvaluated = Callable[[str, int, int], None]
"""Called with what is being evaluated, and the tokens done and the tokens in all; 0 and 0: not counted."""

# An INT8 table has an error of a hundredth; another checkpoint's has one above 1.
_FOREIGN_TABLE = 0.3
_TABLE_ROWS = 256
_ENCODERS = {"sounds": "audio_encoder", "pictures": "vision_encoder"}
# Names of a graph's weights in the published layout; of the others the manifest does not say enough.
_WEIGHTS: dict[str, tuple[str, ...]] = {
    "audio_encoder": ("thinker.audio_tower.",),
    "vision_encoder": ("thinker.visual.",),
    "token_embedding": (EMBEDDING,),
    "talker": ("talker.",),
}


@dataclass(frozen=True)
class GraphSize:
    """What a graph takes on the disk.

    Attributes:
        graph: its role.
        precision: what the manifest states.
        nbytes: of its files.
        bits: bits per weight, scales and zero points included; None where the number of weights is not known.
    """

    graph: str
    precision: str
    nbytes: int
    bits: float | None


@dataclass(frozen=True)
class TokenRow:
    """Predictions of tokens.

    Attributes:
        graphs: the bundle's graphs that take part.
        material: "text", "sounds" or "pictures".
        scores: one entry per token.
    """

    graphs: str
    material: str
    scores: TokenScores


@dataclass(frozen=True)
class VectorRow:
    """Embeds.

    Attributes:
        graph: that made them.
        material: "text", "sounds" or "pictures".
        vectors: their number.
        cosine: mean cosine of the angle to the reference's.
        relative_error: RMS of the difference / RMS of the reference's.
    """

    graph: str
    material: str
    vectors: int
    cosine: float
    relative_error: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of a bundle.

    Attributes:
        bundle: its folder.
        compiled: whether our compiled operators took part, or onnxruntime's.
        sizes: a row per graph.
        tokens: of the Thinker and the Talker.
        vectors: of the encoders and the token embedding.
        speech: of the DiT and BigVGAN, a row per graphs, means over the utterances.
    """

    bundle: Path
    compiled: bool
    sizes: list[GraphSize]
    tokens: list[TokenRow]
    vectors: list[VectorRow]
    speech: list[SpeechScore]


def evaluate_bundle(
    bundle: Path,
    checkpoint: Path,
    material: Material,
    limits: Limits | None = None,
    progress: OnEvaluated | None = None,
    threads: int | None = None,
) -> Evaluation:
    """Measures a bundle by the runtime that runs it, compiled operators included where they are prepared.

    Args:
        bundle: its folder.
        checkpoint: the folder that it was exported from.
        material: what is predicted, heard and seen.
        limits: how much is computed; None: the defaults.
        progress: called as the work goes on.
        threads: cores that the bundle may use; None: all.

    Raises:
        BundleError, CheckpointError: one of them cannot be read, or they do not belong together.
        MediaError: a sound or a picture cannot be used.
        UsageError: there is nothing to evaluate, or the text has fewer than two tokens.
    """
    if not (material.text or material.sounds or material.pictures):
        raise UsageError("There is nothing to evaluate on. Give a text, a sound or a picture.")
    work = _Evaluation(Bundle(bundle), Checkpoint(checkpoint), limits or Limits(), progress, threads)
    return work.run(material)


class _Evaluation:
    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint,
        limits: Limits,
        progress: OnEvaluated | None,
        threads: int | None,
    ) -> None:
        self.bundle, self.checkpoint, self.limits = bundle, checkpoint, limits
        manifest = bundle.manifest
        self.config = OmniConfig.parse(checkpoint.config, speech=manifest.talker is not None)
        int8_cache = manifest.thinker.cache_dtype == "int8"
        if decoder.section(self.config.thinker.text, int8_cache=int8_cache) != manifest.thinker:
            raise self._another("their sizes differ")
        if manifest.talker is not None and self.config.talker is None:
            raise self._another("the bundle speaks, and the checkpoint does not")
        self.modules = ReferenceModules(checkpoint, self.config)
        self.model = Model(bundle, threads=threads, low_memory=True)
        self.progress = progress or (lambda *_: None)

    def run(self, material: Material) -> Evaluation:
        vectors = [self._table()]
        self.progress("encoders", 0, 0)
        encoded = [
            *encode_sounds(material.sounds, self.model, self.modules),
            *encode_pictures(material.pictures, self.model, self.modules),
        ]
        vectors += self._encoders(encoded)
        turns = [turn(item, material.question, self.model, self.modules) for item in encoded]
        reference = thinkers.reference_thinker(self.modules)
        tokens, replies, states = self._thinker(material.text, turns, reference)
        del reference
        utterances, more = self._talker(replies, states) if self.model.talker and replies else ([], [])
        speech = self._speech(utterances) if self.model.talker else []
        return Evaluation(
            self.bundle.path, kernels.compiled() is not None, self._sizes(), tokens + more, vectors, speech
        )

    def _another(self, reason: str) -> BundleError:
        return BundleError(
            f"{self.bundle.path} was not exported from {self.checkpoint.path}: {reason}. Give the checkpoint that it "
            "was exported from."
        )

    # -- embeds ------------------------------------------------------------------------------------------------

    def _table(self) -> VectorRow:
        """The token embedding; also what tells one checkpoint from another of the same sizes."""
        rows = self.model.manifest.thinker.vocab_size
        tokens = np.unique(np.linspace(0, rows - 1, _TABLE_ROWS).astype(np.int64))
        wanted, got = text_embeds(tokens, self.modules), self.model.thinker.embed(tokens)
        error = relative_error(wanted, got)
        if not error < _FOREIGN_TABLE:
            raise self._another("their token embeddings differ")
        used = np.linalg.norm(wanted, axis=1) > 0
        return VectorRow("token_embedding", "text", len(tokens), cosine(wanted[used], got[used]), error)

    def _encoders(self, encoded: list[Encoded]) -> list[VectorRow]:
        rows = []
        for kind, role in _ENCODERS.items():
            items = [item for item in encoded if item.kind == kind]
            if items:
                wanted = np.concatenate([item.reference for item in items])
                got = np.concatenate([item.embeds for item in items])
                rows.append(VectorRow(role, kind, len(got), cosine(wanted, got), relative_error(wanted, got)))
        return rows

    # -- decoders ----------------------------------------------------------------------------------------------

    def _thinker(
        self, text: str, turns: list[Turn], reference: ReferenceDecoder
    ) -> tuple[list[TokenRow], list[thinkers.Reply], list[NDArray[np.float32]]]:
        """The Thinker's rows, the reference's replies to the turns, and the bundle's states of these."""
        rows, states = [], []
        if text:
            tokens = self.model.tokenizer.encode(text)[: self.limits.text_tokens]
            length = min(self.limits.passage_tokens, self.model.manifest.thinker.max_positions)
            if not (texts := thinkers.passages(tokens, length)):
                raise UsageError("The text has fewer than two tokens. Give a longer one with --text.")
            hidden = thinkers.text_states(texts, reference, self.modules)
            scores = thinkers.score_text(
                texts, hidden, self.model, reference, lambda *at: self.progress("thinker on text", *at)
            )
            rows.append(TokenRow("thinker", "text", scores))
        self.progress("the reference's replies", 0, 0)
        replies = thinkers.reply_to(turns, self.limits.reply_tokens, self.model, reference, self.modules)
        for kind, role in _ENCODERS.items():
            part, whole = TokenScores(), TokenScores()
            for reply in (reply for reply in replies if reply.turn.kind == kind):
                self.progress(f"thinker on {kind}", 0, 0)
                thinkers.score_reply(reply, reply.turn.part, self.model.thinker, reference, part)
                states.append(thinkers.score_reply(reply, reply.turn.own, self.model.thinker, reference, whole))
            if len(part):
                rows += [TokenRow("thinker", kind, part), TokenRow(f"{role} + thinker", kind, whole)]
        # In the order of `states`.
        ordered = [reply for kind in _ENCODERS for reply in replies if reply.turn.kind == kind]
        return rows, ordered, states

    def _talker(
        self, replies: list[thinkers.Reply], states: list[NDArray[np.float32]]
    ) -> tuple[list[Utterance], list[TokenRow]]:
        manifest, talker = self.model.manifest, self.model.talker
        assert talker is not None
        assert manifest.voices is not None
        assert manifest.talker_sampling is not None
        voice = manifest.voices.default
        reference = ReferenceTalker(self.modules, talker.section.none_codec)
        marks = reference_marks(self.model, self.modules, manifest.voices.speakers[voice].bos_token)
        sampling = replace(manifest.talker_sampling, max_new_tokens=self.limits.codec_tokens)
        utterances, rows = [], []
        for kind, role in _ENCODERS.items():
            part, whole = TokenScores(), TokenScores()
            for reply, own in zip(replies, states, strict=True):
                if reply.turn.kind != kind:
                    continue
                self.progress(f"talker on {kind}", 0, 0)
                utterance = speak(reply, talker, reference, marks, sampling, self.limits.seed)
                utterances.append(utterance)
                score_utterance(utterance, utterance.states(reply.states, marks), talker, reference, part)
                own_states = utterance.states(own, bundle_marks(self.model, talker, voice))
                score_utterance(utterance, own_states, talker, reference, whole)
            if len(part):
                rows += [TokenRow("talker", kind, part), TokenRow(f"{role} + thinker + talker", kind, whole)]
        return utterances, rows

    # -- speech ------------------------------------------------------------------------------------------------

    def _speech(self, utterances: list[Utterance]) -> list[SpeechScore]:
        """Means over the utterances; random codec tokens where there are none."""
        manifest, talker = self.model.manifest, self.model.talker
        assert talker is not None
        assert manifest.token2wav is not None
        assert manifest.voices is not None
        assert self.config.dit is not None
        codecs = [np.array([code for code in each.codec if not talker.is_end(code)], np.int64) for each in utterances]
        codecs = [codec for codec in codecs if codec.size]
        if not codecs:
            random = np.random.default_rng(self.limits.seed)
            codecs = [random.integers(0, manifest.token2wav.codec_limit, self.limits.codec_tokens)]
        self.progress("dit and bigvgan", 0, 0)
        voice = manifest.voices.default
        speaker = published(self.checkpoint, self.config.dit)[voice]
        scores = score_speech(codecs, voice, speaker, self.model, self.modules, self.limits.seed)
        rows = []
        for graphs in dict.fromkeys(score.graphs for score in scores):
            of_graphs = [score for score in scores if score.graphs == graphs]
            rows.append(
                SpeechScore(
                    graphs,
                    sum(score.seconds for score in of_graphs),
                    float(np.mean([score.distance for score in of_graphs])),
                    float(np.mean([score.snr for score in of_graphs])),
                )
            )
        return rows

    # -- sizes -------------------------------------------------------------------------------------------------

    def _sizes(self) -> list[GraphSize]:
        manifest = self.bundle.manifest
        rows = []
        for role, entry in manifest.graphs.items():
            nbytes, weights = graph_bytes(manifest, role), count_weights(self.checkpoint, role)
            rows.append(GraphSize(role, entry.precision, nbytes, 8 * nbytes / weights if weights else None))
        return rows


def count_weights(checkpoint: Checkpoint, role: str) -> int:
    """The number of weights in graph `role` of a checkpoint; 0 where it is not known."""
    prefixes = _WEIGHTS.get(role, ())
    if role == "thinker":
        # A tied head is stored in the graph as well.
        head = thinkers.HEAD if thinkers.HEAD in checkpoint else EMBEDDING
        prefixes = ("thinker.model.layers.", "thinker.model.norm.", head)
    names = [name for name in checkpoint if name.startswith(prefixes)] if prefixes else []
    return sum(int(np.prod(checkpoint.tensor(name).shape)) for name in names)
