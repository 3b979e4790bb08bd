"""The vision encoder's graph: patches -> embeds (reference: `Qwen2_5OmniVisionEncoder`).

    patches [temporal, patches, values] -> linear -> window order -> layers (attention in windows, or over the whole
        temporal patch) -> merger (2 x 2 patches to one token) -> picture order -> embeds [temporal, tokens, hidden]

Order, angles and windows depend on the grid alone and are inputs: see `omni_edge.vision.encoder.window_plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omni_edge.bundle.manifest import VisionSection
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import VisionConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.function import CONTRIB
from omni_quant.policy import formats
from omni_quant.precision import Precision

ROLE = "vision_encoder"
PREFIX = "thinker.visual"

# From the reference's code: its configuration lacks it.
_NORM_EPSILON = 1e-6
# Defaults of the reference's image processor (Qwen2VLImageProcessor), for what preprocessor_config.json lacks.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_MIN_PIXELS = 3136
_MAX_PIXELS = 12_845_056
# Defaults of qwen-omni-utils 0.0.9, the reference's loader of videos: tokens per frame pair, frames, and the part of
# the context that a video may fill.
_VIDEO_MIN_TOKENS = 128
_VIDEO_MAX_TOKENS = 768
_VIDEO_CONTEXT_SHARE = 0.9
_VIDEO_FPS = 2.0
_VIDEO_MIN_FRAMES = 4
_VIDEO_MAX_FRAMES = 768


def section(config: VisionConfig, preprocessor: dict[str, Any], *, max_positions: int) -> VisionSection:
    """The manifest's vision section.

    Args:
        config: the encoder's sizes.
        preprocessor: `preprocessor_config.json`; {} takes the reference's defaults. Both spellings of the pixel limits
            are read: `min_pixels`, `max_pixels`, and `size: {shortest_edge, longest_edge}`. `video_min_pixels` is an
            extension, for checkpoints trained on smaller frames than the reference's loader gives.
        max_positions: the Thinker's context, of which one video may fill 90 %.

    Raises:
        CheckpointError: the preprocessor's patches are not those of the encoder.
    """
    for key, expected in (
        ("patch_size", config.patch_size),
        ("temporal_patch_size", config.temporal_patch_size),
        ("merge_size", config.spatial_merge_size),
    ):
        if int(preprocessor.get(key) or expected) != expected:
            raise CheckpointError(
                f"preprocessor_config.json has {key} {preprocessor[key]}, vision_config says {expected}. "
                "The files do not belong together: download the checkpoint again."
            )
    size = preprocessor.get("size") or {}
    mean = preprocessor.get("image_mean") or _MEAN
    std = preprocessor.get("image_std") or _STD
    token_pixels = (config.patch_size * config.spatial_merge_size) ** 2
    return VisionSection(
        patch_size=config.patch_size,
        temporal_patch_size=config.temporal_patch_size,
        merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        head_dim=_head_dim(config),
        rope_theta=config.rope_theta,
        min_pixels=int(preprocessor.get("min_pixels") or size.get("shortest_edge") or _MIN_PIXELS),
        max_pixels=int(preprocessor.get("max_pixels") or size.get("longest_edge") or _MAX_PIXELS),
        video_min_pixels=int(preprocessor.get("video_min_pixels") or _VIDEO_MIN_TOKENS * token_pixels),
        video_max_pixels=_VIDEO_MAX_TOKENS * token_pixels,
        video_total_pixels=int(_VIDEO_CONTEXT_SHARE * max_positions) * token_pixels,
        video_fps=_VIDEO_FPS,
        video_min_frames=_VIDEO_MIN_FRAMES,
        video_max_frames=_VIDEO_MAX_FRAMES,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )


def _head_dim(config: VisionConfig) -> int:
    head_dim, rest = divmod(config.hidden_size, config.num_heads)
    if rest or head_dim % 4:
        raise CheckpointError(
            f"vision_config.hidden_size is {config.hidden_size}: each of its {config.num_heads} heads needs a multiple "
            "of 4 (rotary pairs for rows and for columns)."
        )
    return head_dim


@dataclass(frozen=True)
class _Plan:
    """The values that all layers share: graph inputs, and shapes that are computed once."""

    cos: str
    sin: str
    slots: str
    unslots: str
    lengths: str
    offset: str
    windowed_shape: str
    flat_shape: str


def build(weights: Scope, config: VisionConfig, precision: Precision) -> GraphBuilder:
    """The graph `vision_encoder`.

    Inputs, for pictures of one grid (rows x columns = patches):
        patches: float32 [temporal, patches, channels * temporal_patch * patch * patch], in merge-group order.
        order: int64 [patches], window order -> merge-group order.
        cos, sin: float32 [patches, head_dim / 2], rotary angles in window order.
        slots: int64 [windows, slots], the patch (in window order) at every place of a window. Places beyond a window's
            length hold any valid index.
        unslots: int64 [patches], the place in `slots`, flattened, of every patch.
        lengths: int32 [temporal * windows], patches of every window.
        restore: int64 [tokens], picture order -> window order of the merged tokens.
    Output: `embeds` float32 [temporal, tokens, out_hidden_size] in the reference's (picture) order.

    Window attention pads windows at the right and bottom edge to the size of the largest. Full attention has neither
    mask nor bias, so the kernel works in tiles: memory grows with the patches, not with their square.

    Args:
        weights: the checkpoint's part below `PREFIX`.
        config: the encoder's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.

    Raises:
        CheckpointError: a weight is missing or a size cannot be divided into heads.
    """
    width, head_dim = config.hidden_size, _head_dim(config)
    group = config.spatial_merge_size**2
    kernel = (config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
    values = kernel[0] * kernel[1] * kernel[2] * kernel[3]
    graph = GraphBuilder(ROLE, formats(ROLE, precision))
    patches = graph.input("patches", ["temporal", "patches", values])
    order = graph.input("order", ["patches"], "int64")
    plan = _plan(graph, patches, head_dim, width)
    restore = graph.input("restore", ["tokens"], "int64")

    projection = weights("patch_embed.proj.weight", (width, *kernel)).map(
        lambda value: value.reshape(width, values), (width, values)
    )
    x = graph.linear(patches, projection, "/vision/patch_embed", "patch_embedding")
    x = graph.op("Gather", [x, order], "/vision/order", axis=1)
    for layer in range(config.depth):
        full = layer in config.fullatt_block_indexes
        x = _block(graph, weights.scope(f"blocks.{layer}"), config, x, f"/vision/blocks.{layer}", plan=plan, full=full)

    x = graph.rms_norm(x, weights("merger.ln_q.weight", (width,)), "/vision/merger/ln_q", _NORM_EPSILON)
    x = graph.op("Reshape", [x, graph.const([0, -1, group * width])], "/vision/merger/groups")
    x = _linear(graph, weights.scope("merger.mlp.0"), x, "/vision/merger/mlp.0", (group * width, group * width))
    x = graph.op("Gelu", [x], "/vision/merger")
    x = _linear(
        graph, weights.scope("merger.mlp.2"), x, "/vision/merger/mlp.2", (config.out_hidden_size, group * width)
    )
    x = graph.op("Gather", [x, restore], "/vision/restore", axis=1)
    graph.output(x, "embeds", ["temporal", "tokens", config.out_hidden_size])
    return graph


def _plan(graph: GraphBuilder, patches: str, head_dim: int, width: int) -> _Plan:
    cos, sin = (graph.input(name, ["patches", head_dim // 2]) for name in ("cos", "sin"))
    slots = graph.input("slots", ["windows", "slots"], "int64")
    unslots = graph.input("unslots", ["patches"], "int64")
    lengths = graph.input("lengths", ["temporal_windows"], "int32")
    rest, features = graph.const([-1]), graph.const([width])
    size = graph.op("Shape", [slots], "/vision/plan/slots", start=1, end=2)
    temporal = graph.op("Shape", [patches], "/vision/plan/temporal", start=0, end=1)
    return _Plan(
        cos=cos,
        sin=sin,
        slots=slots,
        unslots=unslots,
        lengths=lengths,
        offset=graph.const([0]),
        windowed_shape=graph.op("Concat", [rest, size, features], "/vision/plan/windowed", axis=0),
        flat_shape=graph.op("Concat", [temporal, rest, features], "/vision/plan/flat", axis=0),
    )


def _linear(graph: GraphBuilder, part: Scope, x: str, path: str, shape: tuple[int, int]) -> str:
    return graph.linear(x, part("weight", shape), path, "matrices", bias=part("bias", shape[:1]))


def _block(
    graph: GraphBuilder, part: Scope, config: VisionConfig, x: str, path: str, *, plan: _Plan, full: bool
) -> str:
    width, wide = config.hidden_size, config.intermediate_size
    normed = graph.rms_norm(x, part("norm1.weight", (width,)), f"{path}/norm1", _NORM_EPSILON)
    q, k, v = (
        _linear(graph, part.scope(f"attn.{name}"), normed, f"{path}/attn/{name}", (width, width)) for name in "qkv"
    )
    q, k = (
        graph.op(
            "RotaryEmbedding",
            [value, plan.offset, plan.cos, plan.sin],
            f"{path}/attn/{name}_rope",
            domain=CONTRIB,
            num_heads=config.num_heads,
        )
        for name, value in (("q", q), ("k", k))
    )
    attended = _attention(graph, (q, k, v), config.num_heads, plan, f"{path}/attn", full=full)
    out = _linear(graph, part.scope("attn.proj"), attended, f"{path}/attn/proj", (width, width))
    norm2 = part("norm2.weight", (width,))
    normed, x = graph.skip_rms_norm(x, out, norm2, f"{path}/norm2", _NORM_EPSILON)
    gate = _linear(graph, part.scope("mlp.gate_proj"), normed, f"{path}/mlp/gate_proj", (wide, width))
    up = _linear(graph, part.scope("mlp.up_proj"), normed, f"{path}/mlp/up_proj", (wide, width))
    h = graph.op("Mul", [graph.silu(gate, f"{path}/mlp"), up], f"{path}/mlp")
    h = _linear(graph, part.scope("mlp.down_proj"), h, f"{path}/mlp/down_proj", (width, wide))
    return graph.op("Add", [x, h], f"{path}/mlp/residual")


def _attention(
    graph: GraphBuilder, qkv: tuple[str, str, str], num_heads: int, plan: _Plan, path: str, *, full: bool
) -> str:
    if full:
        return graph.op("MultiHeadAttention", qkv, path, domain=CONTRIB, num_heads=num_heads)
    windowed = []
    for name, value in zip("qkv", qkv, strict=True):
        gathered = graph.op("Gather", [value, plan.slots], f"{path}/{name}_windows", axis=1)
        windowed.append(graph.op("Reshape", [gathered, plan.windowed_shape], f"{path}/{name}_windows"))
    inputs = [*windowed, "", plan.lengths]
    x = graph.op("MultiHeadAttention", inputs, path, domain=CONTRIB, num_heads=num_heads)
    x = graph.op("Reshape", [x, plan.flat_shape], f"{path}/flat")
    return graph.op("Gather", [x, plan.unslots], f"{path}/flat", axis=1)
