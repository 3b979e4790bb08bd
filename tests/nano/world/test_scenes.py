"""Pictures, videos and their sound show what the scene says, measured in the pixels and samples themselves."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nano import world
from nano.world.scenes import (
    _RGB,
    COLOURS,
    DIRECTIONS,
    RELATIONS,
    SHAPES,
    SOUND_RATE,
    Figure,
    PictureScene,
    VideoScene,
    render_picture,
    render_sound,
    render_video,
    video_light,
)


def mask(pixels: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """Where `pixels` show `colour`: as near to it as its shades and the grain allow."""
    return np.abs(pixels.astype(int) - np.array(_RGB[colour])).max(axis=-1) < 22


def centre(found: NDArray[np.bool_]) -> tuple[float, float]:
    rows, columns = np.nonzero(found)
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_first_figure_stands_where_the_relation_says(relation: str) -> None:
    rng = random.Random(relation)
    for seed in range(60):
        first, second = rng.sample(COLOURS, 2)
        figures = (Figure(first, rng.choice(SHAPES)), Figure(second, rng.choice(SHAPES)))
        pixels = render_picture(PictureScene.from_figures(figures, seed, relation))
        (x, y), (other_x, other_y) = centre(mask(pixels, first)), centre(mask(pixels, second))
        along = {"left": other_x - x, "right": x - other_x, "above": other_y - y, "below": y - other_y}[relation]
        across = abs(other_y - y) if relation in {"left", "right"} else abs(other_x - x)
        assert along > 30
        assert across < along


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_figures_are_to_be_seen_as_are_counted(count: int) -> None:
    rng = random.Random(count)
    for seed in range(60):
        colours = rng.choices(COLOURS, k=count)
        pixels = render_picture(PictureScene.from_figures(tuple(Figure(c, rng.choice(SHAPES)) for c in colours), seed))
        found = np.any([mask(pixels, colour) for colour in set(colours)], axis=0).astype(np.uint8)
        _, _, statistics, _ = cv2.connectedComponentsWithStats(found)
        assert int((statistics[1:, cv2.CC_STAT_AREA] > 60).sum()) == count


def test_shapes_fill_their_boxes_as_they_should() -> None:
    filled = {}
    for shape in SHAPES:
        pixels = render_picture(PictureScene.from_figures((Figure("blue", shape),), 12))
        rows, columns = np.nonzero(mask(pixels, "blue"))
        filled[shape] = rows.size / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    assert filled["square"] > filled["circle"] > filled["triangle"] > filled["star"]


def test_texts_are_printed_inside_the_picture_and_differ() -> None:
    for seed in range(40):
        background = np.median(render_picture(PictureScene(text="sun", seed=seed)).astype(float), axis=(0, 1)).mean()
        pixels = render_picture(PictureScene(text="house", seed=seed)).mean(axis=-1)
        ink = np.abs(pixels - background) > 60
        assert 0.02 < ink.mean() < 0.4
        assert not ink[:, :2].any()
        assert not ink[:2].any()
        assert not ink[-2:].any()
    same = [render_picture(PictureScene(text=text, seed=5)) for text in ("6", "9")]
    assert np.abs(same[0].astype(int) - same[1]).max() > 60


def test_sides_are_whole_tokens_and_seeds_repeat() -> None:
    sizes = set()
    for seed in range(40):
        scene = PictureScene.from_figures((Figure("red", "star"),), seed)
        pixels = render_picture(scene)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, render_picture(scene))
        sizes.add(pixels.shape)
    assert sizes == {(112, 112, 3), (112, 168, 3)}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_figure_moves_where_the_scene_says(direction: str) -> None:
    for seed in range(20):
        frames = render_video(VideoScene("move", Figure("green", "square"), direction, seed=seed))
        assert frames.shape == (8, 112, 112, 3)
        path = np.array([centre(mask(frame, "green")) for frame in frames])
        steps = np.diff(path, axis=0)
        axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[direction]
        assert (sign * steps[:, axis] > 4).all()
        assert np.abs(steps[:, 1 - axis]).max() < 1


@pytest.mark.parametrize("blinks", [1, 2, 3, 4])
def test_the_light_is_lit_as_often_as_it_blinks(blinks: int) -> None:
    for seed in range(20):
        frames = render_video(VideoScene("blink", blinks=blinks, seed=seed))
        lit = (np.abs(frames.astype(int) - (255, 250, 170)).max(axis=-1) < 10).mean(axis=(1, 2)) > 0.05
        assert lit.sum() == blinks
        assert not (lit[1:] & lit[:-1]).any()


def test_each_second_has_its_colour_and_the_sound_comes_in_the_right_one() -> None:
    rng = random.Random(8)
    for seed in range(40):
        colours, at = tuple(rng.sample(COLOURS, 4)), rng.randrange(4)
        scene = VideoScene("sound", colours=colours, sound_at=at, seed=seed)
        frames, sound = render_video(scene), render_sound(scene)
        for index, frame in enumerate(frames):
            assert mask(frame[50:62, 50:62], colours[index // 2]).all()
        assert sound.shape == (4 * SOUND_RATE,)
        energy = np.square(sound.reshape(4, SOUND_RATE)).mean(axis=1)
        assert energy.argmax() == at
        assert energy[at] > 20 * np.delete(energy, at).max()


def test_the_reply_names_the_colour_at_the_sound() -> None:
    rng = random.Random(9)
    for _ in range(50):
        turn = world.draw(rng, family="sound_and_picture").turns[0]
        part = turn.parts[0]
        assert isinstance(part, world.Video)
        assert part.scene.has_sound
        assert turn.reply == f"It was {part.scene.colours[part.scene.sound_at]}."


@pytest.mark.parametrize("blinks", [1, 2, 3, 4])
def test_the_lamp_shines_when_it_is_said_to(blinks: int) -> None:
    for seed in range(20):
        scene = VideoScene(kind="blink", blinks=blinks, seed=seed)
        pairs = render_video(scene).astype(int).reshape(4, 2, 112, 112, 3)
        flashes = [bool((first - second).max() > 60) for first, second in pairs]
        assert video_light(scene) == flashes
        assert sum(flashes) == blinks
