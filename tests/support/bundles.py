"""Fixtures of the commands' tests: a checkpoint, its bundle without speech, and media files."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from support.checkpoints import write_checkpoint
from support.commands import picture, run_export, tone, write_video, write_wav


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the published layout."""
    return write_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint", "sectionless")


@pytest.fixture(scope="session")
def mute_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without speech."""
    out = tmp_path_factory.mktemp("bundle") / "mute"
    result = run_export(checkpoint, "--out", out, "--precision", "int8", "--text-only")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with question.wav, photo.jpg, drawing.png and clip.mp4."""
    folder = tmp_path_factory.mktemp("files")
    write_wav(folder / "question.wav", tone(1.3))
    cv2.imwrite(str(folder / "photo.jpg"), picture(60, 80))
    cv2.imwrite(str(folder / "drawing.png"), picture(56, 56, 3))
    write_video(folder / "clip.mp4")
    return folder
