"""The Thinker in training: the reference's modules, the losses, and the check of replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

from nano.data.phone_alignment import PHONES
from nano.data.sequences import IGNORED, Composer, Sample
from nano.model.architecture import SEED
from nano.model.forward import AudioStates, decode, encode_audio, encode_vision
from nano.training.optimizer import working_dtype

# Factor on the products of audio tokens and word embeddings before the softmax.
_SHARPNESS = 8.0
# The matrices that write into the residual stream.
_EXITS = ("audio_tower.proj.weight", "merger.mlp.2.weight")
_CLOSING = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight", "attn.proj.weight")


class ThinkerTraining(nn.Module):
    """The Thinker, with the modules that only training needs.

    The auxiliary recognizer scores an audio token against the text tokens' embeddings. Spoken words then enter the
    Thinker as the embeddings of typed words.

    Attributes:
        thinker: the reference's `Qwen2_5OmniThinkerForConditionalGeneration`.
        blank: the recognizer's embedding of the blank.
        phones: linear layer from the audio encoder's middle states to flite's phones.
    """

    def __init__(self, composer: Composer) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        config = composer.config.thinker_config
        self.thinker = modeling.Qwen2_5OmniThinkerForConditionalGeneration(config)
        self.blank = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        self.phones = nn.Linear(config.audio_config.d_model, len(PHONES))
        self.media_tokens = (config.audio_token_index, config.image_token_index, config.video_token_index)
        _initialize(self.thinker)
        self.to(working_dtype())

    @property
    def _table(self) -> Tensor:
        table: Tensor = self.thinker.model.language_model.embed_tokens.weight
        return table

    def encode_audio(self, mels: list[Tensor]) -> AudioStates:
        """The audio encoder."""
        return encode_audio(self.thinker.model.audio_tower, mels)

    def phone_loss(self, audio: AudioStates, labels: list[Tensor]) -> Tensor:
        """Cross entropy of the phones at the audio encoder's middle; `labels` int64 [frames] for each sound."""
        wanted = [
            functional.pad(names, (0, max(0, n - len(names))))[:n]
            for names, n in zip(labels, audio.frames, strict=True)
        ]
        return functional.cross_entropy(self.phones(audio.middle).float(), torch.cat(wanted))

    def text_scores(self, audio: AudioStates) -> Tensor:
        """Log-probabilities float32 [tokens, vocabulary + 1] of every audio token; the last column is the blank."""
        table = torch.cat([self._table, self.blank[None]])
        return ((audio.embeds @ table.T).float() * _SHARPNESS).log_softmax(-1)

    def text_loss(self, audio: AudioStates, spoken: list[list[int]]) -> Tensor:
        """Connectionist temporal classification of the spoken tokens, per token; sounds without any are left out."""
        scores = self.text_scores(audio).split(audio.tokens)
        chosen = [index for index, tokens in enumerate(spoken) if tokens]
        batch = nn.utils.rnn.pad_sequence([scores[index] for index in chosen])
        targets = torch.tensor([token for index in chosen for token in spoken[index]])
        return functional.ctc_loss(
            batch,
            targets,
            torch.tensor([audio.tokens[index] for index in chosen]),
            torch.tensor([len(spoken[index]) for index in chosen]),
            blank=len(self._table),
            zero_infinity=True,
        )

    def states(self, samples: Sequence[Sample]) -> Tensor:
        """Hidden states [B, L, hidden], after the final norm, of a right-padded batch."""
        length = max(map(len, samples))
        tokens = torch.zeros(len(samples), length, dtype=torch.int64)
        ids = torch.zeros(3, len(samples), length, dtype=torch.int64)
        for row, sample in enumerate(samples):
            tokens[row, : len(sample)] = torch.as_tensor(sample.tokens)
            ids[:, row, : len(sample)] = torch.as_tensor(sample.ids)
        embeds = functional.embedding(tokens, self._table)
        mels = [piece.mel for sample in samples for piece in sample.pieces if piece.mel is not None]
        if mels:
            audio = self.encode_audio([torch.as_tensor(mel) for mel in mels]).embeds
            embeds = embeds.masked_scatter((tokens == self.media_tokens[0])[..., None], audio)
        for token, still in ((self.media_tokens[1], True), (self.media_tokens[2], False)):
            pictures = [
                piece.vision
                for sample in samples
                for piece in sample.pieces
                if piece.vision is not None and (piece.vision.seconds_per_grid == 0.0) == still
            ]
            if pictures:
                embeds = embeds.masked_scatter((tokens == token)[..., None], self._encode_vision(pictures))
        return decode(self.thinker.model.language_model, embeds, ids)

    def _encode_vision(self, pictures: list[Any]) -> Tensor:
        """Embeds of pictures or videos, in order; those of one size are encoded together."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for index, vision in enumerate(pictures):
            sizes.setdefault(vision.grid[1:], []).append(index)
        found: dict[int, Tensor] = {}
        for (height, width), members in sizes.items():
            patches = torch.as_tensor(np.concatenate([pictures[index].patches for index in members]))
            embeds = encode_vision(self.thinker.model.visual, patches, height, width)
            cut = embeds.split([pictures[index].grid[0] for index in members])
            found.update(zip(members, (part.flatten(0, 1) for part in cut), strict=True))
        return torch.cat([found[index] for index in range(len(pictures))])

    def scores(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits float32 [n, vocabulary] of all positions with a target, and the targets int64 [n]."""
        hidden = self.states(samples)
        targets = torch.full(hidden.shape[:2], IGNORED)
        for row, sample in enumerate(samples):
            targets[row, : len(sample)] = torch.as_tensor(sample.targets)
        wanted = targets != IGNORED
        return (hidden[wanted] @ self._table.T).float(), targets[wanted]

    @torch.no_grad()
    def replies_right(self, samples: Sequence[Sample]) -> list[bool]:
        """Whether greedy decoding gives each sample's last reply to the letter.

        It does if every token of the reply is the likeliest after the tokens before it.
        """
        logits, targets = self.scores(samples)
        right = (logits.argmax(-1) == targets).split([int((s.targets != IGNORED).sum()) for s in samples])
        last = [stop - start + 1 for start, stop in (sample.replies[-1] for sample in samples)]
        return [bool(each[-count:].all()) for each, count in zip(right, last, strict=True)]


@torch.no_grad()
def _initialize(thinker: nn.Module) -> None:
    """Larger values than the library's default, which suits widths in the thousands; residual branches start small."""
    for name, parameter in thinker.named_parameters():
        if parameter.ndim < 2:
            continue
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=0.06)
        elif name.endswith(_EXITS):
            # The scale of a word's embedding.
            nn.init.normal_(parameter, std=0.06 * parameter[0].numel() ** -0.5)
        else:
            closing = name.endswith(_CLOSING)
            nn.init.normal_(parameter, std=(0.2 if closing else 0.7) * parameter[0].numel() ** -0.5)
