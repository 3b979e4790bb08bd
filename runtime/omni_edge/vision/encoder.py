"""Patches of a picture or video -> embeds for the Thinker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import VisionSection
from omni_edge.errors import UsageError

# Patches that go through the graph together, as whole temporal patches: keeps a long video's memory at some 200 MB.
_PATCHES_PER_RUN = 4096
# Plans kept: a conversation rarely mixes more sizes, and the largest picture's plan is 25 MB.
_PLANS_KEPT = 8

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class WindowPlan:
    """The graph's inputs that depend on the grid alone; every array is read-only.

    Window order: windows from left to right and top to bottom, in each window its merge groups in the same order, in
    each group its patches in the same order.

    Attributes:
        order: int64 [patches], for every patch in window order its place in merge-group order.
        restore: int64 [tokens], for every merged token in picture order its place in window order.
        cos: float32 [patches, head_dim / 2], in window order: rotary pairs of the row, then of the column.
        sin: float32 [patches, head_dim / 2], as cos.
        slots: int64 [windows, patches of the largest window]; beyond a window's length, its last patch again.
        unslots: int64 [patches], the place of every patch in `slots`, flattened.
        lengths: int32 [windows].
    """

    order: NDArray[np.int64]
    restore: NDArray[np.int64]
    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    slots: NDArray[np.int64]
    unslots: NDArray[np.int64]
    lengths: NDArray[np.int32]


def _frozen(values: NDArray[Any], dtype: type[T]) -> NDArray[T]:
    array = np.ascontiguousarray(values, dtype)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=_PLANS_KEPT)
def window_plan(section: VisionSection, height: int, width: int) -> WindowPlan:
    """The plan of a grid of `height` x `width` patches, both multiples of the merge size; thread-safe, the last few
    are kept (reference: `get_vision_window_index`, `get_vision_position_ids`, `Qwen2_5OmniVisionRotaryEmbedding`).
    """
    merge = section.merge_size
    side = section.window_size // merge // section.patch_size
    rows, columns = np.divmod(np.arange((height // merge) * (width // merge)), width // merge)
    windows = rows // side * -(-(width // merge) // side) + columns // side
    tokens = np.argsort(windows, kind="stable")
    order = (tokens[:, None] * merge**2 + np.arange(merge**2)).reshape(-1)

    inner_row, inner_column = np.divmod(np.arange(merge**2), merge)
    patch_rows = (rows[tokens, None] * merge + inner_row).reshape(-1)
    patch_columns = (columns[tokens, None] * merge + inner_column).reshape(-1)
    axis = section.head_dim // 2
    # In float64, then rounded: the same on every machine and in every language.
    exponent = np.arange(0, axis, 2, dtype=np.float32) / np.float32(axis)
    powers = np.float64(np.float32(section.rope_theta)) ** exponent.astype(np.float64)
    frequencies = np.float32(1) / powers.astype(np.float32)
    positions = np.stack([patch_rows, patch_columns], axis=1).astype(np.float32)
    angles = (positions[:, :, None] * frequencies).reshape(len(positions), -1).astype(np.float64)

    lengths = np.bincount(windows) * merge**2
    starts = np.cumsum(lengths) - lengths
    places = np.arange(lengths.max())
    slots = starts[:, None] + np.minimum(places, lengths[:, None] - 1)
    unslots = np.flatnonzero(places < lengths[:, None])
    return WindowPlan(
        order=_frozen(order, np.int64),
        restore=_frozen(np.argsort(tokens), np.int64),
        cos=_frozen(np.cos(angles), np.float32),
        sin=_frozen(np.sin(angles), np.float32),
        slots=_frozen(slots, np.int64),
        unslots=_frozen(unslots, np.int64),
        lengths=_frozen(lengths, np.int32),
    )


class VisionEncoder:
    """The vision encoder over pictures and videos; immutable but for the plans of the last few grids.

    Nothing crosses a temporal patch (reference: `Qwen2_5OmniVisionEncoder`), so a long video goes through a few at a
    time.

    Args:
        graph: the bundle's `vision_encoder`.
        section: the manifest's vision section.
    """

    def __init__(self, graph: Graph, section: VisionSection) -> None:
        self._graph = graph
        self._section = section
        self._values = graph.inputs[graph.input_name("patches")].shape[-1]

    def encode(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> NDArray[np.float32]:
        """The embeds of one picture or video, in the reference's order: temporal patch, row, column.

        Args:
            patches: float32 [temporal, height * width, values], in merge-group order.
            grid: temporal patches, then height and width in patches.

        Returns:
            float32 [temporal * height * width / merge_size**2, hidden].

        Raises:
            UsageError: the patches do not fill the grid, or the grid is no multiple of the merge size.
        """
        temporal, height, width = grid
        merge = self._section.merge_size
        if (
            height % merge
            or width % merge
            or patches.shape != (temporal, height * width, self._values)
            or not patches.size
        ):
            raise UsageError(
                f"Patches of shape {list(patches.shape)} do not fit the grid {list(grid)}: the vision encoder takes "
                f"[temporal, height * width, {self._values}] with height and width multiples of {merge}. "
                "Prepare pictures with an ImageProcessor."
            )
        plan = window_plan(self._section, height, width)
        step = max(1, _PATCHES_PER_RUN // (height * width))
        pieces = [self._run(patches[start : start + step], plan) for start in range(0, temporal, step)]
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]

    def _run(self, patches: NDArray[np.float32], plan: WindowPlan) -> NDArray[np.float32]:
        feeds: dict[str, NDArray[Any]] = {
            "patches": patches,
            "order": plan.order,
            "cos": plan.cos,
            "sin": plan.sin,
            "slots": plan.slots,
            "unslots": plan.unslots,
            "lengths": np.tile(plan.lengths, len(patches)),
            "restore": plan.restore,
        }
        embeds = self._graph.run(feeds, ["embeds"])[0]
        return embeds.reshape(-1, embeds.shape[-1])
