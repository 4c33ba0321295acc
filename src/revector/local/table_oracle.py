"""Owns the judgement of the demo's second act: what searches show against the table, and each answer against its model.

It takes nothing from the code that it judges: texts are read from the application's table, vectors are made by
sentence-transformers, and the product is asked through its functions in SQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.local.record import ApplicationCounts

Embed = Callable[[str, Sequence[str]], npt.NDArray[np.float32]]
"""Model and texts → vectors of length 1, ``(n, dim)``."""

TOLERANCE = 0.002
"""How far a score may be from that of the judge's own vectors: a vector of another text or model is farther off."""

MOST = 1_000
"""Rows that one question can show, and so the most that a table may have here."""

NAMED = 5
WAYS = 3
"""In which the application's questions must have been answered: by its own column, and by two revisions."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What searches show beside what they should, at one moment: ids that are lost, stale or resurrected."""

    when: str
    model: str
    rows: int
    lost: tuple[str, ...]
    stale: tuple[str, ...]
    resurrected: tuple[str, ...]

    def broken(self) -> Iterator[str]:
        """Yield what is wrong, in sentences."""
        for kind in ("lost", "stale", "resurrected"):
            if ids := getattr(self, kind):
                yield f"{self.when}: {len(ids):,} of {self.rows:,} rows are {kind} ({_some(ids)})"


@dataclass(slots=True)
class Answers:
    """What the application's questions were answered with; ``first`` names some of what is wrong."""

    judged: int = 0
    wrong_model: int = 0
    resurrected: int = 0
    first: list[str] = field(default_factory=list)

    def broken(self) -> Iterator[str]:
        """Yield what is wrong, in sentences."""
        if self.wrong_model:
            yield f"{self.wrong_model:,} answers are of an index of another model"
        if self.resurrected:
            yield f"{self.resurrected:,} answers show a row that was deleted before they were asked for"
        yield from self.first


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that searches show at one moment, asked for several times, beside the table's rows: id → text."""

    model: str
    rows: Mapping[str, str]
    asked: npt.NDArray[np.float32]
    scores: Sequence[Mapping[str, float]]
    """For each question that was asked: id → score."""


def see(
    connection: sa.Connection, collection: str, rows: Mapping[str, str], asked: Mapping[str, npt.NDArray[np.float32]]
) -> Seen:
    """Ask for everything. ``asked``: by the model's name, the vectors of the same questions, ``(n, dim)``.

    Raises ``ValueError`` for a table with more rows than one question shows.
    """
    if len(rows) >= MOST:
        raise ValueError(f"{len(rows):,} rows were given; fewer than {MOST:,} can be judged")
    active = connection.execute(
        sa.text("SELECT model, encoder_fp FROM revector.active(:collection)"), {"collection": collection}
    ).one()
    scores = []
    for vector in asked[active.model]:
        found = connection.execute(
            sa.text("SELECT doc_id, score FROM revector.search(:collection, CAST(:vector AS vector), :fp, :most)"),
            {"collection": collection, "vector": json.dumps(vector.tolist()), "fp": active.encoder_fp, "most": MOST},
        )
        scores.append({row.doc_id: row.score for row in found})
    return Seen(active.model, rows, asked[active.model], scores)


def judge(seen: Seen, embed: Embed, when: str) -> Shown:
    """Compare ids and scores with the rows: one is stale if any score is not that of its text by the model."""
    ids = sorted(seen.rows)
    own = dict(zip(ids, embed(seen.model, [seen.rows[one] for one in ids]), strict=True))
    shown, stale = set[str](), set[str]()
    for vector, scores in zip(seen.asked, seen.scores, strict=True):
        shown |= scores.keys()
        stale |= {one for one, score in scores.items() if one in own and _off(score, vector, own[one])}
    lost, resurrected = sorted(seen.rows.keys() - shown), sorted(shown - seen.rows.keys())
    return Shown(when, seen.model, len(ids), tuple(lost), tuple(sorted(stale)), tuple(resurrected))


def told(corpus: Mapping[str, str], lines: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the rows that must be there, id → text: the first ones, and what was acknowledged since."""
    texts = dict(corpus)
    for line in lines:
        if line["op"] == "put":
            texts[line["id"]] = line["text"]
        elif line["op"] == "delete":
            texts.pop(line["id"], None)
    return texts


def compare_table(rows: Mapping[str, str], wanted: Mapping[str, str], when: str) -> Shown:
    """Compare the application's table itself with what it was told."""
    stale = sorted(one for one in rows.keys() & wanted.keys() if rows[one] != wanted[one])
    lost, resurrected = sorted(wanted.keys() - rows.keys()), sorted(rows.keys() - wanted.keys())
    return Shown(when, "", len(wanted), tuple(lost), tuple(stale), tuple(resurrected))


def judge_answers(corpus: Mapping[str, str], lines: Sequence[Mapping[str, Any]], embed: Embed) -> Answers:
    """Judge every answer: each score is that of the asked model and of a text that the row had, and no row was gone."""
    had: dict[str, set[str]] = {doc_id: {text} for doc_id, text in corpus.items()}
    gone: dict[str, float] = {}
    for line in lines:
        if line["op"] == "put":
            had.setdefault(line["id"], set()).add(line["text"])
        elif line["op"] == "delete":
            gone[line["id"]] = line["at"]
    asked = [line for line in lines if line["op"] == "query" and line["ok"]]
    _embed_all(asked, had, embed)
    found = Answers(len(asked))
    for line in asked:
        query = embed(line["model"], [line["query"]])[0]
        wrong = [one for one, score in line["hits"] if one in had and not _any(score, query, had[one], line, embed)]
        dead = [one for one, _ in line["hits"] if one not in had or gone.get(one, np.inf) < line["began"]]
        found.wrong_model += bool(wrong)
        found.resurrected += bool(dead)
        if (wrong or dead) and len(found.first) < NAMED:
            what = f"scores of {_some(wrong)} are not by {line['model']}" if wrong else f"{_some(dead)} was deleted"
            found.first.append(f"asked for {line['query']!r}, answered by {line['revision']}: {what}")
    return found


def _embed_all(asked: Sequence[Mapping[str, Any]], had: Mapping[str, set[str]], embed: Embed) -> None:
    """Embed everything that is needed at once, which is quicker than one by one."""
    wanted: dict[str, dict[str, None]] = {}
    for line in asked:
        texts = wanted.setdefault(line["model"], {})
        texts |= {line["query"]: None} | {text: None for one, _ in line["hits"] for text in had.get(one, ())}
    for model, texts in wanted.items():
        embed(model, list(texts))


def _any(score: float, query: npt.NDArray[np.float32], texts: set[str], line: Mapping[str, Any], embed: Embed) -> bool:
    return any(not _off(score, query, vector) for vector in embed(line["model"], sorted(texts)))


def _off(score: float, query: npt.NDArray[np.float32], vector: npt.NDArray[np.float32]) -> bool:
    return abs(score - float(query @ vector)) > TOLERANCE


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (" …" if len(ids) > NAMED else "")


@dataclass(frozen=True, slots=True)
class ActVerdict:
    """All that was seen; it is as promised if nothing is ``broken``."""

    counts: ApplicationCounts
    looks: Sequence[Shown]
    answers: Answers
    left: Sequence[str]
    """How the catalogue of the application's tables differs from what it was before."""
    failed_writes: Sequence[str]
    failed_queries: Sequence[str]
    wanted: Mapping[str, str]
    """By the moment of a look, the model that must answer then."""

    def broken(self) -> list[str]:
        """Return what is not as promised, in sentences."""
        found = [sentence for one in self.looks for sentence in one.broken()]
        models = {one.when: one.model for one in self.looks}
        for when, model in self.wanted.items():
            if models.get(when) != model:
                found.append(f"{when}: {models.get(when, 'nothing')} answers, not {model}")
        found += self.answers.broken()
        for what, errors in (("writes", self.failed_writes), ("queries", self.failed_queries)):
            if errors:
                found.append(f"{len(errors):,} {what} of the application failed, the first with: {errors[0]}")
        found += self.left
        if len(self.counts.by_revision) < WAYS or not (self.counts.writes and self.counts.deletes):
            found.append(f"the application did not do enough to see anything: {self.counts}")
        return found


_CATALOGUE = """
WITH t AS (
  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS named
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'public' AND c.relname LIKE :named AND c.relkind IN ('r', 'p')
)
SELECT 'table' AS what, named AS name, concat_ws(' ', relkind, relpersistence, relreplident, relrowsecurity,
    relforcerowsecurity, CAST(relowner AS regrole), relacl, reloptions, reltablespace, obj_description(oid)) AS is
  FROM t
UNION ALL SELECT 'column', format('%s.%I', named, attname), concat_ws(' ', format_type(atttypid, atttypmod), attnotnull,
    attidentity, attgenerated, attstorage, attcompression, attcollation, attacl, attoptions, attisdropped,
    pg_get_expr(d.adbin, d.adrelid), col_description(t.oid, attnum))
  FROM t JOIN pg_attribute a ON a.attrelid = t.oid LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL SELECT 'constraint', format('%s.%I', named, conname), concat_ws(' ', pg_get_constraintdef(k.oid),
    convalidated, obj_description(k.oid)) FROM t JOIN pg_constraint k ON k.conrelid = t.oid
UNION ALL SELECT 'index', CAST(indexrelid AS regclass)::text, concat_ws(' ', pg_get_indexdef(indexrelid),
    indisvalid, indisclustered, indisreplident) FROM t JOIN pg_index i ON i.indrelid = t.oid
UNION ALL SELECT 'trigger', format('%s.%I', named, tgname), concat_ws(' ', pg_get_triggerdef(g.oid), tgenabled)
  FROM t JOIN pg_trigger g ON g.tgrelid = t.oid
UNION ALL SELECT 'depends on', named, concat_ws(' ', pg_describe_object(classid, objid, objsubid), deptype)
  FROM t JOIN pg_depend ON (refclassid, refobjid) IN (('pg_class'::regclass, t.oid), ('pg_type'::regclass, t.reltype))
UNION ALL SELECT 'function', CAST(oid AS regprocedure)::text, '' FROM pg_proc WHERE proname ~ '^adopted_[0-9]'
UNION ALL SELECT 'adoption', coalesce(CAST(source AS text), ''), CAST(cid AS text) FROM revector.adoption
ORDER BY 1, 2, 3
"""


def catalogue(connection: sa.Connection, named: str) -> list[tuple[str, str, str]]:
    """Return all that PostgreSQL knows of the tables in ``public`` whose names are LIKE ``named``.

    Columns, privileges, comments, constraints, indexes, triggers, what depends on the tables or their row types, and
    all that revector keeps of any adoption.
    """
    statement = sa.text(_CATALOGUE.replace("::", "\\:\\:"))
    return [(row.what, row.name, row[2]) for row in connection.execute(statement, {"named": named})]


def changed(before: Sequence[tuple[str, str, str]], after: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return what came and what went, in words."""
    was, now = set(before), set(after)
    return [f"{' '.join(one)} was not there before" for one in sorted(now - was)] + [
        f"{' '.join(one)} is there no longer" for one in sorted(was - now)
    ]
