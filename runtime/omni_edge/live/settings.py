"""When a turn of the user begins and ends: one frozen object, checked here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields

from omni_edge.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TurnSettings:
    """The rules of turn taking; lengths in seconds of the microphone's sound.

    Attributes:
        threshold: probability of speech from which a frame counts as speech.
        exit_threshold: probability down to which a frame that follows speech still counts as speech.
        onset: speech that begins a turn. Shorter noises are ignored.
        interruption: speech that interrupts a reply. Shorter noises are ignored, and the reply continues.
        dip: a gap up to this length, between two syllables, does not end a noise or a piece of speech.
        pre_roll: sound before the onset that belongs to the turn.
        speculation: silence after which the reply is computed in advance. It is discarded if the speech continues.
        end_of_turn: silence that ends a turn.
        give_up: silence that ends a turn whose sentence does not sound complete (see `Hearing`).
        echo_tail: half duplex: how long the microphone stays muted after the last sample was played.

    Raises:
        UsageError: a value is out of range or does not fit the others.
    """

    threshold: float = 0.5
    exit_threshold: float = 0.35
    onset: float = 0.2
    interruption: float = 0.5
    dip: float = 0.1
    pre_roll: float = 0.3
    speculation: float = 0.2
    end_of_turn: float = 0.5
    give_up: float = 3.0
    echo_tail: float = 0.25

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            largest = 1.0 if "threshold" in each.name else 60.0
            if not 0 <= value <= largest:
                raise UsageError(f"{each.name} is {value}; it must be from 0 to {largest:g}.")
        for smaller, larger in (
            ("exit_threshold", "threshold"),
            ("onset", "interruption"),
            ("speculation", "end_of_turn"),
            ("end_of_turn", "give_up"),
        ):
            if getattr(self, smaller) > getattr(self, larger):
                raise UsageError(
                    f"{smaller} is {getattr(self, smaller)} and {larger} {getattr(self, larger)}; "
                    f"{smaller} must not be the larger one."
                )
