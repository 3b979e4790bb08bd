"""What calibration shows: the package's own set, and folders of the user's."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from omni_edge.errors import MediaError
from omni_edge.events import AudioClip, ImageFrame
from omni_export.calibration.material import Sample, Turn, built_in_samples, documents, folder_samples
from support.commands import tone, write_wav

LONG = "A sentence, and another one. " * 10 + "The end."


def test_a_text_file_holds_documents_and_conversations() -> None:
    assert documents("One.\ntwo\n---\nuser: Hi\nthere\nassistant: Hello.\nuser:Bye\n---  \n\n") == [
        Sample((Turn("", ("One.\ntwo",)),)),
        Sample((Turn("user", ("Hi\nthere",)), Turn("assistant", ("Hello.",)), Turn("user", ("Bye",)))),
    ]


def test_text_that_only_mentions_a_user_is_no_conversation() -> None:
    assert documents("The user: a person\nuser: x") == [Sample((Turn("", ("The user: a person\nuser: x",)),))]


def test_a_long_document_is_several_samples_and_a_long_turn_is_cut() -> None:
    words = [sample.turns[0].items[0] for sample in documents("ab" * 4500)]
    assert words == ["ab" * 2000, "ab" * 2000, "ab" * 500]
    assert documents("user: " + "ab" * 4500)[0].turns[0].items == ("ab" * 2000,)


def test_the_built_in_set_is_small_and_has_everything() -> None:
    texts = files("omni_export.calibration") / "texts"
    assert sum(len(path.read_bytes()) for path in texts.iterdir()) < 300_000
    samples = built_in_samples()
    items = [item for sample in samples for turn in sample.turns for item in turn.items]
    text = "".join(item for item in items if isinstance(item, str))
    for word in ("the", " und ", " que ", "什么", "です", "니다", "это", "def fibonacci"):
        assert word in text, word
    assert sum(isinstance(item, AudioClip) for item in items) == 3
    assert sum(isinstance(item, ImageFrame) for item in items) == 3
    assert {turn.role for sample in samples for turn in sample.turns} == {"", "user", "assistant"}


def test_made_media_are_valid_and_the_same_every_time() -> None:
    first, again = built_in_samples(), built_in_samples()
    items = [[item for sample in each for turn in sample.turns for item in turn.items] for each in (first, again)]
    for one, other in zip(*items, strict=True):
        if isinstance(one, AudioClip):
            assert isinstance(other, AudioClip)
            assert np.array_equal(one.samples, other.samples)
            assert one.rate == 16_000
            assert 0.5 < np.abs(one.samples).max() <= 1
            assert one.samples.dtype == np.float32
        elif isinstance(one, ImageFrame):
            assert isinstance(other, ImageFrame)
            assert np.array_equal(one.pixels, other.pixels)
            assert one.pixels.shape == (336, 336, 3)
            assert one.pixels.std() > 20


def test_a_folder_gives_its_texts_sounds_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "text.TXT").write_text(f"{LONG}\n---\nuser: A question", "utf-8")
    write_wav(tmp_path / "tone.wav", tone(40.0))
    (tmp_path / "notes.pdf").write_bytes(b"ignored")
    samples = folder_samples(tmp_path)
    assert len(samples) == 3
    sounds = [item for sample in samples for turn in sample.turns for item in turn.items if isinstance(item, AudioClip)]
    # Half a minute of a sound is enough.
    assert [len(sound.samples) for sound in sounds] == [30 * 16_000]
    assert Sample((Turn("", (LONG,)),)) in samples


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", b"", "holds nothing to calibrate with. Put files of .txt, .md, .wav"),
        ("notes.pdf", b"no text", "holds nothing to calibrate with"),
        ("empty.txt", b" \n---\n", "holds nothing to calibrate with"),
        ("short.txt", b"Too short.", "holds too little: 10 characters of text"),
        ("latin.txt", b"caf\xe9", "latin.txt is not UTF-8 text. Convert it, or remove it"),
        ("broken.wav", b"RIFF", "broken.wav"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=message):
        folder_samples(tmp_path)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="nowhere is no folder"):
        folder_samples(tmp_path / "nowhere")
