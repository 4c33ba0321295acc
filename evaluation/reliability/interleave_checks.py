"""Owns what an interleaving is judged by beside its history: invariant views, every answer, and the state after heal.

Texts come from what the actors put, vectors from the models themselves; ledger, work set and registry are asked only
who is live, and which documents an answer had to hold.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import psycopg
import sqlalchemy as sa
from evaluation.reliability.checker import check
from evaluation.reliability.history import Hit
from evaluation.reliability.interleave_scene import MODELS, Scene, TinyMigrator, revision
from evaluation.reliability.truth import Truth

from revector.history.events import broken_links
from revector.lifecycle import Phase
from revector.registry.collections import Generation
from revector.serving import searcher
from revector.serving.searcher import Answer
from revector.spec import Revision

CLOSE = 1e-4
"""Of a score or a vector's component: float32 sums in another order."""

_VIEWS = """
WITH mine AS (SELECT gen FROM generation WHERE cid = %(cid)s)
SELECT 'lost', gen, doc_id FROM i1_lost WHERE gen IN (SELECT gen FROM mine) UNION ALL
SELECT 'phantom', gen, doc_id FROM i2_ahead WHERE gen IN (SELECT gen FROM mine) UNION ALL
SELECT 'swap history', gen, role FROM i5_slots WHERE gen IN (SELECT gen FROM mine) UNION ALL
SELECT 'swap history', gen, doc_id FROM i13_unwaived WHERE gen IN (SELECT gen FROM mine)
"""
_STANDBY = """
SELECT c.standby_gen, count(d.doc_id) FILTER (WHERE p.gen IS NULL AND l.version IS DISTINCT FROM d.version
  AND NOT (d.deleted AND coalesce(l.deleted, true)))
FROM collection c LEFT JOIN document d ON d.cid = c.cid
LEFT JOIN ledger l ON l.gen = c.standby_gen AND l.doc_id = d.doc_id
LEFT JOIN pending p ON p.gen = c.standby_gen AND p.doc_id = d.doc_id AND p.version >= d.version
WHERE c.cid = %(cid)s AND c.standby_gen IS NOT NULL GROUP BY c.standby_gen
"""
_SERVED = """
SELECT d.doc_id FROM document d JOIN ledger l ON l.gen = :gen AND l.doc_id = d.doc_id
WHERE d.cid = :cid AND NOT d.deleted AND NOT l.deleted AND l.version > d.tombstone_version
"""
MOVED = ("provision", "swap", "rollback", "retire", "abort")


def look(scene: Scene, monitor: psycopg.Connection) -> None:
    """Query the invariant views, and sample the standby generation, at this instant."""
    scene.counts["instants at which the invariant views were read"] += 1
    for promise, gen, what in monitor.execute(_VIEWS, {"cid": scene.cid}):
        scene.found(promise, f"an invariant view shows generation {gen}, {what} at step {scene.stage.steps}")
    for gen, missing in monitor.execute(_STANDBY, {"cid": scene.cid}):
        call = scene.recorder.invoke("standby", "monitor")
        scene.recorder.ok(call, "standby", "monitor", gen=gen, detail={"missing": missing})


# Answers --------------------------------------------------------------------------------------------------------------


def _model_of(spec: Revision) -> int:
    return (int(spec.revision[1:])) % MODELS


def _scores(scene: Scene, question: str, spec: Revision, token: str, asked_by: int | None = None) -> list[float]:
    """Return the score of each chunk of a content, asked by the index's own model or another."""
    asking = spec.model if asked_by is None else revision(asked_by).model
    asked = Truth(asking, spec.chunking).vector(question)
    return [float(score) for score in scene.encoders.vectors(spec, scene.texts[token]) @ asked]


def judge(scene: Scene, call: int, process: str, question: str, answer: Answer, *, by: str) -> None:
    """Record an answer, and find in its scores which model asked and which contents were searched.

    Must run in the step of the search: what had to be found is read from the database as it is now.
    """
    with scene.engine.connect() as connection:
        spec = connection.scalar(
            sa.text("SELECT spec ->> 'revision' FROM generation WHERE gen = :gen"), {"gen": answer.generation}
        )
        served = set(connection.scalars(sa.text(_SERVED), {"gen": answer.generation, "cid": scene.cid}))
    used = revision(int(str(spec)[1:]))
    where = f"query {call} ({by}) of generation {answer.generation}"
    if (shown := {hit.id for hit in answer.hits}) != served:
        scene.found("lost", f"{where} shows {sorted(shown)}, searchable were {sorted(served)}")
    grouped: defaultdict[str, list[searcher.Hit]] = defaultdict(list)
    for hit in answer.hits:
        grouped[hit.id].append(hit)
    encoder = answer.encoder_fp
    for doc_id, hits in grouped.items():
        if any(_fits(hits, _scores(scene, question, used, token), by) for token in scene.puts.get(doc_id, ())):
            continue
        model = _asked_by(scene, question, used, hits)
        if model is None:
            scene.found("mixed chunks", f"{where}: {doc_id} has scores of no content ever put there: {hits}")
        else:
            encoder = scene.encoders.fresh(revision(model).model).fingerprint
    shown_hits = tuple(_hit(scene, used, hit) for hit in answer.hits)
    scene.counts["queries"] += 1
    scene.recorder.ok(
        call, "query", process, gen=answer.generation, encoder=encoder, index_encoder=answer.encoder_fp, hits=shown_hits
    )


def _fits(hits: Sequence[searcher.Hit], scores: Sequence[float], by: str) -> bool:
    if by == "document":
        return hits[0].chunk < len(scores) and abs(hits[0].score - max(scores)) < CLOSE
    found = {hit.chunk: hit.score for hit in hits}
    return len(hits) == len(scores) and all(abs(found.get(n, 9) - score) < CLOSE for n, score in enumerate(scores))


def _asked_by(scene: Scene, question: str, used: Revision, hits: Sequence[searcher.Hit]) -> int | None:
    """Return another model whose query vector explains all scores of a document, or None."""
    for model in set(range(MODELS)) - {_model_of(used)}:
        for token in scene.puts.get(hits[0].id, ()):
            scores = _scores(scene, question, used, token, model)
            if all(hit.chunk < len(scores) and abs(scores[hit.chunk] - hit.score) < CLOSE for hit in hits):
                return model
    return None


def _hit(scene: Scene, used: Revision, hit: searcher.Hit) -> Hit:
    token = str(hit.text).partition("x")[0]
    if token not in scene.texts:
        return Hit(hit.id, str(hit.text), hit.version, hit.chunk)
    chunks = [chunk.text for chunk in scene.encoders.chunks(used, scene.texts[token])]
    if hit.chunk >= len(chunks) or hit.text != chunks[hit.chunk]:
        # A newer version waits to be embedded: its whole text is shown, for the chunk of the older one.
        if hit.text != scene.texts[token]:
            scene.found("mixed chunks", f"a hit shows {hit.text!r}, which is neither a chunk nor all of {token}")
        return Hit(hit.id, token, hit.version, hit.chunk)
    return Hit(hit.id, token, hit.version, hit.chunk, len(chunks))


# After heal -----------------------------------------------------------------------------------------------------------


def heal(scene: Scene) -> None:
    """Let time pass and one worker drain; finish a backfill that was left, so that every live index can be compared."""
    with scene.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET lease_until = NULL, due_at = clock_timestamp() FROM generation g WHERE g.gen = "
                "pending.gen AND g.cid = :cid"
            ),
            {"cid": scene.cid},
        )
    migrator = TinyMigrator(scene, "healer")
    collection, live = scene.slots()
    building = live.get(collection.building_gen or -1)
    if building is not None and building.phase == Phase.PROVISIONED:
        migrator.run("backfill", building.revision)
    for generation in live.values():
        migrator._catch_up.drain(generation, until=0)


def check_end(scene: Scene, monitor: psycopg.Connection) -> None:
    """Compare the document table and every live index, row by row, with what was put; then judge the history."""
    look(scene, monitor)
    _, live = scene.slots()
    with scene.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT doc_id, version, content FROM document WHERE cid = :cid AND NOT deleted"),
            {"cid": scene.cid},
        ).all()
        table = tuple(Hit(row.doc_id, row.content.partition("x")[0], row.version) for row in rows)
        _record(scene, "documents", table, None)
        for gen, generation in live.items():
            _record(scene, "index", tuple(_index(scene, connection, generation, table)), gen)
        _check_rest(scene, connection, live)
    scene.findings.extend(check(scene.recorder.records))


def _record(scene: Scene, op: str, hits: tuple[Hit, ...], gen: int | None) -> None:
    scene.recorder.ok(scene.recorder.invoke(op, "monitor"), op, "monitor", gen=gen, hits=hits)


def _index(scene: Scene, connection: sa.Connection, generation: Generation, table: Iterable[Hit]) -> Iterable[Hit]:
    """Yield the rows of an index, each with the content whose chunk has this very vector."""
    spec, versions = generation.spec, {(hit.doc_id, hit.content): hit.version for hit in table}
    rows = connection.execute(
        sa.text(
            f"SELECT doc_id, chunk, version, start, stop, CAST(embedding AS text) AS v FROM {generation.physical_name}"
        )
    ).all()
    for row in rows:
        vector = np.array(json.loads(row.v), np.float32)
        for token in reversed(scene.puts.get(row.doc_id, [])):
            chunks = scene.encoders.chunks(spec, scene.texts[token])
            vectors = scene.encoders.vectors(spec, scene.texts[token])
            if row.chunk < len(chunks) and np.abs(vectors[row.chunk] - vector).max() < CLOSE:
                # A change of metadata alone raises the document's version and leaves the row's.
                version = versions.get((row.doc_id, token), row.version)
                at = (row.start, row.stop) == (chunks[row.chunk].start, chunks[row.chunk].end)
                if not at:
                    scene.found("mixed chunks", f"{row.doc_id}: chunk {row.chunk} has other places than its text's")
                yield Hit(row.doc_id, token, version, row.chunk, len(chunks))
                break
        else:
            yield Hit(row.doc_id, "?", row.version, row.chunk)


def _check_rest(scene: Scene, connection: sa.Connection, live: dict[int, Generation]) -> None:
    waiting = connection.scalar(sa.text("SELECT count(*) FROM pending WHERE gen = ANY(:live)"), {"live": list(live)})
    if waiting:
        scene.found("lost", f"{waiting} items are left after heal")
    epochs = connection.scalars(
        sa.text("SELECT epoch FROM event WHERE cid = :cid AND kind = ANY(:kinds) ORDER BY seq"),
        {"cid": scene.cid, "kinds": list(MOVED)},
    ).all()
    now = connection.scalar(sa.text("SELECT epoch FROM collection WHERE cid = :cid"), {"cid": scene.cid})
    if list(epochs) != list(range(2, 2 + len(epochs))) or now != 1 + len(epochs):
        scene.found("swap history", f"epochs of the events are {list(epochs)}, the collection is at {now}")
    if broken := broken_links(connection, scene.name):
        scene.found("swap history", f"the hash chain of the events is broken at {broken}")


def clean_up(scene: Scene) -> None:
    """Drop what the run leaves in the catalogue; its rows stay, under a collection that nobody asks for."""
    with scene.engine.begin() as connection:
        names = connection.scalars(
            sa.text("SELECT physical_name FROM generation WHERE cid = :cid AND NOT dropped"), {"cid": scene.cid}
        ).all()
        for name in names:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
