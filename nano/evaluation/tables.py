"""The evaluation's results as Markdown: a row for each figure, a column for each bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Sets with a row for each room.
_BY_ROOM = ("spoken_unseen_combinations", "spoken_unseen_voice")
_ROOMS = ("clean", "noisy")
Cell = Callable[[Mapping[str, Any]], str]


def markdown(results: Mapping[str, Any]) -> str:
    """Tables of the results that `nano.evaluation.evaluate.run` returns."""
    bundles: dict[str, Mapping[str, Any]] = results["bundles"]
    machine = results["machine"]
    rows: list[tuple[str, Cell]] = [("replies right to the letter (95 % interval)", _nothing), *_understanding(bundles)]
    rows += [("word errors of spoken replies", _nothing), *_rows(bundles, "speech", _rate)]
    rows += _rows(bundles, "extra_word_errors", _difference)
    rows += [("known by the pitch of its voice", _nothing), *_rows(bundles, "voices", _share)]
    rows += [("megabytes", lambda each: f"{each['bytes'] / 1e6:.1f}")]
    parts = [
        f"{results['date']}, {machine['processor']}, {results['workers']} processes, {results['seconds']} s",
        _table("", bundles, rows),
        f"token2wav alone, on codec tokens of {results['counts']['utterances']} sentences that neither Talker nor "
        f"token2wav was trained on: word errors; mean distance of the log mels (nats) and signal over difference "
        f"(dB), both from {results['reference']}",
        _table("solver", bundles, _rows(bundles, "token2wav", _distance)),
    ]
    return "\n\n".join(parts) + "\n"


def _nothing(_: Mapping[str, Any]) -> str:
    return ""


def _table(corner: str, bundles: Mapping[str, Mapping[str, Any]], rows: list[tuple[str, Cell]]) -> str:
    lines = [f"| {corner} | {' | '.join(f'`{name}`' for name in bundles)} |", "| --- " * (1 + len(bundles)) + "|"]
    lines += [f"| {label} | {' | '.join(cell(each) for each in bundles.values())} |" for label, cell in rows]
    return "\n".join(lines)


def _labels(bundles: Mapping[str, Mapping[str, Any]], key: str) -> list[str]:
    """Every label under `key` whose value is a row, in the order of first occurrence."""
    return list(
        dict.fromkeys(name for each in bundles.values() for name, value in each.get(key, {}).items() if _is_row(value))
    )


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"share", "rate", "difference"} & set(value))


def _cell(show: Callable[[Mapping[str, Any] | None], str], *path: str) -> Cell:
    """Shows the entry at `path` of a bundle's results; empty without one."""

    def cell(bundle: Mapping[str, Any]) -> str:
        entry: Any = bundle
        for key in path:
            entry = entry.get(key) if entry else None
        return show(entry)

    return cell


def _understanding(bundles: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Cell]]:
    rows = []
    for name in _labels(bundles, "understanding"):
        chance = next((each["understanding"][name].get("chance") for each in bundles.values()), None)
        shown = f"`{name}`" if chance is None else f"{name} (chance {chance:.0%})"
        rows.append((shown, _cell(_share, "understanding", name)))
        rooms = _ROOMS if name in _BY_ROOM else ()
        rows += [(f"– {room}", _cell(_share, "understanding", name, "parts", room)) for room in rooms]
    return rows


def _rows(bundles: Mapping[str, Mapping[str, Any]], key: str, show: Callable[..., str]) -> list[tuple[str, Cell]]:
    return [(name, _cell(show, key, name)) for name in _labels(bundles, key)]


def _share(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f"{entry['share']:.1%} of {entry['count']} ({100 * entry['low']:.0f}–{100 * entry['high']:.0f})"


def _rate(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None else f"{entry['rate']:.1%} of {entry['words']} words"


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f"{100 * entry['difference']:+.1f} points ({100 * entry['low']:+.1f} to {100 * entry['high']:+.1f})"


def _distance(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    near = "the reference" if entry["snr_db"] is None else f"{entry['mel_distance']:.3f}, {entry['snr_db']:.0f} dB"
    return f"{entry['rate']:.1%}; {near}"
