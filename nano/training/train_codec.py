"""The speech codec: 50 tokens per second from a learned vector quantization, the same tokens for both voices.

The encoder of the published codec was never released, so nano has its own: convolutions over the mel spectrogram, a
codebook of CODEBOOK vectors, and a decoder with the speaker as an input, so that the tokens need not carry it. Only
the tokens are used later: the Talker predicts them, the DiT makes mel of them. Token 0 is never used: it stands for "no
condition" in the published DiT.

    python -m nano.training.train_codec --work nano-work
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nano.data.mel24 import BINS, HOP
from nano.data.speech_corpus import CODE_SAMPLES, VOICES, Clip, Corpus
from nano.model.architecture import CODEBOOK
from nano.training.loop import Journal, Recipe, stage_arguments, train_part

SEED = 7
STEPS = 2500
BATCH, CROP = 24, 64
RECIPE = Recipe(rate=1.5e-3, warm_up=100)
WIDTH, VECTOR = 160, 32
# Decay of the codebook's averages; a vector used less often than this per step is set to a new value.
_FOLLOW, _RARE = 0.97, 0.05
_COMMITMENT = 0.25
# Shift and scale that give mel frames about unit variance.
_CENTRE, _SPREAD = -5.5, 2.2
FRAMES_PER_CODE = 2


def normalized(mel: Tensor) -> Tensor:
    """Log mel with about zero mean and unit variance."""
    return (mel - _CENTRE) / _SPREAD


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(functional.gelu(self.first(functional.gelu(x))))
        return y


class Codec(nn.Module):
    """Mel float32 [batch, BINS, frames] and speaker int64 [batch] <-> codes int64 [batch, frames / 2], never 0."""

    codebook: Tensor
    usage: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(BINS, WIDTH, 5, padding=2),
            _Residual(WIDTH, 1),
            nn.Conv1d(WIDTH, WIDTH, 4, stride=FRAMES_PER_CODE, padding=1),
            _Residual(WIDTH, 1),
            nn.Conv1d(WIDTH, VECTOR, 1),
        )
        self.speaker = nn.Embedding(len(VOICES), WIDTH)
        # The encoder has the speaker as an input as well, so that it can remove the speaker's part.
        self.speaker_bias = nn.Embedding(len(VOICES), BINS)
        self.widen = nn.Conv1d(VECTOR, WIDTH, 3, padding=1)
        self.decoder = nn.Sequential(
            _Residual(WIDTH, 1),
            _Residual(WIDTH, 2),
            _Residual(WIDTH, 1),
            nn.Conv1d(WIDTH, FRAMES_PER_CODE * BINS, 3, padding=1),
        )
        self.codebook = nn.Buffer(torch.randn(CODEBOOK - 1, VECTOR))
        self.usage = nn.Buffer(torch.ones(CODEBOOK - 1))

    def vectors(self, mel: Tensor, speaker: Tensor) -> Tensor:
        """The vectors before quantization, float32 [batch, frames / 2, VECTOR]."""
        found: Tensor = self.encoder(normalized(mel) + self.speaker_bias(speaker)[:, :, None])
        return found.transpose(1, 2)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Rows of the codebook, int64, for vectors [..., VECTOR]."""
        return (self.codebook.square().sum(-1) - 2 * vectors @ self.codebook.T).argmin(-1)

    def encode(self, mel: Tensor, speaker: Tensor) -> Tensor:
        """Codes int64 [batch, frames / 2]."""
        return self.nearest(self.vectors(mel, speaker)) + 1

    def decode(self, quantized: Tensor, speaker: Tensor) -> Tensor:
        """Normalized mel float32 [batch, BINS, frames] from quantized vectors."""
        hidden = self.widen(quantized.transpose(1, 2)) + self.speaker(speaker)[:, :, None]
        pairs = self.decoder(hidden)
        size, _, codes = pairs.shape
        mel: Tensor = pairs.view(size, FRAMES_PER_CODE, BINS, codes).permute(0, 2, 3, 1).reshape(size, BINS, -1)
        return mel

    @torch.no_grad()
    def follow(self, vectors: Tensor, rows: Tensor) -> None:
        """Moves the codebook towards `vectors` [n, VECTOR] of `rows` [n]; sets unused rows to random vectors."""
        counts = torch.bincount(rows, minlength=len(self.codebook)).float()
        sums = torch.zeros_like(self.codebook).index_add_(0, rows, vectors)
        self.usage.lerp_(counts, 1 - _FOLLOW)
        step = (1 - _FOLLOW) * counts / self.usage.clamp_min(1e-3)
        means = sums / counts.clamp_min(1)[:, None]
        self.codebook.lerp_(means, step.clamp(0, 1)[:, None])
        dead = (self.usage < _RARE).nonzero()[:, 0]
        if len(dead):
            picked = torch.randint(len(vectors), (len(dead),))
            self.codebook[dead] = vectors[picked] + 0.01 * torch.randn(len(dead), VECTOR)
            self.usage[dead] = 1.0


def _losses(codec: Codec, mel: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
    vectors = codec.vectors(mel, speaker)
    rows = codec.nearest(vectors)
    chosen = codec.codebook[rows]
    commitment = functional.mse_loss(vectors, chosen)
    # Straight-through estimator: the gradient ignores the quantizer.
    made = codec.decode(vectors + (chosen - vectors).detach(), speaker)
    if codec.training:
        codec.follow(vectors.detach().reshape(-1, VECTOR), rows.reshape(-1))
    return functional.l1_loss(made, normalized(mel)), commitment


def _batch(corpus: Corpus, clips: list[int], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    mels, speakers = [], []
    for index in random.choice(clips, BATCH):
        clip = corpus.clips[index]
        mel = corpus.mel(clip)
        first = int(random.integers(len(mel) - CROP + 1))
        mels.append(mel[first : first + CROP].T)
        speakers.append(list(VOICES).index(clip.speaker))
    return torch.as_tensor(np.stack(mels)), torch.tensor(speakers)


def train(work: Path, steps: int) -> Codec:
    """The trained codec; continues an interrupted run."""
    torch.manual_seed(SEED)
    corpus = Corpus.load(work)
    clips = [index for index, clip in enumerate(corpus.clips) if clip.split == "train" and clip.length >= CROP * HOP]
    codec = Codec()

    def losses(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        mel, commitment = _losses(codec, *_batch(corpus, clips, np.random.default_rng((SEED, step))))
        return mel + _COMMITMENT * commitment, {"mel": mel, "commitment": commitment}

    train_part(codec, RECIPE, Journal(work, "codec", ("mel", "commitment")), steps, losses)
    return codec.eval()


@dataclass(frozen=True)
class CodedClip:
    """One sentence of the corpus and its codec tokens, int16 [n]."""

    clip: Clip
    codes: NDArray[np.int16]


def write_codes(work: Path, codec: Codec) -> None:
    """WORK/speech_corpus/codes.i16: the codes of all clips one after the other."""
    corpus = Corpus.load(work)
    with torch.no_grad():
        codes = [
            codec.encode(
                torch.as_tensor(corpus.mel(clip).T.copy())[None], torch.tensor([list(VOICES).index(clip.speaker)])
            )[0]
            for clip in corpus.clips
        ]
    torch.cat(codes).cpu().numpy().astype(np.int16).tofile(codes_file(work))


def codes_file(work: Path) -> Path:
    """The file of the corpus's codec tokens."""
    return work / "speech_corpus" / "codes.i16"


def load_codes(work: Path) -> list[CodedClip]:
    """Every clip of the corpus (both voices, replies and general sentences, train and held out) with its codes.

    Raises:
        FileNotFoundError: run `python -m nano.training.train_codec` first.
    """
    corpus = Corpus.load(work)
    codes = np.fromfile(codes_file(work), np.int16)
    return [
        CodedClip(clip, codes[clip.start // CODE_SAMPLES : (clip.start + clip.length) // CODE_SAMPLES])
        for clip in corpus.clips
    ]


def main() -> None:
    """Command line: see the module's text."""
    arguments = stage_arguments(__doc__, STEPS)
    work = arguments["work"]
    write_codes(work, train(**arguments))
    codes = np.concatenate([coded.codes for coded in load_codes(work)])
    part = np.bincount(codes, minlength=CODEBOOK) / len(codes)
    entropy = -float(np.sum(part[part > 0] * np.log2(part[part > 0])))
    print(f"{len(codes)} codes, {int((part > 0).sum())} different ones, {entropy:.2f} bit each")


if __name__ == "__main__":
    main()
