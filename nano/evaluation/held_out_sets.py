"""The held-out data of the evaluation: from the work folder, or from the small part that the repository has.

That part is a FLAC file and its index. It has the clips of the first few exercises of every set, sentences of both
voices, and codec tokens of other sentences. Pictures and videos need no file: their scenes have seeds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano import world
from nano.data.exercises import EVALUATION_SETS, Exercise, evaluation_set
from nano.data.speech_cache import Clip, SpeechCache
from nano.data.voices import RATE
from nano.evaluation.metrics import VoiceClassifier
from nano.evaluation.workers import Utterance
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.media import load_audio

SEED = 17
KEPT = Path(__file__).parents[2] / "tests" / "data" / "nano" / "heldout.flac"
# Exercises of each set in the quick form; together they need a megabyte of speech.
QUICK_COUNTS = {
    "spoken_unseen_combinations": 10,
    "spoken_unseen_voice": 10,
    "typed_unseen_combinations": 20,
    "pictures": 16,
    "videos": 12,
    "sound_and_picture": 12,
    "conversation": 6,
    "outside": 6,
}
QUICK_UTTERANCES = 2
# Sentences per voice from which its pitch is measured.
_REFERENCES, _QUICK_REFERENCES = 40, 2
_REFERENCE_SPLIT = "reference"
_FULL_SCALE = 32767
# How many exercises of a set are considered for spoken replies.
_CONSIDERED = 60


@dataclass(frozen=True)
class HeldOutSets:
    """The data of an evaluation.

    Attributes:
        cache: spoken questions.
        classifier: tells both voices apart; fitted to the synthesizer's audio.
        utterances: codec tokens of sentences that neither the Talker nor token2wav was trained on.
    """

    cache: SpeechCache
    classifier: VoiceClassifier
    utterances: list[Utterance]

    @classmethod
    def from_work(cls, work: Path, utterances: int) -> HeldOutSets:
        """Reads the work folder; `utterances` sentences, each in every voice.

        A folder without the codec, or without the voices' speech, takes that part from the repository.

        Raises:
            FileNotFoundError: `nano.data.speech_cache` has not run.
        """
        from nano.data.speech_corpus import index_file  # noqa: PLC0415
        from nano.training.train_codec import codes_file  # noqa: PLC0415

        kept = cls.from_repository()
        classifier, coded = kept.classifier, kept.utterances
        if index_file(work).exists():
            references = [(voice, samples) for voice, samples, _ in _references(work, _REFERENCES)]
            classifier = VoiceClassifier.fit(references, RATE)
        if codes_file(work).exists():
            coded = list(_utterances(work, utterances))
        return cls(SpeechCache(work), classifier, coded)

    @classmethod
    def from_repository(cls, file: Path = KEPT) -> HeldOutSets:
        """Reads the repository's data, for the quick form.

        Raises:
            MediaError: the file is missing or damaged.
        """
        index = json.loads(file.with_suffix(".json").read_text("utf-8"))
        clips = [Clip(**entry) for entry in index["clips"]]
        samples = np.round(load_audio(file).samples * (_FULL_SCALE + 1.0)).astype(np.int16)
        cache = SpeechCache.in_memory(clips, samples)
        references = [(cache.clips[n].voice, cache.samples(n)) for n in cache.numbers(_REFERENCE_SPLIT)]
        utterances = [
            Utterance(entry["text"], entry["voice"], np.array(entry["codec"].split(), np.int64))
            for entry in index["utterances"]
        ]
        return cls(cache, VoiceClassifier.fit(references, RATE), utterances)


def mixed(cache: SpeechCache, counts: Mapping[str, int], count: int) -> list[Exercise]:
    """About `count` exercises of all sets, no reply twice; up to half of the replies are not in the speech training.

    Args:
        cache: spoken questions.
        counts: exercises of each set.
        count: exercises in all.
    """
    each = -(-count // len(counts))
    taken: set[str] = set()
    found: list[list[Exercise]] = []
    for name, size in counts.items():
        by_split: dict[world.Split, list[Exercise]] = {"held_out": [], "train": []}
        for exercise in evaluation_set(name, cache, min(size, _CONSIDERED)):
            if exercise.reply not in taken:
                taken.add(exercise.reply)
                by_split[world.reply_split(exercise.reply)].append(exercise)
        held_out = by_split["held_out"][: -(-each // 2)]
        found.append([*held_out, *by_split["train"]])
    # One of each set in turn, so that every beginning of the list is mixed; long sets make up for short ones.
    turns = [exercise for turn in zip_longest(*found) for exercise in turn if exercise is not None]
    return turns[:count]


# -- the speech corpus     ------------------------------------------------------------------------------------


def _references(work: Path, count: int) -> Iterator[tuple[str, NDArray[np.float32], str]]:
    """(voice, samples at 16 kHz, text) of `count` sentences of each voice, by the synthesizer."""
    # Imported here because the workers need no torch.
    from nano.data.mel24 import RATE as SPEAKING_RATE  # noqa: PLC0415
    from nano.data.speech_corpus import VOICES, Corpus  # noqa: PLC0415

    corpus = Corpus.load(work)
    clips = [clip for clip in corpus.clips if clip.kind == "reply" and clip.split == "held_out"]
    for voice in VOICES:
        spoken = sorted((clip for clip in clips if clip.speaker == voice), key=lambda clip: clip.text)
        for clip in random.Random(SEED).sample(spoken, count):
            samples = resampler(SPEAKING_RATE, RATE).step(corpus.audio(clip), ResampleState(), end=True)
            assert samples is not None
            yield voice, samples, clip.text


def _utterances(work: Path, count: int) -> Iterator[Utterance]:
    """`count` held-out sentences, the same for each voice."""
    from nano.training.train_codec import load_codes  # noqa: PLC0415

    spoken = [each for each in load_codes(work) if each.clip.kind == "reply" and each.clip.split == "held_out"]
    texts = sorted({each.clip.text for each in spoken})
    picked = random.Random(SEED).sample(texts, min(count, len(texts)))
    for each in spoken:
        if each.clip.text in picked:
            yield Utterance(each.clip.text, each.clip.speaker, each.codes.astype(np.int64))


# -- the repository's part --------------------------------------------------------------------------------------------


class _Recording(SpeechCache):
    """Records which clips were used."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.used: set[int] = set()

    def samples(self, number: int) -> NDArray[np.float32]:
        self.used.add(number)
        return super().samples(number)


def write_kept(work: Path, file: Path = KEPT) -> None:
    """Writes the quick form's data: `file` (FLAC, 16 kHz) and its index beside it.

    An exercise is drawn until its words are in the cache. The written clips are those of the exercises that the whole
    cache gives, so the written cache gives the same exercises.

    Raises:
        RuntimeError: the written file does not decode to the same samples.
    """
    cache = _Recording(work)
    assert set(QUICK_COUNTS) == set(EVALUATION_SETS)
    for name, count in QUICK_COUNTS.items():
        for _ in evaluation_set(name, cache, count):
            pass
    pieces: list[NDArray[np.int16]] = []
    clips: list[Clip] = []

    def keep(clip: Clip, samples: NDArray[np.float32]) -> None:
        coded = np.round(samples * _FULL_SCALE).astype(np.int16)
        clips.append(replace(clip, start=sum(map(len, pieces)), length=len(coded)))
        pieces.append(coded)

    for number in sorted(cache.used):
        keep(cache.clips[number], cache.samples(number))
    # The shortest of each voice.
    references = sorted(_references(work, _REFERENCES), key=lambda each: (each[0], len(each[1])))
    for voice, samples, text in references[:_QUICK_REFERENCES] + references[_REFERENCES:][:_QUICK_REFERENCES]:
        keep(Clip(text, voice, _REFERENCE_SPLIT, 1.0, 1.0), samples)
    file.parent.mkdir(parents=True, exist_ok=True)
    joined = np.concatenate(pieces)
    _write_flac(file, joined)
    utterances = [
        {"text": each.text, "voice": each.voice, "codec": " ".join(map(str, each.codec.tolist()))}
        for each in _utterances(work, QUICK_UTTERANCES)
    ]
    lines = {"clips": [asdict(clip) for clip in clips], "utterances": utterances}
    # One entry a line.
    body = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]" for name, entries in lines.items()
    )
    file.with_suffix(".json").write_text("{\n" + body + "\n}\n", "utf-8")
    again = load_audio(file).samples
    if len(again) != len(joined) or np.abs(again * (_FULL_SCALE + 1.0) - joined).max() > 0.5:
        raise RuntimeError(f"{file} does not hold what was written")


def _write_flac(file: Path, samples: NDArray[np.int16]) -> None:
    import av  # noqa: PLC0415

    with av.open(str(file), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, options={"compression_level": "12"})
        stream.layout = "mono"
        stream.format = "s16"
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
