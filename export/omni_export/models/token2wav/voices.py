"""The published voices as constants of the DiT.

The inputs of the DiT's first layer are mel, codec, a speaker embedding (`cond`) and an ECAPA-TDNN embedding of a
reference mel. The last two are the same in every frame. So their share of that layer, with its bias, is one vector per
voice.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import ECAPA_TimeDelayNet

from omni_edge.bundle.manifest import Voice, VoiceSection
from omni_edge.errors import CheckpointError, UsageError
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import DiTConfig, OmniConfig
from omni_export.checkpoint.json_object import refuse_lfs_pointer, unreadable
from omni_export.models.token2wav.dit import PREFIX

SPEAKER_FILE = "spk_dict.pt"
VOICES_FILE = "voices.bin"
# The reference's default.
_DEFAULT_VOICE = "Chelsie"
_ENCODER = f"{PREFIX}.input_embed.spk_encoder."


@dataclass(frozen=True)
class Speaker:
    """One voice of a bundle.

    Attributes:
        bos_token: the text token that begins the Talker's input.
        constant: float32 [hidden], the voice's share of the DiT's first layer.
    """

    bos_token: int
    constant: NDArray[np.float32]


@dataclass(frozen=True)
class Speakers:
    """The voices of a bundle.

    Attributes:
        unconditional: float32 [hidden], the row without a voice, for guidance: `cond` and the reference mel are zero. A
            constant mel stays constant through the encoder, so the row does not depend on the mel's length.
        speakers: name -> voice.
    """

    unconditional: NDArray[np.float32]
    speakers: dict[str, Speaker]

    def write(self, folder: Path) -> VoiceSection:
        """Writes `voices.bin`, float32 [1 + voices, hidden] little-endian; returns the manifest's section."""
        rows = [self.unconditional, *(speaker.constant for speaker in self.speakers.values())]
        np.stack(rows).astype("<f4").tofile(folder / VOICES_FILE)
        return VoiceSection(
            file=VOICES_FILE,
            unconditional_row=0,
            default=_DEFAULT_VOICE if _DEFAULT_VOICE in self.speakers else next(iter(self.speakers)),
            speakers={
                name: Voice(bos_token=speaker.bos_token, row=row)
                for row, (name, speaker) in enumerate(self.speakers.items(), 1)
            },
        )


def read(checkpoint: Checkpoint, config: OmniConfig, names: Collection[str] | None = None) -> Speakers:
    """The checkpoint's voices.

    Args:
        checkpoint: the checkpoint.
        config: its configuration.
        names: the voices to read; None: all.

    Raises:
        CheckpointError: `spk_dict.pt` is missing, damaged or of another form, or the checkpoint cannot speak.
        UsageError: `spk_dict.pt` lacks one of `names`.
    """
    if config.dit is None:
        raise CheckpointError(f"{checkpoint.path} has no token2wav: it cannot speak. Export it with --text-only.")
    dit = config.dit
    voices = published(checkpoint, dit)
    if unknown := sorted(set(names or ()) - set(voices)):
        raise UsageError(f"There is no voice {', '.join(unknown)}; the voices are {', '.join(voices)}.")
    embed = _embedding(checkpoint, dit)
    weight = checkpoint.tensor(f"{PREFIX}.input_embed.proj.weight").load()
    bias = checkpoint.tensor(f"{PREFIX}.input_embed.proj.bias").load()
    mel_columns = slice(dit.mel_dim, dit.mel_dim + dit.enc_dim)
    cond_start = mel_columns.stop + dit.emb_dim
    cond_columns = slice(cond_start, cond_start + dit.enc_emb_dim)

    def constant(cond: NDArray[np.float32], mel: NDArray[np.float32]) -> NDArray[np.float32]:
        row: NDArray[np.float32] = weight[:, mel_columns] @ embed(mel) + weight[:, cond_columns] @ cond + bias
        return row

    first = next(iter(voices.values()))
    return Speakers(
        constant(np.zeros_like(first.cond), np.zeros_like(first.ref_mel)),
        {
            name: Speaker(voice.bos_token, constant(voice.cond, voice.ref_mel))
            for name, voice in voices.items()
            if names is None or name in names
        },
    )


@dataclass(frozen=True)
class PublishedVoice:
    """An entry of `spk_dict.pt`.

    Attributes:
        bos_token: the text token that begins the Talker's input.
        cond: float32 [enc_emb], speaker embedding.
        ref_mel: float32 [frames, mel], reference mel.
    """

    bos_token: int
    cond: NDArray[np.float32]
    ref_mel: NDArray[np.float32]


def published(checkpoint: Checkpoint, config: DiTConfig) -> dict[str, PublishedVoice]:
    """The entries of `spk_dict.pt`: name -> voice.

    Raises:
        CheckpointError: the file is missing, damaged or of another form.
    """
    path = checkpoint.path / SPEAKER_FILE
    try:
        with path.open("rb") as file:
            refuse_lfs_pointer(path, file.read(64))
        raw = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: it holds the voices. Download it beside the weights, or export with --text-only."
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else "it ends early"
        raise CheckpointError(f"{path} cannot be read ({reason}). Download it again.") from None
    if not isinstance(raw, dict) or not raw:
        raise CheckpointError(f"{path} holds no voices. Download it again.")
    return {str(name): _speaker(path, str(name), entry, config) for name, entry in raw.items()}


def _speaker(path: Path, name: str, entry: Any, config: DiTConfig) -> PublishedVoice:
    try:
        cond = entry["cond"].float().numpy()
        mel = entry["ref_mel"].float().numpy()
        bos = int(entry["bos_token"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            f"{path}: the voice {name!r} must have 'bos_token', 'cond' and 'ref_mel'. Download it again."
        ) from None
    if cond.shape != (1, config.enc_emb_dim) or mel.ndim != 3 or mel.shape[::2] != (1, config.mel_dim):
        raise CheckpointError(
            f"{path}: the voice {name!r} has 'cond' {list(cond.shape)} and 'ref_mel' {list(mel.shape)}, where the "
            f"config asks for [1, {config.enc_emb_dim}] and [1, frames, {config.mel_dim}]."
        )
    return PublishedVoice(bos, cond[0], mel[0])


def _embedding(checkpoint: Checkpoint, config: DiTConfig) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The reference's ECAPA-TDNN with the checkpoint's weights: float32 [frames, mel_dim] -> [enc_dim]."""
    encoder = ECAPA_TimeDelayNet(config)
    state = {
        name: torch.from_numpy(checkpoint.tensor(_ENCODER + name, tuple(value.shape)).load().copy())
        for name, value in encoder.state_dict().items()
    }
    encoder.load_state_dict(state)
    encoder.eval()

    def embed(mel: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            vector: NDArray[np.float32] = encoder(torch.from_numpy(mel[None]))[0].numpy()
        return vector

    return embed
