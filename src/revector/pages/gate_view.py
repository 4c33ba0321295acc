"""Owns what the page on a gate is made from: the figures, and what is looked up for them when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from revector.gate.figures import GateFigures


class GatePage(GateFigures):
    """The figures of a gate with what is looked up for them.

    ``measured_at``: where the figures are younger than the verdict; ``exact``: whether they are of exact search.
    ``texts``: query → its text; ``relevant``: query → its relevant items; ``items``: item → its name and the beginning
    of its text, None where that is gone. ``labels_changed``: whether these are of other labels than were measured.
    """

    collection: str | None = None
    measured_at: str | None = None
    exact: bool = False
    texts: Mapping[str, str] = {}
    relevant: Mapping[str, Sequence[str]] = {}
    items: Mapping[str, tuple[str, str | None]] = {}
    labels_changed: bool = False
