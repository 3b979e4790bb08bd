"""Which of the vision encoder's matrices four bits harm, and how the weights have to be rounded.

    python -m nano.evaluation.vision_bits --count 300 --out results.jsonl

A row is omni-nano in float32 but for the matrices that it names. "Rounded" and "searched" rows have these weights in
INT4 and activations in float32; the others are exports, with activations in INT8. A row has the error of the embeds
(RMS of the difference / RMS), and the pictures of the evaluation set that are answered right, to the letter.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from nano.data.exercises import Exercise, evaluation_set
from nano.evaluation.workers import Question, understand
from omni_edge import OmniEdge
from omni_edge.backend.machine import machine
from omni_edge.vision.image_processor import ImageProcessor
from omni_export import ExportOptions, export_bundle
from omni_export.evaluate.metrics import relative_error
from omni_quant.blockwise import dequantize_blockwise, quantize_blockwise
from omni_quant.precision import Kind, Precision

CHECKPOINT = Path(__file__).parents[1] / "omni-nano"
PREFIX = "thinker."
ROLE = "vision_encoder"
Matrix = NDArray[np.float32]
Rounding = Callable[[Matrix], Matrix]


def rounding(group: int, *, searched: bool) -> Rounding:
    """INT4 in groups: scale and zero point searched as in an export, or symmetric and rounded to nearest."""

    def rounded(weight: Matrix) -> Matrix:
        found = quantize_blockwise(weight, bits=4, block_size=group, float16_scales=searched, zero_points=searched)
        return dequantize_blockwise(found)

    return rounded


NEAREST_64, SEARCHED_64, SEARCHED_32 = (
    rounding(64, searched=False),
    rounding(64, searched=True),
    rounding(32, searched=True),
)
# Name -> how the matrices whose names match are rounded.
WEIGHTS: dict[str, tuple[Rounding, str]] = {
    "rounded to nearest, groups of 64": (NEAREST_64, r"visual\."),
    "searched, groups of 64": (SEARCHED_64, r"visual\."),
    "searched, groups of 32": (SEARCHED_32, r"visual\."),
    "searched, groups of 32: layers alone": (SEARCHED_32, r"visual\.blocks"),
    "searched, groups of 32: merger alone": (SEARCHED_32, r"visual\.merger"),
    "rounded: queries and keys alone": (NEAREST_64, r"visual.*\.[qk]\."),
    "rounded: values and attention's output alone": (NEAREST_64, r"visual.*(\.v\.|\.attn\.proj\.)"),
    "rounded: gate and up alone": (NEAREST_64, r"visual.*\.(gate|up)_proj"),
    "rounded: down alone": (NEAREST_64, r"visual.*\.down_proj"),
    "rounded: merger alone": (NEAREST_64, r"visual\.merger"),
    **{f"rounded: layer {layer} alone": (NEAREST_64, rf"visual\.blocks\.{layer}\.") for layer in range(4)},
    "rounded: the Thinker's layers alone": (NEAREST_64, r"model\.layers"),
    "rounded: the Thinker's layers and the vision encoder": (NEAREST_64, r"model\.layers|visual\."),
}
EXPORTS = {
    "float32": Precision(Kind.FP32),
    "INT8, groups of 32": Precision(Kind.INT8, 32),
    "INT4, groups of 32": Precision(Kind.INT4, 32),
    "INT4, groups of 64": Precision(Kind.INT4, 64),
}


def bundles(folder: Path, rows: str) -> Iterator[tuple[str, Path]]:
    """A bundle for each row whose name `rows` is found in, float32 first; the one before is removed."""
    for name, precision in EXPORTS.items():
        if precision.kind is Kind.FP32 or re.search(rows, name):
            yield name, _export(CHECKPOINT, folder / "bundle", precision)
    tensors = load_file(CHECKPOINT / "model.safetensors")
    copied = folder / "checkpoint"
    shutil.copytree(CHECKPOINT, copied)
    for name, (rounded, pattern) in WEIGHTS.items():
        if not re.search(rows, name):
            continue
        changed = {
            key: rounded(value.astype(np.float32))
            for key, value in tensors.items()
            if key.startswith(PREFIX) and value.ndim == 2 and re.match(pattern, key.removeprefix(PREFIX))
        }
        save_file(tensors | changed, copied / "model.safetensors")
        yield name, _export(copied, folder / "bundle", Precision(Kind.FP32))


def _export(checkpoint: Path, out: Path, precision: Precision) -> Path:
    options = ExportOptions(Precision(Kind.FP32), {ROLE: precision}, text_only=True, force=True)
    export_bundle(str(checkpoint), out, options)
    return out


def embeds(engine: OmniEdge, exercises: list[Exercise]) -> Matrix:
    """The vision encoder's embeds of all pictures, float32 [tokens, hidden]."""
    processor, encoder = ImageProcessor(engine.manifest.vision), engine.model.vision_encoder()
    found = []
    for exercise in exercises:
        parts = [part for message in exercise.messages for part in message["content"] if part["type"] == "image"]
        for part in parts:
            picture = processor.image(part["image"])
            found.append(encoder.encode(picture.patches, picture.grid).reshape(-1, engine.manifest.thinker.hidden_size))
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="pictures")
    parser.add_argument("--rows", default="", help="a regular expression: only rows whose names have it")
    parser.add_argument("--out", type=Path, help="add the rows to a file of JSON lines")
    arguments = parser.parse_args()
    exercises = list(evaluation_set("pictures", None, arguments.count))
    reference: Matrix | None = None
    lines = [{"pictures": len(exercises), "machine": asdict(machine())}]
    print("| vision encoder | error of the embeds | pictures right |\n| --- | --- | --- |")
    with TemporaryDirectory() as name:
        for row, bundle in bundles(Path(name), arguments.rows):
            engine = OmniEdge.load(bundle)
            own = embeds(engine, exercises)
            reference = own if reference is None else reference
            right = sum(understand(engine, Question(exercise)) == exercise.reply for exercise in exercises)
            lines.append({"row": row, "error": relative_error(reference, own), "right": right / len(exercises)})
            print(f"| {row} | {lines[-1]['error']:.1%} | {lines[-1]['right']:.1%} |", flush=True)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines)


if __name__ == "__main__":
    main()
