"""Owns the part of the gate's page on single queries: which changed, and what old and new found for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree as ET

from revector.measure.comparison import QueryComparison
from revector.pages.charts import Tone, bubbles, figure, key
from revector.pages.gate_view import GatePage
from revector.pages.markup import printable, section, tag


def changed_queries(page: GatePage) -> Iterator[ET.Element]:
    """Yield how many queries changed, and those that lost and won most, with what old and new found side by side."""
    scores, comparison = page.scores, page.comparison
    if scores.get("old") and scores.get("new"):
        yield _scatter(scores["old"], scores["new"], page.k)
    if comparison is None:
        return
    kinds: dict[Tone, tuple[QueryComparison, ...]] = {"lost": comparison.lost, "won": comparison.won}
    for kind, changed in kinds.items():
        if changed:
            changes = (_change(one, page) for one in changed)
            told = f"recall@{comparison.k} from old to new. Open one to see what each revision found, best first."
            relevant = " ✓ marks documents that are relevant by the labels." if page.relevant else ""
            yield section(
                f"Which queries {kind} most?",
                tag("p", key(kind, f"The first {len(changed)}: "), told + relevant, class_="soft"),
                *changes,
            )


def _scatter(old: Mapping[str, float], new: Mapping[str, float], k: int | None) -> ET.Element:
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


def _change(one: QueryComparison, page: GatePage) -> ET.Element:
    text = page.texts.get(one.query, one.query)
    relevant = set(page.relevant.get(one.query, ()))
    rankings: Sequence[tuple[Tone, Sequence[str]]] = (("old", one.old_ranking), ("new", one.new_ranking))
    known = page.items
    sides = [
        tag(
            "div",
            key(role, f"{role} {page.sides[role].revision if role in page.sides else ''}"),
            tag("ol", *(_item(item, known, relevant) for item in items)) if items else tag("p", "nothing"),
        )
        for role, items in rankings
    ]
    missed = sorted(relevant.difference(one.old_ranking, one.new_ranking))
    return tag(
        "details",
        tag("summary", f"{one.old:.2f} → {one.new:.2f} ", tag("bdi", printable(text), dir="auto")),
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
