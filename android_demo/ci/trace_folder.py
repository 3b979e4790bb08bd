"""The folder of a recording: a description, and one file for each array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Trace:
    """A recording; arrays that are added to a folder that has some take new names.

    Attributes:
        folder: holds `trace.json` and one `.bin` file for each array.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._arrays = len(list(folder.glob("*.bin")))

    def array(self, values: NDArray[Any]) -> dict[str, Any]:
        """Writes an array; returns its description."""
        name = f"{self._arrays}.bin"
        self._arrays += 1
        array = np.ascontiguousarray(values)
        (self.folder / name).write_bytes(array.tobytes())
        return {"file": name, "dtype": array.dtype.name, "shape": list(array.shape)}

    def read(self, described: dict[str, Any]) -> NDArray[Any]:
        """The array of a description."""
        return np.fromfile(self.folder / described["file"], described["dtype"]).reshape(described["shape"])

    def write(self, content: dict[str, Any]) -> None:
        """Writes the description of everything."""
        (self.folder / "trace.json").write_text(json.dumps(content), "utf-8")

    def content(self) -> dict[str, Any]:
        """The description of everything."""
        content: dict[str, Any] = json.loads((self.folder / "trace.json").read_text("utf-8"))
        return content
