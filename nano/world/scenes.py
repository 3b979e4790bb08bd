"""Pictures and videos of the closed world, drawn by OpenCV from a seed; about a millisecond each at most.

A scene has the content; its seed gives place, size, shade, background and grain. Shapes do not overlap, so that every
question has one answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Shades by name.
_RGB = {
    "red": (220, 30, 30),
    "orange": (250, 140, 10),
    "yellow": (245, 230, 30),
    "green": (30, 170, 50),
    "blue": (30, 70, 220),
    "purple": (150, 40, 190),
}
COLOURS = tuple(_RGB)
SHAPES = ("circle", "square", "triangle", "star")
RELATIONS = ("left", "right", "above", "below")
DIRECTIONS = ("left", "right", "up", "down")
WORDS = ("cat", "dog", "sun", "car", "tree", "house", "milk", "tea", "book", "door", "fish", "bird", "star", "moon",
         "ball", "cake")  # fmt: skip

SIDE = 112
WIDE = 168
FRAMES_PER_SECOND = 2.0
SECONDS = 4
SOUND_RATE = 16_000
_FRAMES = int(FRAMES_PER_SECOND * SECONDS)
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
# Fractional bits of cv2's fixed-point coordinates.
_FRACTION_BITS = 4


@dataclass(frozen=True)
class Figure:
    """A coloured shape."""

    colour: str
    shape: str


@dataclass(frozen=True)
class PictureScene:
    """A still picture: figures, or a printed text.

    Attributes:
        figures: the shapes in it.
        relation: one of RELATIONS, of the first figure to the second, or "".
        text: a digit or a word in place of figures, or "".
        seed: seeds everything else.
    """

    figures: tuple[Figure, ...] = ()
    relation: str = ""
    text: str = ""
    seed: int = 0

    @classmethod
    def from_figures(cls, figures: tuple[Figure, ...], seed: int, relation: str = "") -> PictureScene:
        """A scene of figures."""
        return cls(figures, relation, "", seed)


@dataclass(frozen=True)
class VideoScene:
    """Four seconds at two frames per second.

    Attributes:
        kind: "move" (`figure` moves to `direction`), "blink" (a light, `blinks` times) or "sound" (a square that shows
            one of four `colours` each second; a sound comes during second `sound_at`).
        seed: seeds everything else.
    """

    kind: Literal["move", "blink", "sound"]
    figure: Figure = Figure("red", "circle")
    direction: str = "left"
    blinks: int = 1
    colours: tuple[str, ...] = ()
    sound_at: int = 0
    seed: int = 0

    @property
    def has_sound(self) -> bool:
        """Whether a sound track belongs to it."""
        return self.kind == "sound"


def render_picture(scene: PictureScene) -> Pixels:
    """RGB, uint8 [112, 112 or 168, 3]."""
    rng = np.random.default_rng(scene.seed)
    width = WIDE if rng.random() < 0.3 else SIDE
    canvas = _background(rng, SIDE, width)
    if scene.text:
        _print(canvas, scene.text, rng)
    else:
        centres, radius = _places(len(scene.figures), scene.relation, width, rng)
        for figure, centre in zip(scene.figures, centres, strict=True):
            _figure(canvas, figure, centre, radius * rng.uniform(0.85, 1.0), rng)
    return _grain(canvas, rng)


def render_video(scene: VideoScene) -> Pixels:
    """RGB frames, uint8 [8, 112, 112, 3]."""
    rng = np.random.default_rng(scene.seed)
    ground = _background(rng, SIDE, SIDE)
    frames = np.repeat(ground[None], _FRAMES, axis=0)
    if scene.kind == "move":
        _move(frames, scene, rng)
    elif scene.kind == "blink":
        _blink(frames, scene, rng)
    else:
        _show_colours(frames, scene, rng)
    return _grain(frames, rng)


def render_sound(scene: VideoScene) -> NDArray[np.float32]:
    """The sound track, float32 [64000] at 16 kHz in [-1, 1]: faint noise and one tone or bell."""
    rng = np.random.default_rng([scene.seed, 1])
    samples = rng.normal(0.0, rng.uniform(0.0005, 0.004), SECONDS * SOUND_RATE)
    if scene.kind == "sound":
        length = int(rng.uniform(0.3, 0.5) * SOUND_RATE)
        start = int((scene.sound_at + rng.uniform(0.15, 0.45)) * SOUND_RATE)
        time = np.arange(length) / SOUND_RATE
        pitch = rng.uniform(400.0, 1600.0)
        if rng.random() < 0.5:
            tone = np.sin(2 * np.pi * pitch * time) * np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
        else:
            partials = np.array([[1.0, 0.6, 5.0], [2.76, 0.3, 8.0], [4.07, 0.2, 12.0]])
            rise, gain, decay = partials.T[:, :, None]
            tone = (gain * np.sin(2 * np.pi * pitch * rise * time) * np.exp(-time * decay)).sum(axis=0)
        samples[start : start + length] += rng.uniform(0.15, 0.5) * tone
    return np.clip(samples, -1.0, 1.0).astype(np.float32)


# -- drawing -----------------------------------------------------------------------------------------------------


def _background(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Grey, dark or light, hardly tinted, with a slight slope of brightness."""
    level = rng.uniform(5, 60) if rng.random() < 0.4 else rng.uniform(165, 250)
    slope = np.linspace(-1, 1, width)[None, :, None] * rng.uniform(-10, 10)
    colour = level + rng.uniform(-6, 6, 3) + slope
    return np.clip(np.broadcast_to(colour, (height, width, 3)), 0, 255).astype(np.uint8)


def _grain(canvas: Pixels, rng: np.random.Generator) -> Pixels:
    noise = rng.integers(-6, 7, canvas.shape[-3:], dtype=np.int16)
    return np.asarray(np.clip(canvas.astype(np.int16) + noise, 0, 255), np.uint8)


def _shade(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(_RGB[colour]) + rng.integers(-12, 13, 3), 0, 255).tolist()
    return red, green, blue


def _outline(shape: str) -> NDArray[np.float64]:
    """Corners on the unit circle, [n, 2]; a square and a triangle fill it as well as a star does."""
    if shape == "square":
        return np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    if shape == "triangle":
        return np.array([[0.0, -1.0], [0.95, 0.75], [-0.95, 0.75]])
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    lengths = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    return np.stack([np.cos(angles) * lengths, np.sin(angles) * lengths], axis=1)


def _figure(
    canvas: Pixels, figure: Figure, centre: tuple[float, float], radius: float, rng: np.random.Generator
) -> None:
    _paint(canvas, figure.shape, _shade(figure.colour, rng), centre, radius, rng.uniform(-0.12, 0.12))


def _paint(
    canvas: Pixels,
    shape: str,
    shade: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
    turn: float = 0.0,
) -> None:
    unit = 1 << _FRACTION_BITS
    if shape == "circle":
        place = (round(centre[0] * unit), round(centre[1] * unit))
        cv2.circle(canvas, place, round(radius * 0.95 * unit), shade, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)
        return
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners = (_outline(shape) * radius) @ rotation + np.array(centre)
    cv2.fillPoly(canvas, [np.round(corners * unit).astype(np.int32)], shade, cv2.LINE_AA, _FRACTION_BITS)


def _places(count: int, relation: str, width: int, rng: np.random.Generator) -> tuple[list[tuple[float, float]], float]:
    """Centres (x, y) of figures that touch neither each other nor the edge, and their largest radius; pixels."""
    middle = (width / 2, SIDE / 2)
    if relation:
        radius = rng.uniform(17, 23)
        across = rng.uniform(2 * radius + 4, (width if relation in {"left", "right"} else SIDE) - 2 * radius - 4)
        across = max(across, 2 * radius + 4)
        aside = rng.uniform(-14, 14)
        offset = (across / 2, aside / 2) if relation in {"left", "right"} else (aside / 2, across / 2)
        sign = -1 if relation in {"left", "above"} else 1
        return [(middle[0] + way * offset[0], middle[1] + way * offset[1]) for way in (sign, -sign)], radius
    if count == 1:
        radius = rng.uniform(20, 38)
        room = (middle[0] - radius - 4, middle[1] - radius - 4)
        return [(middle[0] + rng.uniform(-room[0], room[0]), middle[1] + rng.uniform(-room[1], room[1]))], radius
    cell = (width / 2, SIDE / 2)
    radius = rng.uniform(16, 22)
    chosen = rng.permutation(4)[:count]
    slack = (cell[0] / 2 - radius - 2, cell[1] / 2 - radius - 2)
    return [
        (
            (index % 2 + 0.5) * cell[0] + rng.uniform(-slack[0], slack[0]),
            (index // 2 + 0.5) * cell[1] + rng.uniform(-slack[1], slack[1]),
        )
        for index in chosen.tolist()
    ], radius


def _print(canvas: Pixels, text: str, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    font = _FONTS[rng.integers(len(_FONTS))]
    thickness = int(rng.integers(2, 4)) if len(text) > 1 else int(rng.integers(3, 6))
    (reference_width, reference_height), _ = cv2.getTextSize(text, font, 1.0, thickness)
    fill = rng.uniform(0.7, 0.9) if len(text) > 1 else rng.uniform(0.4, 0.65)
    scale = min(fill * width / reference_width, 0.65 * height / reference_height)
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, thickness)
    left = int(rng.uniform(3, max(4, width - text_width - 3)))
    bottom = int(rng.uniform(text_height + 4, max(text_height + 5, height - 0.25 * text_height - 4)))
    dark = float(canvas.mean()) > 128
    shade = rng.integers(0, 60, 3) if dark else rng.integers(190, 256, 3)
    red, green, blue = shade.tolist()
    cv2.putText(canvas, text, (left, bottom), font, scale, (red, green, blue), thickness, cv2.LINE_AA)


def _route(
    scene: VideoScene, rng: np.random.Generator
) -> tuple[tuple[int, int, int], list[tuple[float, float]], float]:
    radius = rng.uniform(14, 22)
    shade = _shade(scene.figure.colour, rng)
    reach = SIDE / 2 - radius - 3
    way = np.linspace(-reach, reach, _FRAMES) * rng.uniform(0.8, 1.0)
    if scene.direction in {"left", "up"}:
        way = way[::-1]
    aside = float(rng.uniform(-reach, reach) * 0.8)
    offsets = [(along, aside) if scene.direction in {"left", "right"} else (aside, along) for along in way.tolist()]
    return shade, [(SIDE / 2 + across, SIDE / 2 + down) for across, down in offsets], radius


def _move(frames: Pixels, scene: VideoScene, rng: np.random.Generator) -> None:
    shade, centres, radius = _route(scene, rng)
    for frame, centre in zip(frames, centres, strict=True):
        _paint(frame, scene.figure.shape, shade, centre, radius)


def _blink(frames: Pixels, scene: VideoScene, rng: np.random.Generator) -> None:
    """A lamp that is lit in one frame of each chosen pair, so that two blinks are never adjacent."""
    centre = (rng.uniform(40, SIDE - 40), rng.uniform(40, SIDE - 40))
    radius = rng.uniform(22, 32)
    lit = _lit_pairs(scene, rng)
    for index, frame in enumerate(frames):
        shining = index % 2 == 0 and lit[index // 2]
        _paint(frame, "circle", (255, 250, 170) if shining else (70, 70, 60), centre, radius)
        cv2.circle(frame, (int(centre[0]), int(centre[1])), int(radius), (110, 110, 110), 2, cv2.LINE_AA)


def _lit_pairs(scene: VideoScene, rng: np.random.Generator) -> list[bool]:
    pairs = set(rng.permutation(_FRAMES // 2)[: scene.blinks].tolist())
    return [pair in pairs for pair in range(_FRAMES // 2)]


def _show_colours(frames: Pixels, scene: VideoScene, rng: np.random.Generator) -> None:
    """A large square of one colour per second."""
    margin = rng.uniform(4, 22, 4)
    left, top, right, bottom = margin[0], margin[1], SIDE - margin[2], SIDE - margin[3]
    shades = [_shade(colour, rng) for colour in scene.colours]
    for index, frame in enumerate(frames):
        shade = shades[int(index / FRAMES_PER_SECOND)]
        cv2.rectangle(frame, (int(left), int(top)), (int(right), int(bottom)), shade, cv2.FILLED)


# -- places -----------------------------------------------------------------------------------------------------


def picture_places(scene: PictureScene) -> tuple[list[tuple[float, float]], float]:
    """Centres (x, y) of the figures of `render_picture(scene)` in pixels, and their largest radius."""
    rng = np.random.default_rng(scene.seed)
    width = WIDE if rng.random() < 0.3 else SIDE
    _background(rng, SIDE, width)
    return _places(len(scene.figures), scene.relation, width, rng)


def video_places(scene: VideoScene) -> tuple[list[tuple[float, float]], float]:
    """Centres (x, y) of the moving figure in each frame of `render_video(scene)`, and its radius; pixels."""
    rng = np.random.default_rng(scene.seed)
    _background(rng, SIDE, SIDE)
    return _route(scene, rng)[1:]


def video_light(scene: VideoScene) -> list[bool]:
    """Whether the lamp of `render_video(scene)` shines, for each pair of frames."""
    rng = np.random.default_rng(scene.seed)
    _background(rng, SIDE, SIDE)
    rng.uniform(size=3)  # its place and size
    return _lit_pairs(scene, rng)
