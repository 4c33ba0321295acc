"""Owns the part of the gate's page on single queries: which changed, and what old and new found for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from revector.pages.charts import Tone, bubbles, figure, key
from revector.pages.markup import printable, section, tag


def changed_queries(data: Mapping[str, Any]) -> Iterator[ET.Element]:
    """Yield how many queries changed, and those that lost and won most, with what old and new found side by side.

    ``data`` is that of ``gate.render``.
    """
    scores = data.get("scores") or {}
    if scores.get("old") and scores.get("new"):
        yield _scatter(scores["old"], scores["new"], data["k"])
    comparison = data.get("comparison") or {}
    kinds: tuple[Tone, ...] = ("lost", "won")
    for kind in kinds:
        if comparison.get(kind):
            changes = (_change(one, data) for one in comparison[kind])
            told = f"recall@{comparison['k']} from old to new. Open one to see what each revision found, best first."
            relevant = " ✓ marks documents that are relevant by the labels." if data.get("relevant") else ""
            yield section(
                f"Which queries {kind} most?",
                tag("p", key(kind, f"The first {len(comparison[kind])}: "), told + relevant, class_="soft"),
                *changes,
            )


def _scatter(old: Mapping[str, float], new: Mapping[str, float], k: int) -> ET.Element:
    lost, won = (sum(sign * (new[query] - old[query]) > 0 for query in old) for sign in (-1, 1))
    return section(
        "How many queries changed, and by how much?",
        figure(
            bubbles(old, new, axis=f"recall@{k} of a query, 0 to 1"),
            "A bubble's area is its number of queries. ",
            key("won", f"Above the line: {won:,} won"),
            ", ",
            key("old", f"on it: {len(old) - lost - won:,} as before"),
            ", ",
            key("lost", f"below it: {lost:,} lost"),
            ".",
        ),
    )


def _change(one: Mapping[str, Any], data: Mapping[str, Any]) -> ET.Element:
    text = (data.get("texts") or {}).get(one["query"], one["query"])
    relevant = set((data.get("relevant") or {}).get(one["query"], ()))
    rankings: Sequence[tuple[Tone, Sequence[str]]] = (("old", one["old_ranking"]), ("new", one["new_ranking"]))
    known = data.get("items") or {}
    sides = [
        tag(
            "div",
            key(role, f"{role} {data[role]['revision'] if data.get(role) else ''}"),
            tag("ol", *(_item(item, known, relevant) for item in items)) if items else tag("p", "nothing"),
        )
        for role, items in rankings
    ]
    missed = sorted(relevant.difference(one["old_ranking"], one["new_ranking"]))
    return tag(
        "details",
        tag("summary", f"{one['old']:.2f} → {one['new']:.2f} ", tag("bdi", printable(text), dir="auto")),
        tag("div", *sides, class_="sides"),
        tag("p", "Relevant, found by neither:", class_="soft") if missed else None,
        tag("ul", *(_item(item, known, relevant) for item in missed), class_="missed") if missed else None,
        class_="change",
    )


def _item(item: str, known: Mapping[str, tuple[str, str | None]], relevant: set[str]) -> ET.Element:
    name, text = known.get(item, (item, None))
    told = tag("span", " gone since", class_="soft") if item in known else None
    if text is not None:
        told = tag("bdi", text, dir="auto", class_="snippet")
    return tag("li", tag("span", f"✓ {name}", class_="relevant") if item in relevant else tag("span", name), told)
