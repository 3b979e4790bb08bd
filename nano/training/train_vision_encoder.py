"""Trains the vision encoder towards the words' embeddings, after the first run of `train_thinker`.

    python -m nano.training.train_vision_encoder --work nano-work

A scene gives the place of everything in it. A vision token over a figure's centre is trained towards the embeddings of
the words for its colour, its shape, its relation to the other figure or its direction. Background tokens are trained
away from all words. Learning from places takes far fewer steps than from replies. Only the vision encoder's weights
are kept; an interrupted run continues.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nano import world
from nano.data.sequences import IGNORED, Composer
from nano.model.forward import encode_vision
from nano.training.loop import parse, save
from nano.training.optimizer import Optimizer
from nano.training.thinker_losses import ThinkerTraining
from nano.world.scenes import (
    COLOURS,
    DIRECTIONS,
    FRAMES_PER_SECOND,
    RELATIONS,
    SHAPES,
    WORDS,
    Figure,
    PictureScene,
    VideoScene,
    picture_places,
    render_picture,
    render_video,
    video_light,
    video_places,
)
from omni_edge.vision.image_processor import VisionPatches

NAME = "vision_encoder"
_CELL = 28
# Part of a figure's radius around its centre that always shows the figure.
_INSIDE = 0.6
# Most cells show the background: their weight beside a cell with a figure.
_BACKGROUND_WEIGHT = 0.1
_SHARPNESS = 8.0
_WARM_UP = 50
_LOG_EVERY = 20
_SAVE_EVERY = 100
# Factor on the learning rate of the parameters that AdamW updates; Muon bears a larger one.
_OTHERS = 0.4
# The learning rate falls linearly over the last 1 / _FADE of the steps.
_FADE = 1.6
_PRINTED = (*(str(digit) for digit in range(10)), *WORDS)
_COUNTS = tuple(world.number(count) for count in range(1, 5))
# Printed words and shapes are learned last: parts of the pictures that are printed, and that have many figures.
_PRINTED_PART, _CROWDED_PART = 0.3, 0.4
_CROWD = 4
# Kinds of targets and their words; "colour" and "shape" also have "nothing".
_KINDS = {
    "colour": COLOURS,
    "shape": SHAPES,
    "relation": RELATIONS,
    "direction": DIRECTIONS,
    "count": _COUNTS,
    "light": ("off", "on"),
}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


class TokenLabels:
    """Labels of one picture's or video's tokens.

    Attributes:
        labels: kind -> int64 [temporal patches, rows, columns]; IGNORED without a target.
        printed: index in _PRINTED, or IGNORED.
    """

    def __init__(self, grid: tuple[int, int, int]) -> None:
        shape = (grid[0], grid[1] // 2, grid[2] // 2)
        self.labels = {kind: np.full(shape, IGNORED) for kind in _KINDS}
        self.printed = IGNORED
        self._centres = np.stack(
            np.meshgrid((np.arange(shape[2]) + 0.5) * _CELL, (np.arange(shape[1]) + 0.5) * _CELL), axis=-1
        )

    def place(self, time_: int, centres: list[tuple[float, float]], radius: float) -> list[tuple[int, int]]:
        """Marks the background of a temporal patch; returns the cells (row, column) of the centres."""
        far = np.ones(self._centres.shape[:2], bool)
        for centre in centres:
            far &= np.abs(self._centres - np.array(centre)).max(axis=-1) > radius + _CELL / 2
        for kind in ("colour", "shape"):
            self.labels[kind][time_][far] = len(_KINDS[kind])
        return [(int(y // _CELL), int(x // _CELL)) for x, y in centres]

    def show(self, time_: int, figure: Figure, centre: tuple[float, float], radius: float) -> None:
        """Marks the cells that lie well inside of a figure, and its centre's, with its colour and shape."""
        covered = np.abs(self._centres - np.array(centre)).max(axis=-1) < _INSIDE * radius
        covered[int(centre[1] // _CELL), int(centre[0] // _CELL)] = True
        self.labels["colour"][time_][covered] = COLOURS.index(figure.colour)
        self.labels["shape"][time_][covered] = SHAPES.index(figure.shape)


def _picture(composer: Composer, scene: PictureScene) -> tuple[VisionPatches, TokenLabels]:
    patches = composer.images.image(render_picture(scene))
    labelled = TokenLabels(patches.grid)
    if scene.text:
        labelled.printed = _PRINTED.index(scene.text)
        return patches, labelled
    centres, radius = picture_places(scene)
    cells = labelled.place(0, centres, radius)
    for index, (figure, centre, cell) in enumerate(zip(scene.figures, centres, cells, strict=True)):
        labelled.show(0, figure, centre, radius)
        if scene.relation:
            relation = _OPPOSITE[scene.relation] if index else scene.relation
            labelled.labels["relation"][0][cell] = RELATIONS.index(relation)
        else:
            labelled.labels["count"][0][cell] = len(scene.figures) - 1
    return patches, labelled


def _video(composer: Composer, scene: VideoScene) -> tuple[VisionPatches, TokenLabels]:
    patches = composer.images.video(render_video(scene), FRAMES_PER_SECOND)
    labelled = TokenLabels(patches.grid)
    if scene.kind == "move":
        centres, radius = video_places(scene)
        for moment in range(patches.grid[0]):
            x, y = np.mean(centres[2 * moment : 2 * moment + 2], axis=0).tolist()
            (cell,) = labelled.place(moment, [(x, y)], radius)
            labelled.show(moment, scene.figure, (x, y), radius)
            labelled.labels["direction"][moment][cell] = DIRECTIONS.index(scene.direction)
    elif scene.kind == "blink":
        for moment, lit in enumerate(video_light(scene)):
            labelled.labels["light"][moment][1:3, 1:3] = int(lit)
    else:
        for moment, colour in enumerate(scene.colours):
            labelled.labels["colour"][moment][1:3, 1:3] = COLOURS.index(colour)
    return patches, labelled


class VisionLosses(nn.Module):
    """The losses of labelled pictures and videos; the words' embeddings are fixed."""

    def __init__(self, composer: Composer, model: ThinkerTraining) -> None:
        super().__init__()
        self.visual = model.thinker.model.visual
        table = model.thinker.model.language_model.embed_tokens.weight.detach()
        width = table.shape[1]
        self.nothing = nn.Parameter(torch.zeros(width, dtype=table.dtype))
        self.printed = nn.Linear(width, len(_PRINTED), dtype=table.dtype)
        self._words = {
            kind: torch.stack([table[composer.codec.encode(f" {word}")].mean(0) for word in words])
            for kind, words in _KINDS.items()
        }

    def losses(self, examples: list[tuple[VisionPatches, TokenLabels]]) -> dict[str, Tensor]:
        """Mean loss of every kind that occurs and, as `kind+`, the share of right answers apart from "nothing"."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        sizes: dict[tuple[int, int], list[tuple[VisionPatches, TokenLabels]]] = {}
        for patches, labelled in examples:
            sizes.setdefault(patches.grid[1:], []).append((patches, labelled))
        for (height, width), members in sizes.items():
            pixels = torch.as_tensor(np.concatenate([patches.patches for patches, _ in members]))
            embeds = encode_vision(self.visual, pixels, height, width)
            for kind in _KINDS:
                labels = torch.as_tensor(np.concatenate([labelled.labels[kind].reshape(-1) for _, labelled in members]))
                chosen = labels != IGNORED
                words = self._words[kind]
                if kind in {"colour", "shape"}:
                    words = torch.cat([words, self.nothing[None]])
                scores = (embeds.flatten(0, 1)[chosen] @ words.T).float() * _SHARPNESS
                found.setdefault(kind, []).append((scores, labels[chosen]))
            stills = [row for row, (patches, _) in enumerate(members) if patches.grid[0] == 1]
            if len(stills) == len(members):
                labels = torch.tensor([labelled.printed for _, labelled in members])
                chosen = labels != IGNORED
                found.setdefault("printed", []).append((self.printed(embeds.mean(1)[chosen]).float(), labels[chosen]))
        results = {}
        for kind, pairs in found.items():
            scores, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            count = len(_KINDS.get(kind, _PRINTED))
            shown = labels < count
            if shown.any():
                weights = torch.ones(scores.shape[1])
                weights[count:] = _BACKGROUND_WEIGHT
                results[kind] = functional.cross_entropy(scores, labels, weights)
                results[f"{kind}+"] = (scores.argmax(-1) == labels)[shown].float().mean()
        return results


def draw(composer: Composer, rng: random.Random, family: str) -> tuple[VisionPatches, TokenLabels]:
    """A training scene with its labels."""
    kind = rng.random()
    if family == "picture" and kind < _CROWDED_PART:
        crowd = tuple(Figure(rng.choice(COLOURS), rng.choice(SHAPES)) for _ in range(_CROWD))
        return _picture(composer, PictureScene.from_figures(crowd, 2 * rng.randrange(1 << 30)))
    printed = kind > 1 - _PRINTED_PART
    while True:
        part = world.draw(rng, "train", family, spoken=False).turns[0].parts[0]
        if isinstance(part, world.Picture) and bool(part.scene.text) == printed:
            return _picture(composer, part.scene)
        if isinstance(part, world.Video):
            return _video(composer, part.scene)


def train(work: Path, steps: int, batch: int, rate: float) -> None:
    """Continues the vision encoder of WORK/training/thinker.pt into WORK/training/vision_encoder.pt.

    The latter has float32 averages by their names in `ThinkerTraining`; WORK/training/vision_encoder.state has what
    an interrupted run continues from.
    """
    composer = Composer(work)
    model = ThinkerTraining(composer)
    folder = work / "training"
    words = torch.load(folder / "thinker.pt", weights_only=True)["averages"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(words[name])
        # Weights of an earlier run that the Thinker does not have yet are used, with a state or without.
        encoder_file = folder / f"{NAME}.pt"
        for name, tensor in torch.load(encoder_file, weights_only=True).items() if encoder_file.exists() else ():
            model.get_parameter(name).copy_(tensor)
    objective = VisionLosses(composer, model)
    optimizer = Optimizer(objective)
    state = folder / f"{NAME}.state"
    if state.exists():
        optimizer.load_state_dict(torch.load(state, weights_only=True))
    sums: dict[str, float] = {}
    began = time.monotonic()
    for step in range(optimizer.steps, steps):
        rng = random.Random(step + (1 << 40))
        examples = [draw(composer, rng, "picture") for _ in range(batch)]
        moving = [draw(composer, rng, rng.choice(("video", "video", "sound_and_picture"))) for _ in range(batch // 3)]
        for group, weight in ((examples, 1.0), (moving, 0.5)):
            losses = objective.losses(group)
            wanted = [loss for kind, loss in losses.items() if not kind.endswith("+")]
            (torch.stack(wanted).sum() * weight).backward()
            for kind, value in losses.items():
                if kind.endswith("+"):
                    name = kind if group is examples else f"video {kind}"
                    sums[name] = sums.get(name, 0.0) + float(value) / _LOG_EVERY
        optimizer.step(rate * min((step + 1) / _WARM_UP, 1.0, _FADE * (steps - step) / steps), _OTHERS)
        if (step + 1) % _LOG_EVERY == 0:
            print(step + 1, {k: round(v, 3) for k, v in sums.items()}, f"{time.monotonic() - began:.0f} s", flush=True)
            sums = {}
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
            learned = {f"thinker.model.{k}": v for k, v in optimizer.averages.items() if k.startswith("visual.")}
            save(optimizer.state_dict(), state)
            save(learned, encoder_file)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--rate", type=float, default=8e-3)
    parser.add_argument("--threads", type=int, default=1)
    train(**parse(parser))


if __name__ == "__main__":
    main()
