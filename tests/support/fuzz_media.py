"""Damaged media files through the loaders: `python -m support.fuzz_media --count 2000 --seed 1` from tests/."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.media import load_audio, load_image, load_video
from support.fuzz import Limits, Outcome, Sandbox, mutations
from support.perception import VISION

DATA = Path(__file__).parents[1] / "data"
_SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".amr")
_PICTURES = (".jpg", ".png", ".webp", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm")
_MOST_SECONDS = 1800.0


def attempt(kind: str, path: Path) -> None:
    """Loads a file and checks what comes back.

    Raises:
        MediaError: the file is refused.
        AssertionError: the result is not what `kind` promises.
    """
    if kind == "audio":
        clip = load_audio(path)
        assert 0 < clip.samples.size <= _MOST_SECONDS * clip.rate
    elif kind == "image":
        pixels = load_image(path).pixels
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        return
    else:
        film = load_video(path, VISION)
        assert (film.frames.dtype, film.frames.ndim, film.frames.shape[3]) == (np.uint8, 4, 3)
        assert 2 <= len(film.frames) <= VISION.video_max_frames
        assert np.isfinite(film.fps)
        assert film.fps > 0
        if film.sound is None:
            return
        clip = film.sound
    assert clip.samples.dtype == np.float32
    assert clip.samples.ndim == 1
    validate_pcm(clip.samples)
    validate_rate(clip.rate)


def originals() -> list[tuple[str, str, bytes]]:
    """(kind, name, content) of the whole files; a film is tried as a sound as well."""
    files = {path.name: path.read_bytes() for folder in (DATA, DATA / "faults") for path in sorted(folder.glob("*.*"))}
    picture = cv2.imread(str(DATA / "cat.png"))
    for ending in (".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm"):
        if cv2.haveImageWriter(f"a{ending}"):
            files[f"cat{ending}"] = cv2.imencode(ending, picture)[1].tobytes()
    found = []
    for name, data in files.items():
        ending = Path(name).suffix
        if ending in _SOUNDS:
            found.append(("audio", name, data))
        elif ending in _PICTURES:
            found.append(("image", name, data))
        elif ending != ".md":
            found += [("video", name, data), ("audio", name, data)]
    return found


def cases(seed: int) -> Iterator[tuple[str, str, str, bytes]]:
    """Endless (kind, name, mutation, content), one file after the other."""
    rng = np.random.default_rng(seed)
    whole = originals()
    donors = [data for _, _, data in whole]
    damaged = [mutations(data, rng, donors) for _, _, data in whole]
    while True:
        for (kind, name, _), changes in zip(whole, damaged, strict=True):
            mutation, data = next(changes)
            yield kind, name, mutation, data


def run(seed: int, count: int, folder: Path, seconds: float = np.inf) -> Iterator[tuple[str, bytes, Outcome]]:
    """(description, content, outcome) of `count` cases, or of as many as `seconds` allow."""
    start = time.perf_counter()
    with Sandbox(Limits()) as sandbox:
        for number, (kind, name, mutation, data) in enumerate(islice(cases(seed), count)):
            if time.perf_counter() - start > seconds:
                return
            path = folder / f"case{Path(name).suffix}"
            path.write_bytes(data)
            outcome = sandbox.run(attempt, kind, path)
            yield f"{number} {kind} {name} {mutation}", data, outcome


def main() -> None:
    """Prints each fault and keeps its file, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-media"), help="folder for the files that fail")
    options = parser.parse_args()
    ends: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for what, data, outcome in run(options.seed, options.count, Path(folder)):
            lines = outcome.stderr.strip()
            slowest = max(slowest, outcome.seconds)
            ends["fault" if outcome.fault or lines else "refused" if outcome.refused else "accepted"] += 1
            if outcome.fault or lines:
                options.keep.mkdir(exist_ok=True)
                (options.keep / what.replace(" ", "-")).write_bytes(data)
                print(f"{what}: {outcome.fault or 'lines on stderr'} {lines[:500]}", flush=True)
    print(f"{dict(ends)}, slowest {slowest:.1f} s")


if __name__ == "__main__":
    main()
