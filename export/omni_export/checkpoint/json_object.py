"""JSON objects of a checkpoint, read value by value: a wrong one is an error that names its file and key."""

from __future__ import annotations

import json
import math
import typing
from pathlib import Path
from typing import Any

from omni_edge.errors import CheckpointError

# Sizes, ids and lengths fit into 31 bits; anything larger is damage.
_MAXIMUM = (1 << 31) - 1
_LFS_MARK = b"version https://git-lfs"
_SHOWN_CHARACTERS = 60


class JsonObject:
    """An object in a JSON file; null is as good as absent.

    Args:
        raw: the object.
        file: the file's name, for messages.
        key: the object's own key in the file, "" at the top.
    """

    def __init__(self, raw: dict[str, Any], file: str, key: str = "") -> None:
        self.raw = raw
        self._file = file
        self._key = key

    def __contains__(self, name: str) -> bool:
        return self.raw.get(name) is not None

    def get(self, name: str) -> Any:
        """The value as it is; None where there is none."""
        return self.raw.get(name)

    def named(self, name: str) -> str:
        """The full key of `name`, for messages."""
        return f"{self._key}.{name}" if self._key else name

    @property
    def where(self) -> str:
        """The file and the object's own key, for messages."""
        return f"{self._file}: {self._key}" if self._key else self._file

    def integer(self, *names: str, default: int | None = None, minimum: int = 0) -> int:
        """The first of `names` that is there, at least `minimum`; `default` where none is."""
        name, value = self._first(names, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _MAXIMUM:
            raise self.wrong(name, f"an integer from {minimum} to {_MAXIMUM}")
        return value

    def number(self, *names: str, default: float | None = None, minimum: float = 0.0) -> float:
        """The first of `names` that is there, finite and at least `minimum`; `default` where none is."""
        name, value = self._first(names, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value) or value < minimum:
            raise self.wrong(name, f"a number from {minimum:g}")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """The string `name`; `default` where there is none."""
        value = self._first((name,), default)[1]
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """The truth value `name`; `default` where there is none."""
        value = self._first((name,), default)[1]
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def integers(self, name: str, default: tuple[int, ...], *, minimum: int = 0) -> tuple[int, ...]:
        """The list `name`, each item at least `minimum`; `default` where there is none."""
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, list) or not all(_is_index(item, minimum) for item in value):
            raise self.wrong(name, f"a list of integers from {minimum}")
        return tuple(value)

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """The list `name` of finite numbers, as many as in `default`, which stands where there is none."""
        value = self.raw.get(name)
        if value is None:
            return default
        fits = isinstance(value, list) and len(value) == len(default)
        if not fits or not all(isinstance(item, int | float) and _is_finite(item) for item in value):
            raise self.wrong(name, f"a list of {len(default)} numbers")
        return tuple(map(float, value))

    def section(self, name: str) -> JsonObject:
        """The object `name`."""
        value = self._first((name,), None)[1]
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return JsonObject(value, self._file, self.named(name))

    def optional_section(self, name: str) -> JsonObject:
        """The object `name`; an empty one where there is none."""
        return self.section(name) if name in self else JsonObject({}, self._file, self.named(name))

    def fill(self, kind: type[Any], **known: Any) -> Any:
        """The dataclass `kind` of sizes, from the keys that carry its fields' names; `known` wins.

        Fields are int, float, tuple[int, ...] or tuple[tuple[int, ...], ...]; a field's default stands where its key
        is absent. A size is at least 1, an index (a field that ends in `_layers` or `_indexes`) at least 0.
        """
        values: dict[str, Any] = {}
        for name, hint in typing.get_type_hints(kind).items():
            if name in known or name not in self:
                continue
            minimum = 0 if name.endswith(("_layers", "_indexes")) else 1
            if hint is int:
                values[name] = self.integer(name, minimum=1)
            elif hint is float:
                values[name] = self.number(name)
            elif hint == tuple[int, ...]:
                values[name] = self.integers(name, (), minimum=minimum)
            else:
                lists = self.raw[name]
                if not isinstance(lists, list):
                    raise self.wrong(name, "a list of lists")
                whole = JsonObject({str(index): item for index, item in enumerate(lists)}, self._file, self.named(name))
                values[name] = tuple(whole.integers(str(index), (), minimum=1) for index in range(len(lists)))
        return kind(**{**values, **known})

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """The error for a value that is not what is expected."""
        shown = json.dumps(self.raw.get(name))[:_SHOWN_CHARACTERS]
        return CheckpointError(
            f"{self._file}: {self.named(name)} must be {expected}, not {shown}. Download the checkpoint again."
        )

    def _first(self, names: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for name in names:
            if name in self:
                return name, self.raw[name]
        if default is None:
            raise CheckpointError(
                f"{self._file} has no {self.named(names[0])}. Is it the {self._file} of a Qwen2.5-Omni model?"
            )
        return names[0], default


def read_json(path: Path) -> JsonObject:
    """The object in the JSON file `path`.

    Raises:
        CheckpointError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(read_bytes(path).decode("utf-8"))
        # An escaped half of a surrogate pair is valid JSON and no text: nothing could print or save it.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object. Download it again.")
    return JsonObject(value, path.name)


def read_bytes(path: Path) -> bytes:
    """The content of a small file.

    Raises:
        CheckpointError: the file cannot be read, or is only a Git LFS pointer.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Give the folder of a complete checkpoint.") from None
    except OSError as error:
        raise unreadable(path, error) from None
    refuse_lfs_pointer(path, content)
    return content


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not read."""
    return CheckpointError(f"{path} cannot be read ({error.strerror}). Check its permissions, or download it again.")


def refuse_lfs_pointer(path: Path, beginning: bytes) -> None:
    """Raises CheckpointError where a file's `beginning` is that of a Git LFS pointer."""
    if beginning.startswith(_LFS_MARK):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself. Run 'git lfs pull' in the checkpoint's folder, or "
            "download the checkpoint again."
        )


def _is_index(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= _MAXIMUM


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
