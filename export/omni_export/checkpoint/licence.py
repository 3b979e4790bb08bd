"""The licence that a checkpoint states."""

from __future__ import annotations

from pathlib import Path


def stated_licence(folder: Path) -> str:
    """The licence that the checkpoint states: the model card's field, otherwise the licence file's first line."""
    card = folder / "README.md"
    if card.exists():
        lines = card.read_text("utf-8", "replace").splitlines()
        stated = {key: value for key, _, value in (line.partition(":") for line in lines[:40])}
        for key in ("license_name", "license"):
            if stated.get(key, "").strip():
                return stated[key].strip()
    licence = folder / "LICENSE"
    if licence.exists():
        return next((line.strip() for line in licence.read_text("utf-8", "replace").splitlines() if line.strip()), "")
    return "not stated"
