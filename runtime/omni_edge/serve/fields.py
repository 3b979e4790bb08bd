"""Reading JSON that a stranger sent: each field by its name and type, each refusal with its path."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from omni_edge.serve.faults import RequestError


def parse_json(data: str | bytes) -> Fields:
    """The object that `data` holds.

    Raises:
        RequestError: it is no JSON, or no object.
    """
    try:
        return Fields(json.loads(data, parse_constant=_no_constant))
    # RecursionError: brackets within brackets. ValueError: no JSON, no UTF-8, or integers of thousands of digits.
    except (ValueError, RecursionError):
        raise RequestError("The request is not valid JSON. Send one JSON object.", code="invalid_json") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


class Fields:
    """A JSON object.

    Args:
        value: as parsed.
        path: where it stands in the request.

    Raises:
        RequestError: it is no object.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise RequestError(
                f"{path or 'The request'} must be a JSON object.", code="invalid_type", param=path or None
            )
        self._value: dict[str, Any] = value
        self.path = path

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def __contains__(self, name: str) -> bool:
        """Whether the field is there, if only as null."""
        return name in self._value

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(name) is not None

    def as_dict(self) -> dict[str, Any]:
        """All fields as they are."""
        return dict(self._value)

    def raw(self, name: str) -> Any:
        """The field as it is; None where it is missing."""
        return self._value.get(name)

    def names(self) -> list[str]:
        """All fields that are not null."""
        return [name for name, value in self._value.items() if value is not None]

    def text(self, name: str, default: str | None = None, *, longest: int = 1 << 16) -> str:
        """A string; required where there is no default."""
        value = self._required(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string", "invalid_type")
        if len(value) > longest:
            raise self.wrong(name, f"has {len(value)} characters; {longest} is the most", "string_above_max_length")
        # A lone surrogate is valid JSON, and no text.
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise self.wrong(name, "is not valid Unicode")
        return value

    def optional_text(self, name: str, *, longest: int = 1 << 16) -> str | None:
        """A string, or None where it is missing."""
        return self.text(name, longest=longest) if self.has(name) else None

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str:
        """One of some strings."""
        value = self.text(name, default)
        if value not in choices:
            raise self.wrong(name, f"must be one of {', '.join(choices)}")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer within bounds, or None where it is missing."""
        if not self.has(name):
            return None
        value = self._value[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "must be an integer", "invalid_type")
        if not low <= value <= high:
            raise self.wrong(name, f"must be from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within bounds, or None where it is missing."""
        if not self.has(name):
            return None
        value = self._value[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "must be a number", "invalid_type")
        if not low <= value <= high or not math.isfinite(value):
            raise self.wrong(name, f"must be from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._value.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false", "invalid_type")
        return value

    def object(self, name: str) -> Fields | None:
        """An object, or None where it is missing."""
        return Fields(self._value[name], self.at(name)) if self.has(name) else None

    def items(self, name: str, most: int) -> list[Any]:
        """A list; empty where it is missing."""
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list", "invalid_type")
        if len(value) > most:
            raise self.wrong(name, f"has {len(value)} entries; {most} is the most", "array_above_max_length")
        return value

    def objects(self, name: str, most: int) -> list[Fields]:
        """A list of objects."""
        return [Fields(value, f"{self.at(name)}[{index}]") for index, value in enumerate(self.items(name, most))]

    def strings(self, name: str, most: int, longest: int = 1 << 10) -> list[str]:
        """A list of strings."""
        values = Fields({str(index): value for index, value in enumerate(self.items(name, most))}, self.at(name))
        return [values.text(str(index), longest=longest) for index in range(len(values.names()))]

    def refuse(self, *names: str) -> None:
        """Refuses fields that would change the result and are not supported, unless they ask for nothing."""
        for name in names:
            if self._value.get(name) not in (None, False, [], {}):
                raise self.wrong(name, "is not supported by this server; leave it out", "unsupported_parameter")

    def wrong(self, name: str, what: str, code: str = "invalid_value") -> RequestError:
        """The error of a field."""
        return RequestError(f"{self.at(name)} {what}.", code=code, param=self.at(name), status=HTTPStatus.BAD_REQUEST)

    def _required(self, name: str, default: str | None) -> Any:
        value = self._value.get(name, default)
        value = default if value is None else value
        if value is None:
            raise self.wrong(name, "is missing", "missing_required_parameter")
        return value
