"""Where bytes come from: files, pipes, streams, odd names, and what may not be read."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from omni_edge.errors import MediaError
from omni_edge.media import load_audio, load_image, load_video
from omni_edge.media.source import open_source
from support.perception import VISION

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("name", ["question.wav", "question.mp3", "clip.mp4"])
def test_a_named_pipe_is_read_to_its_end(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=((DATA / name).read_bytes(),))
    writer.start()
    clip = load_audio(pipe)
    writer.join()
    np.testing.assert_array_equal(clip.samples, load_audio(DATA / name).samples)


def test_open_streams_are_read() -> None:
    sound = load_audio(io.BytesIO((DATA / "question.ogg").read_bytes()))
    np.testing.assert_array_equal(sound.samples, load_audio(DATA / "question.ogg").samples)
    with (DATA / "cat.jpg").open("rb") as file:
        np.testing.assert_array_equal(load_image(file).pixels, load_image(DATA / "cat.jpg").pixels)
    film = load_video(io.BytesIO((DATA / "clip.webm").read_bytes()), VISION)
    np.testing.assert_array_equal(film.frames, load_video(DATA / "clip.webm", VISION).frames)


def test_a_pipe_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_edge.media.source._LARGEST_PIPE_BYTES", 1 << 22)
    with pytest.raises(MediaError, match="more than 4 MiB"):
        load_audio("/dev/zero")


def test_a_closed_or_empty_stream_is_refused() -> None:
    closed = io.BytesIO(b"RIFF")
    closed.close()
    with pytest.raises(MediaError, match="cannot be read"):
        load_audio(closed)
    with pytest.raises(MediaError, match="0 bytes"):
        load_audio(io.BytesIO())
    with pytest.raises(MediaError, match="0 bytes"):
        load_audio("/dev/null")


@pytest.mark.parametrize("name", ["10:30 memo.wav", "http:x.wav", "concat:a|b.wav", "%d.wav", "-", "a\nb.wav"])
def test_names_are_names_and_no_addresses(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((DATA / "question.wav").read_bytes())
    assert load_audio(name).samples.size == load_audio(DATA / "question.wav").samples.size


def test_a_name_that_is_not_utf_8_is_opened_and_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes((DATA / "question.wav").read_bytes())
    assert load_audio(path).samples.size
    path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"caf\\udce9\.wav") as caught:
        load_audio(path)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "file/child"])
def test_impossible_names_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="Check the path"):
        load_audio(tmp_path / name)


def test_a_file_that_may_not_be_read_is_a_media_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.wav").touch()
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(MediaError, match="permission denied") as caught:
        load_image(tmp_path / "a.wav")
    assert caught.value.exit_code == 4


def test_a_folder_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder"):
        load_audio(tmp_path)


def test_an_error_in_the_body_passes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(ValueError, match="mine"), open_source(tmp_path / "a"):
        raise ValueError("mine")


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, text: str) -> None:
    """Otherwise a file from a stranger could read other files, or look up an address in the network."""
    (tmp_path / "list.m3u8").write_text(text.format(DATA / "question.mp3"), "utf-8")
    with pytest.raises(MediaError, match=r"list\.m3u8"):
        load_audio(tmp_path / "list.m3u8")
