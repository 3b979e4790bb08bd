"""Samples become sequences as the runtime writes them: the same tokens, embeds and positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni_edge import OmniEdge
from omni_edge.bundle.reader import Bundle
from omni_edge.conversation.prompt import Prompt
from omni_edge.events import AudioClip, ImageFrame
from omni_export.calibration import sequences
from omni_export.calibration.material import Sample, Turn, built_in_samples
from omni_export.calibration.sequences import Sequences, make_sequences
from support.commands import picture, tone


def make(samples: list[Sample], bundle: Path) -> Sequences:
    manifest = Bundle(bundle).manifest
    return make_sequences(samples, bundle, manifest, manifest.graphs)


def test_a_conversation_is_written_as_the_runtime_writes_it(bundle: Path, engine: OmniEdge) -> None:
    clip, image = AudioClip(tone(1.0).astype(np.float32), 16_000), ImageFrame(picture(56, 84))
    made = make([Sample((Turn("user", (clip, image, "What is it?")), Turn("assistant", ("A tone.",))))], bundle)
    model = engine.model
    prompt = Prompt(model.thinker.embed, model.tokenizer, model.manifest)
    prompt.system(model.manifest.text.speech_system)
    prompt.user()
    prompt.begin_sound()
    prompt.sound(model.audio_encoder().encode([b.frames for b in model.audio_front_end.clip(clip.samples, clip.rate)]))
    prompt.end_sound()
    patches = model.image_processor.image(image.pixels)
    merge = model.manifest.vision.merge_size
    embeds = model.vision_encoder().encode(patches.patches, patches.grid)
    prompt.picture(embeds, patches.grid[1] // merge, patches.grid[2] // merge)
    prompt.write("What is it?")
    prompt.end_turn()
    prompt.assistant()
    prompt.write("A tone.")
    prompt.end_turn()
    blocks = prompt.take()
    np.testing.assert_allclose(made.embeds, np.concatenate([block.embeds for block in blocks]), atol=1e-5)
    assert np.array_equal(made.positions, np.concatenate([block.positions for block in blocks], axis=1))
    assert made.lengths == (len(made.embeds),)


def test_plain_text_has_no_marks_and_is_cut_into_sequences(
    bundle: Path, engine: OmniEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "_LONGEST", 20)
    text = "abcdefgh " * 20
    tokens = engine.model.tokenizer.encode(text)
    made = make([Sample((Turn("", (text,)),))], bundle)
    kept = len(tokens) // 20 * 20
    assert made.lengths == (20,) * (kept // 20)
    expected = engine.model.thinker.embed(np.array(tokens[:kept]))
    np.testing.assert_allclose(made.embeds, expected, atol=1e-6)
    assert np.array_equal(made.positions[0], np.tile(np.arange(20), kept // 20))


def test_the_built_in_set_fills_the_sequences_in_bounds(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "TOKENS", 2000)
    made = make(built_in_samples(), bundle)
    assert sum(made.lengths) == len(made.embeds) == made.positions.shape[1]
    assert 2000 - sequences._SHORTEST < len(made.embeds) <= 2000
    assert all(sequences._SHORTEST <= length <= sequences._LONGEST for length in made.lengths)
    assert all(ids.min() == 0 for ids in made.split_positions())
    assert np.isfinite(made.embeds).all()
    assert made.sha256() == make(built_in_samples(), bundle).sha256()
