"""The function `revector.search` answers as the Searcher does, by the pair that the alias names, or says why not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from pgvector import Vector

from revector.registry.collections import Generation
from revector.serving import widening
from revector.stores import pgvector
from revector.stores.memory import MemoryStore
from revector.stores.opening import added
from services import until
from stages import AtStep
from worlds import World

SEARCH = "SELECT * FROM revector.search('docs', %s, %s, %s, %s, %s)"


@contextmanager
def client(world: World, **session: str) -> Iterator[psycopg.Connection[Any]]:
    """A session as any application has one: no search_path, none of our settings."""
    url = sa.make_url(world.database_url).set(drivername="postgresql")
    url = url.set(**{key: session.pop(key) for key in ("username", "password") if key in session})
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        for name, value in session.items():
            connection.execute(f"SET {name} = '{value}'")
        yield connection


def vector_of(world: World, generation: Generation, query: str) -> np.ndarray[Any, Any]:
    return world.project.searcher("docs").encode(generation, [query])[0]


Row = tuple[str, float, int, int, int, int]


def by_function(
    world: World, vector: Any, encoder_fp: str, k: int = 10, where: Any = None, by: str = "document", **session: str
) -> list[Row]:
    given = Vector(vector).to_text() if not isinstance(vector, str | None) else vector
    with client(world, **session) as connection:
        filtered = None if where is None else json.dumps(where)
        return connection.execute(SEARCH, (given, encoder_fp, k, filtered, by)).fetchall()


def same(world: World, query: str, k: int = 10, where: Mapping[str, Any] | None = None, by: str = "document") -> int:
    """Compare the function with the Searcher for one query; return how many hits both found."""
    generation = world.generation()
    vector = vector_of(world, generation, query)
    answer = world.project.searcher("docs").search_given(vector.tolist(), generation.encoder_fp, k, where=where, by=by)
    rows = by_function(world, vector, generation.encoder_fp, k, where, by)
    wanted = [(hit.id, hit.chunk, hit.start, hit.stop, answer.generation) for hit in answer.hits]
    assert [(row[0], *row[2:]) for row in rows] == wanted, (query, k, where, by)
    assert np.allclose([row[1] for row in rows], [hit.score for hit in answer.hits], atol=1e-6)
    return len(rows)


@pytest.mark.parametrize("by", ["document", "chunk"])
@pytest.mark.parametrize(
    "where",
    [
        None,
        {},
        {"half": True},
        {"lang": "l3"},
        {"rare": 7},
        {"n": [1, 2, 3]},
        {"n": {"gt": 10, "lte": 20}, "half": True},
        {"date": {"gte": "2024-06-01T00:00Z", "lt": "2024-07-01"}},
        {"n": list(range(100))},
        {"n": -1},
    ],
    ids=str,
)
def test_the_answer_is_the_searchers(library: World, where: Mapping[str, Any] | None, by: str) -> None:
    for number, k in ((70, 1), (71, 10), (1_200, 100)):
        found = same(library, f"apple{number} redsea bluesky greensun", k, where, by)
        assert found == k or (where and found < k)


def test_the_numbers_of_the_two_are_the_same(library: World) -> None:
    body = library.value("SELECT prosrc FROM pg_proc WHERE oid = to_regproc('revector.search')")
    for part in (
        f"greatest(1000, least({widening.EXACT_ROWS}, floor({widening.EXACT_SHARE} * reltuples)",
        f"wanted >= {widening.MOST_CANDIDATES}",
        f"least({pgvector.MAX_EF_SEARCH}, greatest(",
        f"'hnsw.max_scan_tuples', '{pgvector.MAX_SCAN_TUPLES}'",
    ):
        assert part in body


def test_the_hnsw_index_is_used_and_the_callers_settings_stay(library: World) -> None:
    generation = library.generation()
    vector = Vector(vector_of(library, generation, "apple71 redsea")).to_text()
    scans = f"SELECT pg_stat_get_xact_numscans('revector.{generation.physical_name}_hnsw'::regclass)"
    with client(library) as connection, connection.transaction():
        connection.execute("SET hnsw.ef_search = 77")
        before = connection.execute(scans).fetchone()
        rows = connection.execute(SEARCH, (vector, generation.encoder_fp, 10, None, "document")).fetchall()
        assert len(rows) == 10
        assert connection.execute(scans).fetchone() == (before[0] + 1,)  # type: ignore[index]
        settings = [connection.execute(f"SHOW hnsw.{name}").fetchone() for name in ("ef_search", "iterative_scan")]
        assert settings == [("77",), ("off",)]


@pytest.mark.parametrize("step", ["served", "provision", "backfill", "gate", "swap"])
def test_the_answer_is_the_searchers_under_writes_in_every_phase(at_step: AtStep, step: str) -> None:
    world = at_step(step)
    world.put(30, 200, colour="red")
    world.documents.delete_many([f"d{n:05d}" for n in range(0, 120, 3)])
    world.documents.put("d00001", "apple1 was rewritten")
    for _ in range(2):  # before and after the worker applied it
        for query in ("apple7 pear7", "some words here", "apple201 pear201 rewritten"):
            assert same(world, query, 40) == 40
            same(world, query, 5, {"colour": "red"})
        world.settle()
    gone = by_function(world, vector_of(world, world.generation(), "apple3 pear3"), world.generation().encoder_fp, 100)
    assert "d00003" not in {row[0] for row in gone}


def test_a_vector_of_the_old_model_is_refused_from_the_swap_on_and_answers_again_after_a_rollback(
    approved: World,
) -> None:
    old = approved.generation()
    query = vector_of(approved, old, "apple7 pear7")
    with client(approved) as snapshot:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        given = (Vector(query).to_text(), old.encoder_fp, 3, None, "document")
        before = snapshot.execute(SEARCH, given).fetchall()
        approved.upgrade("b200")
        new = approved.generation()
        assert snapshot.execute(SEARCH, given).fetchall() == before, "the snapshot is of before the swap, in all things"
        assert {row[5] for row in before} == {old.gen}
    assert refusal(approved, query, old.encoder_fp) == "RV004"
    assert same(approved, "apple7 pear7") == 10
    assert by_function(approved, vector_of(approved, new, "apple7 pear7"), new.encoder_fp, 1)[0][5] == new.gen
    approved.put(5, 300)
    approved.settle()
    approved.migrator.rollback("a test")
    assert by_function(approved, query, old.encoder_fp, 1)[0][::5] == ("d00007", old.gen)
    assert refusal(approved, query, new.encoder_fp) == "RV004"
    assert same(approved, "apple301 pear301") == 10


def refusal(world: World, vector: Any, encoder_fp: Any, *rest: Any, **session: str) -> str:
    """The SQLSTATE that a search is refused with; the error says that nothing was searched, and what to do."""
    with pytest.raises(psycopg.Error) as caught:
        by_function(world, vector, encoder_fp, *rest, **session)
    said = caught.value.diag
    assert said.message_hint, said.message_primary
    assert "Nothing was" in (said.message_primary or "")
    return said.sqlstate or ""


def test_what_cannot_be_answered_is_an_error_with_a_sqlstate_and_a_hint(served: World) -> None:
    generation = served.generation()
    good, fp = vector_of(served, generation, "apple7 pear7"), generation.encoder_fp
    assert refusal(served, good, "0" * 64) == refusal(served, good, None) == "RV004"
    assert refusal(served, good[:-1], fp) == refusal(served, good * 0, fp) == refusal(served, None, fp) == "RV005"
    assert (
        refusal(served, good, fp, 0) == refusal(served, good, fp, 1_001) == refusal(served, good, fp, None) == "RV006"
    )
    assert refusal(served, good, fp, 5, None, "passage") == "RV006"
    for where in (
        [1],
        {"": 1},
        {"a": []},
        {"a": {"near": 1}},
        {"a": {}},
        {"a": {"gt": None}},
        {"a": list(range(1_001))},
    ):
        assert refusal(served, good, fp, 5, where) == "RV006", where
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    assert refusal(served, good, fp, 5, {"a": deep}) == "RV006"
    with client(served) as connection:
        for call in (
            "search('other', '[1]', 'x')",
            "active('other')",
            "put('other', 'a', 'b')",
            "delete('other', 'a')",
        ):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(f"SELECT revector.{call}")
            assert (caught.value.sqlstate, bool(caught.value.diag.message_hint)) == ("RV001", True), call


def test_a_collection_that_serves_nothing_yet_says_so(world: World) -> None:
    assert refusal(world, [1.0], "x") == "RV002"
    with client(world) as connection, pytest.raises(psycopg.Error, match="serves nothing yet"):
        connection.execute("SELECT * FROM revector.active('docs')")


def test_an_index_outside_of_postgresql_is_named_and_not_answered(world: World) -> None:
    world.revision(
        "a100", None, 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(kind="exact", store="tested")'
    )
    with added("tested", MemoryStore()):
        world.put(60)
        world.upgrade("a100")
        generation = world.generation()
        assert refusal(world, vector_of(world, generation, "apple1"), generation.encoder_fp) == "RV003"
        with client(world) as connection:
            assert connection.execute("SELECT store FROM revector.active('docs')").fetchone() == ("tested",)


def test_a_snapshot_that_is_older_than_a_retirement_is_refused_not_answered_wrongly(swapped: World) -> None:
    swapped.migrator.rollback("a test")
    old = swapped.generation()
    query = vector_of(swapped, old, "apple7 pear7")
    with client(swapped) as snapshot:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT 1 FROM revector.collection")
        swapped.upgrade("b200")
        swapped.migrator.retire("a test", now=True)
        with pytest.raises(psycopg.Error, match="begin another") as caught:
            snapshot.execute(SEARCH, (Vector(query).to_text(), old.encoder_fp, 3, None, "document"))
        assert caught.value.sqlstate == "RV007"


@pytest.mark.parametrize(
    "index",
    [
        'storage="halfvec"',
        'quantize="bit", rerank=2',
        'storage="halfvec", quantize="bit"',
        'kind="exact"',
        'metric="dot"',
        'metric="l2", storage="halfvec"',
    ],
)
def test_every_kind_of_index_in_postgresql_answers_as_the_searcher_does(world: World, index: str) -> None:
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)', f"index = IndexSpec({index})")
    world.put(400, half=True)
    world.upgrade("a100")
    for query in ("apple7 pear7", "some words here"):
        for by in ("document", "chunk"):
            assert same(world, query, 20, by=by) == 20
            same(world, query, 20, {"n": {"lt": 12}}, by)


def test_active_tells_what_a_client_needs_to_make_a_vector(served: World) -> None:
    generation = served.generation()
    model = generation.spec.model
    with client(served) as connection:
        found = connection.execute("SELECT * FROM revector.active('docs')").fetchone()
    assert found == (
        generation.revision, generation.gen, generation.encoder_fp, model.name, model.dim, "cosine", model.normalize,
        model.max_tokens, model.query_prompt, model.document_prompt, "pgvector", {},
    )  # fmt: skip


def test_nothing_that_is_named_in_a_filter_can_leave_its_literal(served: World) -> None:
    generation = served.generation()
    query = vector_of(served, generation, "apple7 pear7")
    nasty = [
        "'; DROP TABLE x; --",
        "a\"]}') OR true --",
        "\\'",
        "$$",
        "%s",
        "{0}",
        "\\\\' OR 'a'='a",
        "2024-01-01' OR '",
    ]
    for one in nasty:
        for where in (
            {one: 1},
            {"a": one},
            {"a": {"gt": one}},
            {"a": [one, *map(str, range(70))]},
            {f"a.{one}": {one: 1}},
        ):
            if isinstance(next(iter(where.values())), dict) and one in next(iter(where.values())):
                assert refusal(served, query, generation.encoder_fp, 5, where) == "RV006"
            else:
                assert by_function(served, query, generation.encoder_fp, 5, where) == []
    assert len(by_function(served, query, generation.encoder_fp, 5, None, standard_conforming_strings="off")) == 5


def test_a_client_that_asks_all_the_while_never_gets_an_answer_of_another_model(approved: World) -> None:
    made_by = {}
    for role in ("active", "building"):
        one = approved.generation(role)
        made_by[one.encoder_fp] = (one.gen, Vector(vector_of(approved, one, "apple7 pear7")).to_text())
    answered, refused = list[tuple[str, int, str]](), list[str]()
    stop = threading.Event()

    def ask() -> None:
        with client(approved) as connection:
            fp = connection.execute("SELECT encoder_fp FROM revector.active('docs')").fetchone()[0]  # type: ignore[index]
            while not stop.is_set():
                try:
                    [row] = connection.execute(SEARCH, (made_by[fp][1], fp, 1, None, "document")).fetchall()
                    answered.append((fp, row[5], row[0]))
                except psycopg.DatabaseError as error:
                    refused.append(error.sqlstate or str(error))
                    fp = next(other for other in made_by if other != fp)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for move in (lambda: approved.upgrade("b200"), lambda: approved.migrator.rollback("a test")) * 2:
            before = len(answered)
            move()
            until(lambda before=before: len(answered) > before + 20)
    finally:
        stop.set()
        thread.join()
    assert {(fp, gen, doc_id) for fp, gen, doc_id in answered} == {
        (fp, gen, "d00007") for fp, (gen, _) in made_by.items()
    }
    assert set(refused) == {"RV004"}
    assert len(refused) == 4, "once for each move"
