"""Owns the reading of the history: filtered pages, the check of its chain, and exports that stream."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.errors import ConfigError
from revector.formats.cells import guarded
from revector.history.events import broken_links
from revector.history.sentences import sentence
from revector.registry.collections import read_collection

COLUMNS = (
    "seq",
    "at",
    "epoch",
    "actor",
    "kind",
    "gen",
    "revision",
    "reason",
    "dag_id",
    "run_id",
    "task_id",
    "detail",
    "hash",
)
"""Of an export; ``detail`` is JSON text, and what precedes it was taken out of it or of the generation's row."""

BATCH = 2_000

_HEAD = re.compile(r"(?:(?P<seq>[0-9]{1,18}):)?(?P<hash>[0-9a-f]{64})")

_TESTS = {
    "kinds": "e.kind = ANY(CAST(:kinds AS text[]))",
    "actor": "strpos(lower(e.actor), lower(:actor)) > 0",
    "gen": "e.gen = :gen",
    "since": "e.at >= :since",
    "until": "e.at < :until",
    "run": "e.detail #>> '{airflow,run_id}' = :run",
    "text": "strpos(lower(concat_ws(' ', e.kind, e.actor, g.revision, e.detail::text)), lower(:text)) > 0",
}

# A gate's result is saved in the transaction of its event, a moment before it.
_RESULT = (
    "CASE WHEN e.kind IN ('gate', 'gate_again', 'gate_failed') THEN (SELECT r.id FROM gate_result r WHERE r.gen = "
    "e.gen AND r.kind = 'recall' AND r.at <= e.at ORDER BY r.id DESC LIMIT 1) END AS gate_result"
)
_FROM = "FROM event e LEFT JOIN generation g ON g.gen = e.gen WHERE e.cid = :cid"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events: all that meet every test that is not None.

    ``actor`` and ``text`` are looked for as parts, in any case; ``text`` in kind, person, revision and detail.
    ``since`` is inclusive, ``until`` is not. ``run`` is an Airflow run.
    """

    kinds: tuple[str, ...] | None = None
    actor: str | None = None
    gen: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    run: str | None = None
    text: str | None = None

    def condition(self) -> tuple[str, dict[str, object]]:
        """Return the tests as SQL over event ``e`` and generation ``g``, beginning with AND, and their values."""
        given = {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}
        given = {name: list(value) if name == "kinds" else value for name, value in given.items()}
        return "".join(f" AND {_TESTS[name]}" for name in given), given


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """What a check of the whole chain found.

    ``broken`` are the events that do not follow from the one before. ``head`` is the newest event's hash: noted
    elsewhere, it shows later that nothing up to it was rewritten and nothing cut off, which no chain shows by itself.
    ``missing`` is such a head, if one was given and no event has it.
    """

    events: int
    head: str | None
    broken: tuple[int, ...]
    missing: str | None
    at: datetime

    @property
    def intact(self) -> bool:
        """Whether every event follows from the one before, and the given head is among them."""
        return not self.broken and self.missing is None


def newest(connection: sa.Connection, name: str) -> int:
    """Return the number of the newest event, 0 before the first."""
    found = connection.scalar(
        sa.text("SELECT max(seq) FROM event WHERE cid = (SELECT cid FROM collection WHERE name = :name)"),
        {"name": name},
    )
    return int(found or 0)


def read_page(
    connection: sa.Connection, name: str, wanted: EventFilter, *, before: int | None = None, limit: int = 50
) -> dict[str, object]:
    """Return a page of events, newest first: those below the number ``before``, at most ``limit``.

    ``older`` is the ``before`` of the next page, None at the end; ``matching`` counts the events of all pages and
    ``first`` is the place of this page's first among them, 1 for the newest. An event has a ``sentence``, and a gate's
    names its ``gate_result``.
    """
    cid = read_collection(connection, name).cid
    tests, values = wanted.condition()
    rows = connection.execute(
        sa.text(
            f"SELECT e.seq, e.at, e.epoch, e.actor, e.kind, e.gen, g.revision, e.detail, e.hash, {_RESULT} {_FROM}"
            f"{tests} AND e.seq < :before ORDER BY e.seq DESC LIMIT :limit"
        ),
        {**values, "cid": cid, "before": before or 2**63 - 1, "limit": limit + 1},
    ).all()
    matching, newer = connection.execute(
        sa.text(f"SELECT count(*), count(*) FILTER (WHERE e.seq >= :before) {_FROM}{tests}"),
        {**values, "cid": cid, "before": before or 2**63 - 1},
    ).one()
    events = [
        {**row._mapping, "at": row.at.isoformat(), "sentence": sentence(row.kind, row.detail)} for row in rows[:limit]
    ]
    older = events[-1]["seq"] if len(rows) > limit else None
    return {"events": events, "older": older, "first": newer + 1, "matching": matching}


def choices(connection: sa.Connection, name: str) -> dict[str, list[object]]:
    """Return what there is to filter by: ``kinds``, ``actors`` and ``generations`` with their revisions."""
    cid = {"cid": read_collection(connection, name).cid}
    words = "SELECT DISTINCT {0} FROM event WHERE cid = :cid ORDER BY {0}"
    generations = connection.execute(
        sa.text("SELECT gen, revision FROM generation WHERE cid = :cid ORDER BY gen DESC"), cid
    )
    return {
        "kinds": list(connection.scalars(sa.text(words.format("kind")), cid)),
        "actors": list(connection.scalars(sa.text(words.format("actor")), cid)),
        "generations": [dict(row._mapping) for row in generations],
    }


def check_chain(connection: sa.Connection, name: str, *, head: str | None = None) -> ChainCheck:
    """Compute every hash of a collection's history again, and look for ``head``, a hash that was noted elsewhere.

    ``head`` is ``HASH`` or ``SEQ:HASH``, 64 hexadecimal digits. Raises ``ConfigError`` for any other.
    """
    cid = read_collection(connection, name).cid
    row = connection.execute(
        sa.text(
            "SELECT count(*) AS events, (SELECT hash FROM event WHERE cid = :cid ORDER BY seq DESC LIMIT 1) AS head, "
            "clock_timestamp() AS at FROM event WHERE cid = :cid"
        ),
        {"cid": cid},
    ).one()
    missing = None if head is None or _is_there(connection, cid, head) else head
    return ChainCheck(row.events, row.head, tuple(broken_links(connection, name)), missing, row.at)


def _is_there(connection: sa.Connection, cid: int, head: str) -> bool:
    given = _HEAD.fullmatch(head.strip().lower())
    if given is None:
        raise ConfigError(
            f"{head!r} is no head of a history. Nothing was checked; give the 64 hexadecimal digits that a webhook, "
            "the metric revector_history_head or `revector history --check` named, or SEQ:HASH."
        )
    seq = None if given["seq"] is None else int(given["seq"])
    there = "SELECT 1 FROM event WHERE cid = :cid AND hash = :hash AND seq = coalesce(CAST(:seq AS numeric), seq)"
    return connection.scalar(sa.text(there), {"cid": cid, "hash": given["hash"], "seq": seq}) is not None


# Exports --------------------------------------------------------------------------------------------------------------


def stream(
    connection: sa.Connection, name: str, wanted: EventFilter, *, limit: int | None = None
) -> Generator[dict[str, Any]]:
    """Yield events as rows of ``COLUMNS``, newest first; memory is flat in their number."""
    cid = read_collection(connection, name).cid
    tests, values = wanted.condition()
    rows = connection.execution_options(yield_per=BATCH).execute(
        sa.text(
            "SELECT e.seq, e.at, e.epoch, e.actor, e.kind, e.gen, g.revision, e.detail ->> 'reason' AS reason, "
            "e.detail #>> '{airflow,dag_id}' AS dag_id, e.detail #>> '{airflow,run_id}' AS run_id, "
            f"e.detail #>> '{{airflow,task_id}}' AS task_id, e.detail, e.hash {_FROM}{tests} ORDER BY e.seq DESC "
            "LIMIT :limit"
        ),
        {**values, "cid": cid, "limit": limit},
    )
    for row in rows:
        yield dict(row._mapping)


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a CSV file with a header; times are ISO 8601, and no cell is a formula."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    for row in rows:
        texts = {**row, "at": row["at"].isoformat(), "detail": _json(row["detail"])}
        writer.writerow({name: guarded(value) for name, value in texts.items()})
        if buffer.tell() > 2**16:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def write_parquet(rows: Iterable[Mapping[str, object]], path: Path) -> int:
    """Write a Parquet file and return the number of rows; times are UTC to the microsecond."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"seq": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "epoch": pa.int64(), "gen": pa.int32()}
    schema = pa.schema([(column, types.get(column, pa.string())) for column in COLUMNS])
    written, batch = 0, list[dict[str, object]]()
    with parquet.ParquetWriter(path, schema) as writer:
        for row in rows:
            batch.append({**row, "detail": _json(row["detail"])})
            if len(batch) == BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                written, batch = written + len(batch), []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return written + len(batch)


def _json(detail: object) -> str:
    return json.dumps(detail, ensure_ascii=False)
