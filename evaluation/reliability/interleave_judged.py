"""Owns what a run of the interleavings is judged by: at every instant, in each answer, and at its end."""

from __future__ import annotations

from evaluation.reliability import checks, judge, observer
from evaluation.reliability.checker import check
from evaluation.reliability.interleave_scene import Scene
from evaluation.reliability.points import garbage, wrong_points

from revector.indexing.keeping import StoreKeeper
from revector.lifecycle import Phase
from revector.serving.searcher import Answer

AGE = """
UPDATE intent SET created_at = created_at - interval '1 day', superseded_at = superseded_at - interval '1 day'{}
WHERE gen IN (SELECT gen FROM generation WHERE cid = :cid)
"""
"""A day passes for all attempts."""

_STANDBY = """
SELECT c.standby_gen, count(d.doc_id) FILTER (WHERE p.gen IS NULL AND l.version IS DISTINCT FROM d.version
  AND NOT (d.deleted AND coalesce(l.deleted, true)))
FROM collection c LEFT JOIN document d ON d.cid = c.cid
LEFT JOIN ledger l ON l.gen = c.standby_gen AND l.doc_id = d.doc_id
LEFT JOIN pending p ON p.gen = c.standby_gen AND p.doc_id = d.doc_id AND p.version >= d.version
WHERE c.cid = :cid AND c.standby_gen IS NOT NULL GROUP BY c.standby_gen
"""
_SERVED = """
SELECT d.doc_id FROM document d JOIN ledger l ON l.gen = :gen AND l.doc_id = d.doc_id
WHERE d.cid = :cid AND NOT d.deleted AND NOT l.deleted AND l.version > d.tombstone_version
"""


def look(scene: Scene) -> None:
    """Check what is true at every instant, and sample the standby generation."""
    scene.counts["instants at which the invariant views were read"] += 1
    scene.findings += checks.instant(scene.engine, scene.cid)
    for gen, (_, index) in scene.stored().items():
        scene.findings += wrong_points(index, scene.attempts(gen))
    for gen, missing in observer.rows(scene.engine, _STANDBY, cid=scene.cid):
        call = scene.recorder.invoke("standby", "monitor")
        scene.recorder.ok(call, "standby", "monitor", gen=gen, detail={"missing": missing})


def answered(scene: Scene, call: int, process: str, question: str, answer: Answer, *, by: str) -> None:
    """Record an answer in the step of its search: what had to be found is read from the database as it is now.

    An index in a store is asked some steps before: what was not to be found by then may be missing.
    """
    served = {row.doc_id for row in observer.rows(scene.engine, _SERVED, gen=answer.generation, cid=scene.cid)}
    found = served & scene.near.get(process, {}).get(answer.generation, served)
    if not found <= (shown := {hit.id for hit in answer.hits}) <= served:
        where = f"query {call} ({by}) of generation {answer.generation}"
        scene.found("lost", f"{where} shows {sorted(shown)}, to be found were {sorted(found)} of {sorted(served)}")
    scene.counts["queries"] += 1
    scene.recorder.ok(call, "query", process, **scene.judge.answer(question, answer, by=by, whole=True))


def heal(scene: Scene) -> None:
    """Let time pass and one worker drain; finish a backfill that was left, so that every live index can be compared."""
    observer.rows(
        scene.engine,
        "UPDATE pending SET lease_until = NULL, due_at = clock_timestamp() FROM generation g WHERE g.gen = pending.gen "
        "AND g.cid = :cid",
        cid=scene.cid,
    )
    migrator = scene.migrator("healer")
    collection, live = scene.slots()
    if scene.store is not None:
        scene.store.arrive(1.0)
        for generation, _ in scene.stored().values():
            StoreKeeper(scene.engine).make_whole(generation)
    building = live.get(collection.building_gen or -1)
    if building is not None and building.phase == Phase.PROVISIONED:
        migrator.run("backfill", building.revision)
    for generation in live.values():
        migrator._catch_up.drain(generation, until=0)


def check_end(scene: Scene) -> None:
    """Compare the document table and every live index, whole, with what was put; judge the history; drop the indexes.

    The run's rows stay, under a collection that nobody asks for.
    """
    look(scene)
    for gen, (generation, index) in scene.stored().items():
        for _ in range(3):
            observer.rows(scene.engine, AGE.format(", removed_at = removed_at - interval '1 day'"), cid=scene.cid)
            StoreKeeper(scene.engine).look(generation)
        scene.findings += garbage(index, scene.attempts(gen))
    scene.findings += judge.look(scene.engine, scene.cid, scene.judge, scene.recorder, exact=False)
    scene.findings += check(scene.recorder.records)
    names = "SELECT physical_name FROM generation WHERE cid = :cid AND NOT dropped"
    for _, index in scene.stored().values():
        index.drop()
    for row in observer.rows(scene.engine, names, cid=scene.cid):
        observer.rows(scene.engine, f"DROP TABLE IF EXISTS {row.physical_name}")
