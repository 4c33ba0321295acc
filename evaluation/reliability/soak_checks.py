"""What a soak looks at when it rests: the document table and live indexes, whole; sizes and garbage; the history."""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from evaluation.reliability.checker import check
from evaluation.reliability.history import Hit, Record, load, save
from evaluation.reliability.soak_roles import Log, opened, waited_for
from evaluation.reliability.soak_site import (
    COLLECTION,
    CONTENT,
    TOLERANCE,
    Site,
    chunks_of,
    model_of,
    text_of,
    vectors_of,
)

from revector.config import Project
from revector.interfaces import Vectors

HEAL_S = 120.0
TABLES = ("document", "pending", "ledger", "event")


# At rest --------------------------------------------------------------------------------------------------------------


def rest(site: Site, process: int, window: int, folder: Path) -> None:
    """Wait until nothing waits, then write down documents, indexes and sizes."""
    log, project = Log(process), waited_for(lambda: opened(site))
    left = _heal(project)
    if left:
        (folder / "rest.json").write_text(json.dumps({"problems": [f"window {window}: {left}"]}))
        return
    call = log.invoke("documents", "rest")
    table = _table(project)
    log.ok(call, "documents", "rest", hits=tuple(table.values()))
    for gen, name, revision in _live(project):
        call = log.invoke("index", "rest", gen=gen)
        log.ok(call, "index", "rest", gen=gen, hits=tuple(_index(project, name, revision, table, folder)))
    save(folder / "rest.jsonl", log.records)
    found = {
        "state": {hit.doc_id: [hit.content, hit.version] for hit in table.values()},
        "sizes": _sizes(project),
        "problems": _invariants(project, window),
    }
    (folder / "rest.json").write_text(json.dumps(found))


def _heal(project: Project) -> str:
    """Wait until the live lane is empty and nobody is in a transaction; say what is left after ``HEAL_S``."""
    waiting = sa.text("SELECT count(*) FROM pending p JOIN slot s USING (gen) WHERE s.role <> 'building'")
    busy = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND "
        "backend_type = 'client backend' AND state <> 'idle'"
    )
    give_up = time.monotonic() + HEAL_S
    while time.monotonic() < give_up:
        with project.engine.begin() as connection:
            if not connection.scalar(waiting) and not connection.scalar(busy):
                return ""
            # What a killed worker had leased would be due after a minute: leases save work, they protect nothing.
            connection.execute(sa.text("UPDATE pending SET lease_until = NULL WHERE attempts > 0 AND state = 'due'"))
        time.sleep(0.5)
    with project.engine.connect() as connection:
        items = connection.execute(sa.text("SELECT * FROM pending LIMIT 3")).all()
        return f"not healed within {HEAL_S:g} s: {connection.scalar(waiting)} items wait, such as {items}"


def _table(project: Project) -> dict[str, Hit]:
    with project.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT doc_id, version, content FROM document WHERE cid = :cid AND NOT deleted ORDER BY doc_id"),
            {"cid": project.cid(COLLECTION)},
        ).all()
    table: dict[str, Hit] = {}
    for row in rows:
        found = CONTENT.search(row.content)
        whole = found is not None and text_of(found[0]) == row.content
        table[row.doc_id] = Hit(row.doc_id, found[0] if found and whole else f"{row.content[:40]!r}", row.version)
    return table


def _live(project: Project) -> list[tuple[int, str, str]]:
    with project.engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT g.gen, g.physical_name, g.revision FROM slot s JOIN generation g USING (gen) "
                "WHERE s.role <> 'building' ORDER BY g.gen"
            )
        )
        return [(row.gen, row.physical_name, row.revision) for row in rows]


def _index(project: Project, name: str, revision: str, table: Mapping[str, Hit], folder: Path) -> Iterator[Hit]:
    """Tell of every row of an index which put's chunk it shows, by embedding that put's text again."""
    model, others = model_of(revision), dict[str, list[str]]()
    fresh = _embedded(model, [hit.content for hit in table.values() if CONTENT.fullmatch(hit.content)])
    with project.engine.connect() as connection:
        rows = connection.execute(
            sa.text(f"SELECT doc_id, chunk, version, start, stop, embedding::real[] AS v FROM {name} ORDER BY 1, 2")
        ).all()
    for row in rows:
        token = table[row.doc_id].content if row.doc_id in table else ""
        if not _shows(row, token, fresh.get(token, ())):
            others = others or _contents(folder)
            found = (one for one in others.get(row.doc_id, []) if _shows(row, one, vectors_of(model, one)))
            token = next(found, "a vector of none of its contents")
        yield Hit(
            row.doc_id, token, row.version, row.chunk, len(chunks_of(token)) if CONTENT.fullmatch(token) else None
        )


def _embedded(model: str, tokens: Sequence[str]) -> dict[str, Vectors]:
    """Embed the chunks of many puts."""
    return {token: vectors_of(model, token) for token in tokens}


def _shows(row: sa.Row[Any], token: str, vectors: Sequence[Any] | Vectors) -> bool:
    if row.chunk >= len(vectors):
        return False
    chunk = chunks_of(token)[row.chunk]
    far = np.abs(vectors[row.chunk] - np.array(row.v, dtype=np.float32)).max() > TOLERANCE
    return not far and (chunk.start, chunk.end) == (row.start, row.stop)


def _contents(folder: Path) -> dict[str, list[str]]:
    """Return every content that a document had or was to have in this window."""
    contents: dict[str, list[str]] = defaultdict(list)
    for doc_id, (token, _) in json.loads((folder / "before.json").read_text()).items():
        contents[doc_id].append(token)
    for path in folder.glob("write-*.jsonl"):
        for record in load(path):
            if record.op == "put" and record.kind == "invoke":
                contents[str(record.doc_id)].append(str(record.content))
    return contents


def _invariants(project: Project, window: int) -> list[str]:
    """Return what the database's own views of broken invariants hold."""
    with project.engine.connect() as connection:
        views = ("i1_lost", "i2_ahead", "i5_slots", "i13_unwaived")
        counts = {view: connection.scalar(sa.text(f"SELECT count(*) FROM {view}")) for view in views}
    return [f"window {window}: view {view} has {count} row(s)" for view, count in counts.items() if count]


def _sizes(project: Project) -> dict[str, int]:
    """Return the bytes of the tables that a soak could make grow, live indexes together, and their dead rows."""
    sizes: dict[str, int] = {}
    dead = 0
    with project.engine.connect() as connection:
        tables = {name: [f"revector.{name}"] for name in TABLES}
        tables["live indexes"] = [f"revector.{name}" for _, name, _ in _live(project)]
        tables["ledger"] = list(
            connection.scalars(sa.text("SELECT CAST(relid AS text) FROM pg_partition_tree('ledger')"))
        )
        for what, names in tables.items():
            row = connection.execute(
                sa.text(
                    "SELECT sum(pg_total_relation_size(relid)) AS bytes, sum(n_dead_tup) AS dead FROM "
                    "pg_stat_user_tables WHERE relid = ANY(SELECT to_regclass(n) FROM unnest(CAST(:names AS text[])) n)"
                ),
                {"names": names},
            ).one()
            sizes[f"size of {what}"], dead = int(row.bytes or 0), dead + int(row.dead or 0)
    return {**sizes, "dead rows": dead}


def tidy(site: Site, path: Path) -> None:
    """Have dropped what has ended, as a schedule would, and count what is left of it."""
    project = waited_for(lambda: opened(site))
    time.sleep(2 * project.settings.drain_s)
    project.migrator(COLLECTION, actor="soak").retire_due()
    path.write_text(json.dumps(_garbage(project)))


def _garbage(project: Project) -> dict[str, int]:
    """Count what ended generations have left behind."""
    ended = "gen NOT IN (SELECT gen FROM slot)"
    with project.engine.connect() as connection:
        found = {
            f"{table} rows of ended generations": connection.scalar(
                sa.text(f"SELECT count(*) FROM {table} WHERE {ended}")
            )
            for table in ("pending", "ledger", "shard", "part")
        }
        found["index tables of ended generations"] = connection.scalar(
            sa.text(
                "SELECT count(*) FROM pg_tables WHERE schemaname = 'revector' AND tablename LIKE 'idx\\_%' AND "
                "tablename NOT IN (SELECT physical_name FROM generation g JOIN slot s USING (gen))"
            )
        )
        kept = set(connection.scalars(sa.text(f"SELECT path FROM part WHERE NOT {ended}")))
    files = [path for path in project.archive.rglob("*") if path.is_file() and str(path) not in kept]
    return {name: int(count or 0) for name, count in found.items()} | {"archive files of ended generations": len(files)}


# The history ----------------------------------------------------------------------------------------------------------


def window_history(folder: Path, moves: Path) -> Iterator[Record]:
    """Yield one window's records in the order of time, what there was before it as puts, and all moves so far."""
    for number, (doc_id, (token, version)) in enumerate(json.loads((folder / "before.json").read_text()).items(), 1):
        yield Record(-number, "invoke", "put", "before", 0.0, doc_id=doc_id, content=token)
        yield Record(-number, "ok", "put", "before", 0.0, version=version)
    files = [*folder.glob("*.jsonl"), *([moves] if moves.exists() else [])]
    yield from heapq.merge(*map(load, files), key=lambda record: record.at)


def judge_window(folder: Path, moves: Path, kept: Path) -> None:
    """Check one window's history; of one with findings the records are kept."""
    counts, errors = Counter[str](), Counter[str]()

    def counted(records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if record.process != "before":
                _count(record, counts, errors)
            yield record

    found = check(counted(window_history(folder, moves)))
    if found:
        save(kept, window_history(folder, moves))
    result = {
        "counts": counts,
        "errors": errors,
        "findings": [(one.promise, one.detail) for one in found],
        "lags": [lag for path in folder.glob("*.lags") for lag in json.loads(path.read_text())],
        "backends ended": sum(json.loads(path.read_text()) for path in folder.glob("*.ended")),
    }
    (folder / "judged.json").write_text(json.dumps(result))


def _count(record: Record, counts: Counter[str], errors: Counter[str]) -> None:
    if record.kind == "invoke" or record.op not in ("put", "delete", "query", "standby"):
        return
    counts[f"{record.op} {record.kind}"] += 1
    counts["queries checked"] += record.op == "query" and record.kind == "ok" and bool(record.hits)
    if record.detail.get("error") and not record.detail["down"]:
        errors[f"{record.op}: {record.detail['error']}"[:160]] += 1


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie; 0 for none."""
    return float(np.quantile(np.array(values), share)) if values else 0.0
