"""Owns score cut-offs by name: the similarity from which an application shows a result, a number for each generation.

A number means something on the scores of one model only. So each belongs to a generation, and what moves the alias
moves them with it. A person chooses it; for the generation that may go live next, the gate maps it from the active one.
"""

from __future__ import annotations

import re
from collections.abc import Collection as Several
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from revector.errors import ConfigError, StateError
from revector.registry.collections import Generation, read_generation
from revector.registry.control import Control
from revector.stores.metrics import no_score

NAMES = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class NamedCutoff:
    """One cut-off of one generation: ``score``, by its index's metric, None where the gate could not tell it.

    ``original``: the number on the model before, from which the gate mapped it; None: a person chose ``score``.
    """

    score: float | None
    original: float | None

    @property
    def chosen(self) -> bool:
        """Whether a person chose it; the gate leaves it then."""
        return self.original is None


def read_cutoffs(connection: sa.Connection, gen: int) -> dict[str, NamedCutoff]:
    """Return the cut-offs of a generation by name."""
    rows = connection.execute(
        sa.text("SELECT name, score, original FROM cutoff WHERE gen = :gen ORDER BY name"), {"gen": gen}
    )
    return {row.name: NamedCutoff(row.score, row.original) for row in rows}


def read_scores(connection: sa.Connection, gen: int) -> dict[str, float]:
    """Return the numbers that a generation's answers are held against, by name."""
    return {name: one.score for name, one in read_cutoffs(connection, gen).items() if one.score is not None}


def choose(control: Control, scores: Mapping[str, float], revision: str | None = None) -> Generation:
    """Set cut-offs of a live generation, by default the active one, to the numbers that a person chose.

    Raises ``ConfigError`` for a name or number that cannot be one, ``StateError`` where no such generation is live.
    """
    for name in scores:
        if not NAMES.fullmatch(name):
            raise ConfigError(
                f"cut-off {name!r:.80}: a name is 1 to 63 of a-z, 0-9, _ and -, beginning with a letter. Nothing was "
                "changed."
            )
    generation = _live(control, revision)
    for name, score in scores.items():
        if wrong := no_score(score, generation.spec.index.metric):
            raise ConfigError(f"cut-off {name}: {wrong}. Nothing was changed.")
    before = read_scores(control.connection, generation.gen)
    for name, score in scores.items():
        _put(control, generation.gen, name, score, None)
    facts = {"set": dict(scores), "before": {name: before[name] for name in scores if name in before}}
    control.record("cutoffs", generation.gen, revision=generation.revision, **facts)
    return generation


def drop(control: Control, names: Several[str]) -> None:
    """Take cut-offs away from every live generation. Raises ``StateError`` for one that none of them has."""
    live = control.collection.live
    known = {name for gen in live for name in read_cutoffs(control.connection, gen)}
    if unknown := sorted(set(names) - known):
        raise StateError(
            f"cut-offs {', '.join(unknown)} were to be dropped, there are {', '.join(sorted(known)) or 'none'}. "
            "Nothing was changed."
        )
    control.connection.execute(
        sa.text("DELETE FROM cutoff WHERE gen = ANY (:live) AND name = ANY (:names)"),
        {"live": list(live), "names": list(names)},
    )
    control.record("cutoffs", dropped=sorted(names))


def keep_mapped(control: Control, gen: int, mapped: Mapping[str, NamedCutoff]) -> None:
    """Keep what the gate mapped to ``gen``; what a person chose or dropped meanwhile stays as that person left it."""
    active = control.collection.active_gen
    wanted = {} if active is None else read_cutoffs(control.connection, active)
    there = read_cutoffs(control.connection, gen)
    for name, one in mapped.items():
        if name in wanted and not (name in there and there[name].chosen):
            _put(control, gen, name, one.score, one.original)


def changed_since(connection: sa.Connection, generation: Generation) -> list[str]:
    """Return the cut-offs of the active generation whose number the gate has not mapped to ``generation``."""
    names = connection.scalars(
        sa.text(
            "SELECT a.name FROM collection c JOIN cutoff a ON a.gen = c.active_gen LEFT JOIN cutoff n ON n.gen = :gen "
            "AND n.name = a.name WHERE c.cid = :cid AND c.active_gen <> :gen AND (n.gen IS NULL OR n.original IS NOT "
            "NULL AND n.original <> a.score) ORDER BY a.name"
        ),
        {"gen": generation.gen, "cid": generation.cid},
    )
    return list(names)


def refuse_untold(control: Control, generation: Generation) -> None:
    """Raise ``StateError`` where the gate could not tell a cut-off of ``generation``, and nobody chose it since."""
    untold = [name for name, one in read_cutoffs(control.connection, generation.gen).items() if one.score is None]
    if untold:
        raise StateError(
            f"the alias was to move to revision {generation.revision}, for which no number is known of the cut-offs "
            f"{', '.join(untold)}: searches by these names would be refused. The alias was not moved; choose them "
            f"(`revector cutoffs set --revision {generation.revision} {untold[0]}=…`), or `revector cutoffs drop` them."
        )


def moved(connection: sa.Connection, old: int | None, new: int) -> dict[str, object]:
    """Return the cut-offs that a move of the alias takes along, for its event: name → number before and after."""
    before = {} if old is None else read_scores(connection, old)
    after = read_scores(connection, new)
    names = sorted(before.keys() | after.keys())
    return {"cutoffs": {name: [before.get(name), after.get(name)] for name in names}} if names else {}


def _live(control: Control, revision: str | None) -> Generation:
    slots = control.collection
    found = [read_generation(control.connection, gen) for gen in slots.live]
    for one in found:
        if one.revision == revision or (revision is None and one.gen == slots.active_gen):
            return one
    asked = "the active revision" if revision is None else f"revision {revision!r:.80}"
    live = ", ".join(one.revision for one in found) or "none"
    raise StateError(
        f"cut-offs of {asked} of {slots.name!r} were to be set, and it is not live (live: {live}). Nothing was changed."
    )


def _put(control: Control, gen: int, name: str, score: float | None, original: float | None) -> None:
    control.must_hit_one(
        "INSERT INTO cutoff (gen, name, score, original) VALUES (:gen, :name, :score, :original) "
        "ON CONFLICT (gen, name) DO UPDATE SET score = EXCLUDED.score, original = EXCLUDED.original",
        gen=gen,
        name=name,
        score=score,
        original=original,
    )
