"""What every lane must do, and the protocol over it: the whole life of a migration, wherever an index is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from unittest.mock import Mock
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from evaluation.reliability.late import LateNetwork, LateStore

from fakes import Crash
from outside import STORES, Given, of_kind, opened
from qdrant_wire import LocalShard, QdrantWire
from revector import crash
from revector.database.sessions import alone
from revector.errors import IndexGone, SpecError, StoreUnavailable
from revector.indexing import keeping
from revector.indexing.keeping import StoreKeeper
from revector.indexing.rearm import rearm
from revector.interfaces import Document, whole_texts
from revector.registry import attempts, intents, watching
from revector.registry.lane import SearchRequest
from revector.registry.lanes import lane_of
from revector.serving.exporting import reading_vectors
from revector.spec import IndexSpec, Metric
from revector.stores.memory import MemoryIndex, MemoryStore
from revector.stores.metrics import score_table
from revector.stores.opening import added
from revector.stores.seam import Points, Store
from worlds import World, document

GATE = "gate = Gate(max_drop=1.0, min_overlap=None, min_queries=1)"


@dataclass
class Stored:
    """A project whose indexes are in a store under test."""

    world: World
    name: str
    store: Store | None

    def revision(
        self,
        name: str,
        parent: str | None,
        model: str = "hashing",
        store: str | None = None,
        metric: Metric = "cosine",
    ) -> None:
        exact = self.store is None or store is not None or "exact" in self.store.traits.kinds
        kind = "exact" if exact else "hnsw"
        where = f'index = IndexSpec(kind="{kind}", store="{store or self.name}", metric="{metric}")'
        unit = metric == "cosine"
        self.world.revision(name, parent, f'model = ModelSpec(name="{model}", dim=64, normalize={unit})', where, GATE)

    def keep(self) -> None:
        """Look after the served index as a worker does once a minute."""
        StoreKeeper(self.world.engine).look(self.world.generation())


@pytest.fixture(params=["pgvector", *STORES])
def stored(request: pytest.FixtureRequest, world: World, given: Given) -> Iterator[Stored]:
    if request.param == "pgvector":
        yield Stored(world, "pgvector", None)
        return
    with opened(request.param, given) as store, added("tested", store):
        yield Stored(world, "tested", store)


@pytest.fixture
def serving(stored: Stored) -> Stored:
    """120 documents are served, and b200 may follow."""
    stored.revision("a100", None)
    stored.revision("b200", "a100", "hashing:seed2")
    stored.world.put(120)
    stored.world.upgrade("a100")
    return stored


@pytest.fixture
def outside(serving: Stored) -> Stored:
    if serving.store is None:
        pytest.skip("what PostgreSQL commits, it keeps: nothing to collect, and nothing to lose")
    return serving


def check_equal(world: World) -> None:
    """Every live index equals the documents by revector's own verification, and no invariant is broken."""
    world.settle()
    report = world.project.verify("docs")
    assert report.passed, report
    for view in ("i1_lost", "i2_ahead", "i5_slots", "i9_intent"):
        assert world.sql(f"SELECT * FROM {view}") == [], view


def test_a_document_is_found_replaced_and_hidden_at_once(serving: Stored) -> None:
    world = serving.world
    assert world.search("apple7 pear7", 3)[0] == "d00007"
    world.documents.put("d00007", "quince melon")
    world.settle()
    assert world.search("quince melon", 3)[0] == "d00007"
    [hit] = world.project.searcher("docs").search("quince melon", 1).hits
    assert world.search("apple7 pear7", 1) != ["d00007"]
    assert (hit.text, hit.version) == ("quince melon", world.documents.get("d00007").version)
    assert hit.score == pytest.approx(1.0, abs=1e-5)
    world.documents.delete("d00007")
    assert "d00007" not in world.search("quince melon", 100)
    world.settle()
    assert "d00007" not in world.search("quince melon", 100)
    assert len(world.search("apple", 100)) == 100
    check_equal(world)


def test_a_migration_goes_forward_back_and_to_its_end_while_documents_change(serving: Stored) -> None:
    world = serving.world
    world.upgrade("b200", to="backfill")
    world.put(20, 200)
    world.documents.delete_many([document(n).id for n in range(10)])
    world.upgrade("b200")
    assert world.generation().revision == "b200"
    world.put(20, 300)
    check_equal(world)
    world.migrator.rollback("to see the way back")
    assert world.generation().revision == "a100"
    assert world.search("apple310 pear310", 3)[0] == "d00310"
    assert world.search("apple5 pear5", 200).count("d00005") == 0
    check_equal(world)
    gone = world.generation("standby")
    world.migrator.run("retire", reason="done", now=True)
    with world.engine.connect() as connection:
        assert lane_of(gone).size_bytes(connection) == 0
    assert world.value("SELECT count(*) FROM intent WHERE gen = :gen", gen=gone.gen) == 0


def test_a_migration_from_products_to_distances_scores_by_each_and_lengths_count(stored: Stored) -> None:
    world = stored.world
    stored.revision("a100", None, metric="dot")
    stored.revision("b200", "a100", metric="l2")
    texts = [" ".join([f"apple{n}"] * (1 + n % 5)) + f" pear{n}" for n in range(40)]
    world.documents.put_many([Document(f"d{n:05d}", text) for n, text in enumerate(texts)])

    def check(metric: Metric) -> None:
        encoder = world.project.encoders.of(world.generation())
        vectors = np.asarray(encoder.encode("document", whole_texts(texts)))
        query = np.asarray(encoder.encode("query", whole_texts(["apple7 pear8 apple12"])))
        assert np.ptp(np.linalg.norm(vectors, axis=1)) > 0.1, "a test in which lengths count"
        scores = score_table(query, vectors, metric)[0]
        hits = world.project.searcher("docs").search("apple7 pear8 apple12", 10).hits
        got = [scores[int(hit.id[1:])] for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], got, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got, np.sort(scores)[::-1][:10], rtol=1e-4, atol=1e-5)
        check_equal(world)

    world.upgrade("a100")
    check("dot")
    world.upgrade("b200")
    check("l2")
    world.migrator.rollback("to see the way back")
    check("dot")


def test_a_filter_is_answered_with_exactly_k_whenever_k_match(serving: Stored) -> None:
    world = serving.world
    world.documents.put_many([Document(f"r{n}", f"rare kiwi{n}", {"rare": True}) for n in range(12)])
    world.settle()
    found = world.search("apple1 pear1", 12, where={"rare": True})
    assert sorted(found) == sorted(f"r{n}" for n in range(12))


def test_a_document_of_many_chunks_takes_no_place_of_others_that_match(serving: Stored) -> None:
    long = " ".join(f"apple{n} pear" for n in range(3_000))
    serving.world.documents.put("long", long, {"some": True})
    serving.world.documents.put_many([Document(f"short{n}", f"fig{n}", {"some": True}) for n in range(9)])
    serving.world.settle()
    ids = serving.world.project.searcher("docs").search("apple1 pear", 10, where={"some": True}).hits
    assert len({hit.id for hit in ids}) == 10


def test_the_mean_of_a_document_is_searched_for_and_unknown_ones_are_refused(serving: Stored) -> None:
    searcher = serving.world.project.searcher("docs")
    like = searcher.search_like("d00003", 5)
    assert len(like.hits) == 5
    assert "d00003" not in [hit.id for hit in like.hits]


def test_what_is_read_back_exported_and_sampled_is_what_was_embedded(serving: Stored) -> None:
    world, generation = serving.world, serving.world.generation()
    encoder = world.project.encoders.of(generation)
    wanted = encoder.encode("document", whole_texts([document(n).text for n in range(120)]))
    lane = lane_of(generation)
    with world.engine.connect() as connection:
        read = {one.doc_id: one.vectors for one in lane.read(connection, [document(n).id for n in range(121)])}
        sampled = np.concatenate(list(lane.sample(connection, 1_000)))
        assert lane.size_bytes(connection) > 0
    assert len(read) == 120
    np.testing.assert_allclose(np.concatenate([read[document(n).id] for n in range(120)]), wanted, atol=1e-6)
    np.testing.assert_allclose((sampled @ wanted.T).max(axis=1), 1, atol=1e-5)
    with reading_vectors(world.engine, generation) as (size, parts):
        exported = np.concatenate([part.embeddings for part in parts])
    assert size.documents == 120
    np.testing.assert_allclose(exported, wanted, atol=1e-6)


def test_another_index_of_the_same_model_embeds_nothing_wherever_it_is(serving: Stored) -> None:
    world = serving.world
    serving.revision("b200", "a100", store="memory" if serving.store is None else "pgvector")
    world.upgrade("b200")
    [second, _] = [event["detail"] for event in world.events("backfill")]
    assert (second["embedded"], second["reused"]) == (0, 120)
    assert world.generation().revision == "b200"
    assert world.search("apple7 pear7", 3)[0] == "d00007"
    check_equal(world)


def test_points_of_other_texts_with_one_vector_are_named(serving: Stored) -> None:
    world = serving.world
    world.documents.put_many([Document("a1", "same words here"), Document("x2", "here same words")])
    world.settle()
    report = world.project.verify("docs")
    [alike] = report.generations[0].alike
    assert alike.texts == 2
    assert "a1" in alike.first[0]
    assert "x2" in alike.first[1]


# Outside of PostgreSQL ------------------------------------------------------------------------------------------------


def test_superseded_attempts_are_removed_by_id_and_what_is_shown_stays(
    outside: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = outside.world
    for turn in range(3):
        world.documents.put("d00001", f"apple1 pear1 turn {turn}")
        world.settle()
    index = lane_of(world.generation()).index
    assert index.describe().points == 120 + 1 + 3
    monkeypatch.setattr(intents, "QUERY_S", 0.0)
    outside.keep()
    assert index.describe().points == 120 + 1
    assert world.sql("SELECT DISTINCT state FROM intent WHERE superseded_at IS NOT NULL") == [("doomed",)]
    monkeypatch.setattr(intents, "LATE_S", 0.0)
    outside.keep()
    assert world.value("SELECT count(*) FROM intent WHERE doc_id <> ''") == 120
    check_equal(world)


def test_an_attempt_that_was_given_up_is_not_published_and_its_document_stays_due(
    outside: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = outside.world
    monkeypatch.setattr(intents, "OPEN_S", 0.0)
    put = type(lane_of(world.generation()).index).put

    def collect_first(index: object, points: object) -> None:
        put(index, points)
        outside.keep()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(lane_of(world.generation()).index), "put", collect_first)
        world.documents.put("d00001", "a text of its own")
        worker = world.project.worker()
        assert worker.drain() == 0
    assert world.value("SELECT count(*) FROM pending WHERE doc_id = 'd00001'") == 1
    assert world.search("apple1 pear1", 1) == ["d00001"]
    world.settle()
    assert world.search("text of its own", 1) == ["d00001"]
    check_equal(world)


def test_a_worker_that_stood_still_for_hours_puts_no_points_that_were_forgotten_meanwhile(
    outside: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, index = outside.world, lane_of(outside.world.generation()).index
    before = index.describe().points

    def stand_still(passed: str) -> None:
        if passed == "stage.after_intent":
            world.sql("UPDATE intent SET created_at = created_at - interval '2 hours' WHERE state = 'open'")
            outside.keep()
            world.sql("UPDATE intent SET removed_at = removed_at - interval '2 hours' WHERE state = 'doomed'")
            outside.keep()
            now_s = watching.running_s() + 7_200.0
            monkeypatch.setattr(attempts, "running_s", lambda: now_s)

    world.documents.put("d00001", "a text of its own")
    monkeypatch.setattr(crash, "watcher", stand_still)
    assert world.project.worker().drain() == 0
    assert world.value("SELECT count(*) FROM intent WHERE state <> 'published'") == 0
    assert index.describe().points == before
    monkeypatch.undo()
    world.settle()
    assert world.search("text of its own", 1) == ["d00001"]
    check_equal(world)


def test_a_store_that_lost_everything_is_noticed_said_and_filled_again(outside: Stored) -> None:
    world, lane = outside.world, lane_of(outside.world.generation())
    lane.index.drop()
    with pytest.raises(IndexGone):
        world.search("apple7 pear7", 3)
    outside.keep()
    assert world.events("store_lost")[0]["detail"]["documents"] == 120
    world.settle()
    assert world.search("apple7 pear7", 3)[0] == "d00007"
    check_equal(world)


def test_a_loss_while_a_newer_canary_is_put_is_noticed_all_the_same(
    outside: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, generation = outside.world, outside.world.generation()
    index = lane_of(generation).index
    put = type(index).put

    def lose_first(of: object, points: Points) -> None:
        index.drop()
        index.create(generation.encoder_fp)
        put(of, points)

    world.sql("UPDATE intent SET created_at = created_at - interval '2 minutes' WHERE doc_id = ''")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(index), "put", lose_first)
        outside.keep()
    outside.keep()
    assert world.events("store_lost")[0]["detail"]["documents"] == 120
    world.settle()
    check_equal(world)


def test_a_loss_is_noticed_though_the_put_of_the_newest_canary_is_repeated_after_it(outside: Stored) -> None:
    world, generation = outside.world, outside.world.generation()
    index, put = lane_of(generation).index, type(lane_of(generation).index).put
    canary: list[Points] = []
    world.sql("UPDATE intent SET created_at = created_at - interval '2 minutes' WHERE doc_id = ''")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(index), "put", lambda of, points: (canary.append(points), put(of, points))[1])
        outside.keep()
    index.drop()
    index.create(generation.encoder_fp)
    index.put(canary[-1])
    outside.keep()
    assert world.events("store_lost")[0]["detail"]["documents"] == 120
    world.settle()
    check_equal(world)


def test_what_a_store_took_last_and_lost_is_noticed_though_every_canary_is_there(
    outside: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, lane = outside.world, lane_of(outside.world.generation())
    lost = ("d00300", "d00301", "d00302")

    def lose(ids: Sequence[str]) -> None:
        shown = world.sql("SELECT attempt, n_chunks FROM ledger WHERE doc_id = ANY(:ids)", ids=list(ids))
        lane.index.remove(intents.point_ids(shown))

    monkeypatch.setattr(keeping, "DRAWN", 50)
    world.put(5, 300)
    world.settle()
    lose(lost)
    for _ in range(10):  # of 125 documents, 50 are drawn each time
        outside.keep()
    assert [event["detail"]["documents"] for event in world.events("store_lost")] == [3]
    world.settle()
    check_equal(world)
    monkeypatch.setattr(intents, "CANARY_S", 0.0)
    monkeypatch.setattr(intents, "LATELY_S", 0.0)
    outside.keep()
    lose(lost)
    outside.keep()
    assert len(world.events("store_lost")) == 1, "what was put before a canary is not read each minute"


def test_a_store_that_lost_some_points_is_noticed_by_verify_and_repaired(outside: Stored) -> None:
    world, index = outside.world, lane_of(outside.world.generation()).index
    [(attempt, n)] = world.sql("SELECT attempt, n_chunks FROM ledger WHERE doc_id = 'd00042'")
    index.remove([intents.point_id(attempt, chunk) for chunk in range(n)])
    report = world.project.verify("docs", repair=True)
    assert [wrong.id for wrong in report.generations[0].first["missing"]] == ["d00042"]
    check_equal(world)


KILLS = ("stage.after_intent", "stage.after_put", "reveal.after_cas", "collect.after_doom", "collect.after_remove")


def kill_at(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whatever passes a point end there, once."""

    def watch(passed: str) -> None:
        if passed == point:
            monkeypatch.setattr(crash, "watcher", None)
            raise Crash(point)

    monkeypatch.setattr(crash, "watcher", watch)


def known_points(world: World) -> list[UUID]:
    rows = world.sql("SELECT attempt, n_chunks FROM intent WHERE state <> 'doomed' OR removed_at IS NULL")
    return intents.point_ids([tuple(row) for row in rows])


@pytest.mark.parametrize("point", KILLS)
def test_whatever_is_killed_sql_knows_every_point_and_no_document_is_lost(
    outside: Stored, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, index = outside.world, lane_of(outside.world.generation()).index
    monkeypatch.setattr(intents, "QUERY_S", 0.0)
    world.documents.put_many([document(n, turn=1) for n in range(3)])
    world.documents.put("d00005", "another text")
    kill_at(point, monkeypatch)

    def work() -> None:
        world.project.worker().drain()
        outside.keep()

    with pytest.raises(Crash, match=point):
        work()
    assert len(index.read(known_points(world)).ids) == index.describe().points
    world.sql("UPDATE pending SET lease_until = NULL")  # a minute later
    world.settle()
    assert world.search("another text", 1) == ["d00005"]
    monkeypatch.setattr(intents, "OPEN_S", 0.0)
    outside.keep()
    assert index.describe().points == 121
    check_equal(world)


def test_what_was_put_before_a_loss_is_not_published_after_it(outside: Stored) -> None:
    world, index = outside.world, lane_of(outside.world.generation()).index
    put = type(index).put

    def lose_everything(of: object, points: Points) -> None:
        put(of, points)
        if world.value("SELECT count(*) FROM event WHERE kind = 'store_lost'") == 0 and len(points.ids) == 2:
            index.drop()
            outside.keep()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(index), "put", lose_everything)
        world.documents.put_many([Document("d00001", "quince melon"), Document("d00002", "kiwi plum")])
        world.project.worker().drain()
    assert world.value("SELECT count(*) FROM pending") == 120
    world.settle()
    assert world.search("quince melon", 1) == ["d00001"]
    check_equal(world)


def test_a_restoration_that_was_killed_is_made_again(outside: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    world, lane = outside.world, lane_of(outside.world.generation())
    lane.index.drop()
    monkeypatch.setattr(keeping, "PAGE_IDS", 50)
    kill_at("restore.after_page", monkeypatch)
    with pytest.raises(Crash):
        outside.keep()
    assert world.value("SELECT count(*) FROM pending") == 50
    outside.keep()
    world.settle()
    assert len(world.events("store_lost")) == 2
    assert world.search("apple7 pear7", 3)[0] == "d00007"
    check_equal(world)


class _LazyStore(MemoryStore):
    """Acknowledges points and shows them when they have been asked for three times."""

    traits = replace(MemoryStore.traits, searchable_at_once=False)

    def __init__(self) -> None:
        super().__init__()
        self._waiting, self._asked = list[tuple[Callable[[Points], None], Points]](), count(1)

    def open(self, name: str, dim: int, spec: IndexSpec) -> MemoryIndex:
        index = super().open(name, dim, spec)
        put, read = index.put, index.read

        def show(ids: Sequence[UUID]) -> Points:
            if not next(self._asked) % 3:
                while self._waiting:
                    one, points = self._waiting.pop()
                    one(points)
            return read(ids)

        index.traits, index.read = self.traits, show
        index.put = lambda points: self._waiting.append((put, points))
        return index


def test_an_acknowledgement_counts_when_the_points_can_be_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "READ_BACK_S", 0.0)
    with added("tested", _LazyStore()) as store:
        stored = Stored(world, "tested", store)
        stored.revision("a100", None)
        world.put(20)
        world.upgrade("a100")
        assert world.search("apple2 pear2", 1) == ["d00002"]
        world.documents.put("d00002", "quince melon")
        world.project.worker().drain()
        assert world.search("quince melon", 1) == ["d00002"]


def test_the_alias_does_not_move_to_an_index_that_lost_points(outside: Stored) -> None:
    world = outside.world
    world.upgrade("b200", to="approve")
    building = lane_of(world.generation("building"))
    index = building.index
    index.remove(known_points(world))
    with pytest.raises(IndexGone, match="has lost points"):
        world.migrator.run("swap", "b200")
    assert world.generation().revision == "a100"
    world.upgrade("b200")  # begins by making it whole
    assert world.search("apple7 pear7", 3)[0] == "d00007"
    check_equal(world)


def test_a_ledger_line_that_is_ahead_keeps_its_points_when_it_is_brought_back(outside: Stored) -> None:
    world, generation = outside.world, outside.world.generation()
    world.unguarded("UPDATE revector.ledger SET version = version + 1000 WHERE doc_id = 'd00007'")
    rearm(world.engine, generation.cid, generation.gen, {"stale": ["d00007"]}, actor="tester")
    assert world.search("apple7 pear7", 1) == ["d00007"]
    assert world.sql("SELECT * FROM i9_intent") == []
    check_equal(world)


def test_a_store_that_is_not_known_here_stops_neither_a_status_nor_the_worker(world: World) -> None:
    with added("tested", MemoryStore()) as store:
        stored = Stored(world, "tested", store)
        stored.revision("a100", None)
        world.put(20)
        world.upgrade("a100")
        world.put(1, 30)
    slot = world.project.status("docs").slots.active
    assert (slot.bytes, slot.waiting.live) == (0, 1)
    assert world.project.worker().drain() == 0
    with pytest.raises(StoreUnavailable, match="not known to this process"):
        world.search("apple7", 1)


def test_a_plan_warns_of_a_store_that_one_process_holds(outside: Stored) -> None:
    plan = outside.world.migrator.plan("b200")
    warned = any("memory of one process" in warning for warning in plan.warnings)
    assert warned == (not outside.store.traits.lasting)


def test_an_attempt_goes_forward_only_for_every_writer(outside: Stored) -> None:
    world = outside.world
    world.sql("UPDATE intent SET state = 'doomed', doomed_at = clock_timestamp() WHERE doc_id = 'd00001'")
    with pytest.raises(Exception, match="given up once and for all"):
        world.sql("UPDATE intent SET state = 'published', doomed_at = NULL WHERE doc_id = 'd00001'")
    assert world.sql("SELECT doc_id FROM i9_intent") == [("d00001",)]


def test_a_search_that_began_before_a_document_changed_still_finds_it(outside: Stored) -> None:
    world, generation = outside.world, outside.world.generation()
    lane = lane_of(generation)
    vector = world.project.searcher("docs").encode(generation, ["apple7 pear7"])[0]
    changes = iter(["apple7 pear7 but newer"])

    def changing(ask: Callable[..., object]) -> Callable[..., object]:
        def changed_meanwhile(*asked: object, **options: object) -> object:
            found = ask(*asked, **options)
            for text in changes:
                world.documents.put("d00007", text)
                world.settle()
            return found

        return changed_meanwhile

    # Where a store cannot search exactly, its points are read and compared instead.
    lane.index.near, lane.index.read = changing(lane.index.near), changing(lane.index.read)
    with world.engine.connect() as connection:
        found = lane.search(connection, vector, SearchRequest(1, 1, by_document=True, exact=True))
    assert [(row["doc_id"], row["text"]) for row in found.rows] == [("d00007", "apple7 pear7 but newer")]


def test_a_search_keeps_its_plan_and_no_other_statement_of_its_session_does(
    outside: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, generation = outside.world, outside.world.generation()
    lane, wanted = lane_of(generation), SearchRequest(1, 1, by_document=True, exact=False)
    vector = world.project.searcher("docs").encode(generation, ["apple7 pear7"])[0]
    plans = sa.text("SHOW plan_cache_mode"), sa.text("SELECT max(generic_plans) FROM pg_prepared_statements")
    with alone(world.engine) as connection:
        for _ in range(20):
            lane.search(connection, vector, wanted)
        assert connection.scalar(plans[1]) > 0
        assert connection.scalar(plans[0]) == "force_custom_plan"
        monkeypatch.setattr(lane.index, "near", Mock(side_effect=StoreUnavailable("it is down")))
        with pytest.raises(StoreUnavailable):
            lane.search(connection, vector, wanted)
        assert connection.scalar(plans[0]) == "force_custom_plan"


def test_what_a_store_does_not_have_is_refused_before_anything_changes(outside: Stored) -> None:
    traits = outside.store.traits
    [kind, *_] = kinds = sorted(traits.kinds)
    wrong = [(f'kind="{other}"', kind) for other in {"exact", "hnsw"} - set(kinds)]
    wrong += [(f'kind="{kind}", storage="halfvec"', "vector")] if "halfvec" not in traits.storages else []
    wrong += [(f'quantize="{one}"', "none") for one in {"bit", "int8"} - traits.quantizes if "hnsw" in kinds]
    for setting, allowed in wrong:
        where = f'index = IndexSpec({setting}, store="tested")'
        outside.world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', where, GATE)
        with pytest.raises(SpecError, match=allowed):
            outside.world.upgrade("b200")
    outside.revision("b200", "a100", store="nowhere")
    with pytest.raises(SpecError, match="nowhere"):
        outside.world.upgrade("b200")
    assert len(outside.world.collection.live) == 1


@pytest.fixture(params=["memory", "qdrant-local"])
def faulty(request: pytest.FixtureRequest) -> Iterator[tuple[LateNetwork, Store]]:
    """A store, and the network before it, which fails; a client's connections fail where the client is Qdrant's."""
    if request.param == "memory":
        store = LateStore(seed=7, fails=0.3)
        yield store, store
        return
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: make test-stores")
    wire = QdrantWire(LocalShard, LateNetwork(seed=7, fails=0.3))
    yield wire.network, of_kind("qdrant", wire.url)
    wire.stop()


def test_whatever_requests_a_store_loses_delays_or_repeats_every_answer_is_right(
    world: World, faulty: tuple[LateNetwork, Store]
) -> None:
    """A request without an acknowledgement is tried again by a person or a worker, as after any failure."""

    def insisting(act: Callable[[], object], until: Callable[[], bool] = lambda: True) -> None:
        for _ in range(200):
            with suppress(StoreUnavailable):
                act()
                if until():
                    return
        pytest.fail("it never came to an end")

    network, store = faulty
    with added("tested", store):
        stored = Stored(world, "tested", store)
        stored.revision("a100", None)
        stored.revision("b200", "a100", "hashing:seed2")
        world.put(60)
        insisting(lambda: world.upgrade("a100"))
        for turn, draw in enumerate(random.Random(7).choices(range(60), k=40)):
            if turn % 3:
                world.documents.put(f"d{draw:05d}", f"turn{turn} apple{draw}")
            else:
                world.documents.delete(f"d{draw:05d}")
            world.project.worker().drain()
            if turn == 20:
                insisting(lambda: world.upgrade("b200"))
            doc = world.documents.get(f"d{draw:05d}")
            found = world.project.searcher("docs").search(f"turn{turn} apple{draw}", 100).hits
            shown = {hit.id: hit.text for hit in found}
            assert (f"d{draw:05d}" in shown) <= (doc is not None)
            assert len(shown) == len(found)
        nothing_waits = partial(world.value, "SELECT count(*) = 0 FROM pending")
        insisting(lambda: world.project.worker().drain(), nothing_waits)
        assert network.lost > 5
        texts = {hit.id: hit.text for hit in world.project.searcher("docs").search("apple", 100).hits}
        assert texts == dict(world.sql("SELECT doc_id, content FROM document WHERE NOT deleted"))
        check_equal(world)


def test_attempts_are_named_in_the_order_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for at_s in (1e9, 1e9 + 0.001, 2e9):
        monkeypatch.setattr(time, "time", lambda at_s=at_s: at_s)
        names += sorted(intents.new_attempt() for _ in range(20))
    assert names == sorted(set(names))
    assert {one.version for one in names} == {7}


def test_ids_of_points_are_computed_from_their_attempt() -> None:
    attempt = UUID("12345678-1234-5678-1234-567812345678")
    assert intents.point_ids([(attempt, 2)]) == [intents.point_id(attempt, 0), intents.point_id(attempt, 1)]
    assert intents.point_id(attempt, 0) != intents.point_id(attempt, 1)
