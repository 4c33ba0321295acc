"""The judge of the demo's second act: it finds nothing where nothing is wrong, and names each planted fault."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sqlalchemy as sa

from adoption.conftest import Application
from extras import needs
from revector.encoders.hashing import HashingEncoder
from revector.interfaces import whole_texts
from revector.local.record import ApplicationCounts
from revector.local.table_application import TABLES
from revector.local.table_oracle import (
    ActVerdict,
    Answers,
    Shown,
    changed,
    compare_table,
    judge,
    judge_answers,
    see,
    told,
)
from revector.spec import ModelSpec

QUERIES = ["apple1 pear1", "some words", "quince"]


def embed(model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    seed = int(model.partition("seed")[2] or 0)
    made = np.asarray(
        HashingEncoder(ModelSpec(model, 64), seed=seed).encode("document", whole_texts(texts)), np.float32
    )
    unit: npt.NDArray[np.float32] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def look(application: Application) -> Shown:
    """What the judge says of what searches show now."""
    application.settle()
    rows = application.sql("SELECT id, title, body FROM public.articles WHERE lang = 'en'")
    truth = {str(row.id): f"{row.title}\n{row.body}" for row in rows}
    with application.engine.connect() as connection:
        return judge(see(connection, "articles", truth, {"hashing": embed("hashing", QUERIES)}), embed, "now")


def test_what_follows_the_table_is_found_right(adopted: Application) -> None:
    adopted.insert(100)
    adopted.sql("UPDATE public.articles SET title = 'quince' WHERE id = 3; DELETE FROM public.articles WHERE id = 5")
    found = look(adopted)
    assert (found.rows, found.model, list(found.broken())) == (15, "hashing", [])


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO public.articles VALUES (100, 'quince', 'some words', 'en')", "now: 1 of 16 rows are lost (100)"),
        ("UPDATE public.articles SET body = 'quince' WHERE id = 3", "now: 1 of 15 rows are stale (3)"),
        ("DELETE FROM public.articles WHERE id = 3", "now: 1 of 14 rows are resurrected (3)"),
    ],
)
def test_a_write_that_was_not_followed_is_named(adopted: Application, statement: str, said: str) -> None:
    adopted.sql("ALTER TABLE public.articles DISABLE TRIGGER USER")
    adopted.sql(statement)
    assert list(look(adopted).broken()) == [said]


def test_a_vector_of_another_model_in_the_index_is_named(adopted: Application) -> None:
    [name] = adopted.sql("SELECT physical_name FROM revector.generation")[0]
    other = embed("hashing:seed2", ["apple3\npear3 some words here"])[0]
    with adopted.project.engine.begin() as connection:
        connection.execute(
            sa.text(f"UPDATE {name} SET embedding = CAST(:v AS vector) WHERE doc_id = '3'"), {"v": str(other.tolist())}
        )
    assert list(look(adopted).broken()) == ["now: 1 of 15 rows are stale (3)"]


CORPUS = {"a": "apple tree", "b": "pear tree"}


def query(by: str = "hashing", model: str = "hashing", *, began: float = 2.0, ids: Sequence[str] = ("a",)) -> Any:
    """An answer: asked by ``by``, with scores as an index of ``model`` gives them."""
    asked = embed(by, ["apple"])[0]
    hits = [(one, float(asked @ embed(model, [CORPUS.get(one, "new words")])[0])) for one in ids]
    return {"op": "query", "ok": True, "query": "apple", "model": by, "revision": "r1", "began": began, "hits": hits}


@pytest.mark.parametrize(
    ("lines", "wrong_model", "resurrected"),
    [
        ([query(ids=("a", "b"))], 0, 0),
        ([query(model="hashing:seed2")], 1, 0),
        ([{"op": "put", "id": "a", "text": "quince", "at": 1.0}, query()], 0, 0),
        ([{"op": "put", "id": "n", "text": "new words", "at": 1.0}, query(ids=("n",))], 0, 0),
        ([{"op": "delete", "id": "a", "text": "", "at": 1.0}, query()], 0, 1),
        ([{"op": "delete", "id": "a", "text": "", "at": 3.0}, query()], 0, 0),
        ([query(ids=("draft-1",))], 0, 1),
    ],
)
def test_an_answer_is_right_by_its_model_and_of_rows_that_are_there(
    lines: list[Mapping[str, Any]], wrong_model: int, resurrected: int
) -> None:
    found = judge_answers(CORPUS, lines, embed)
    assert (found.judged, found.wrong_model, found.resurrected) == (1, wrong_model, resurrected)
    assert bool(list(found.broken())) == bool(wrong_model or resurrected)


def test_the_table_itself_is_compared_with_what_the_application_was_told() -> None:
    lines = [
        {"op": "put", "id": "c", "text": "fig"},
        {"op": "delete", "id": "b"},
        {"op": "put", "id": "a", "text": "z"},
    ]
    wanted = told(CORPUS, lines)
    assert wanted == {"a": "z", "c": "fig"}
    found = compare_table({"a": "apple tree", "b": "pear tree"}, wanted, "at the end")
    assert (found.lost, found.stale, found.resurrected) == (("c",), ("a",), ("b",))


def test_what_an_adoption_leaves_behind_is_named(application: Application) -> None:
    application.create(5)
    before = application.catalogue()
    application.adopt()
    came = changed(before, application.catalogue())
    assert len([one for one in came if "trigger" in one]) >= 3
    application.sql("COMMENT ON COLUMN public.articles.title IS 'planted'")
    application.project.adopter("articles").end()
    [gone, planted] = sorted(changed(before, application.catalogue()), key=lambda one: "planted" in one)
    assert re.match(r"column public\.articles\.title .* is there no longer", gone)
    assert re.match(r"column public\.articles\.title .* planted was not there before", planted)
    application.sql("COMMENT ON COLUMN public.articles.title IS NULL")
    assert changed(before, application.catalogue()) == []


def test_a_verdict_is_broken_by_whatever_was_not_as_promised() -> None:
    counts = ApplicationCounts(writes=9, deletes=3, queries=9, by_revision={"its own column": 3, "r1": 3, "r2": 3})
    shown = Shown("after the swap", "second", 5, (), (), ())
    given: dict[str, Any] = {
        "counts": counts,
        "looks": [shown],
        "answers": Answers(9),
        "left": [],
        "failed_writes": [],
        "failed_queries": [],
        "wanted": {"after the swap": "second"},
    }
    assert ActVerdict(**given).broken() == []
    planted: list[tuple[dict[str, Any], str]] = [
        ({"looks": [Shown("after the swap", "first", 5, (), (), ())]}, "after the swap: first answers, not second"),
        ({"looks": []}, "after the swap: nothing answers, not second"),
        ({"looks": [Shown("after the swap", "second", 5, ("a",), (), ())]}, "1 of 5 rows are lost (a)"),
        ({"answers": Answers(9, wrong_model=2)}, "2 answers are of an index of another model"),
        ({"left": ["trigger x was not there before"]}, "trigger x was not there before"),
        ({"failed_writes": ["deadlock detected"]}, "1 writes of the application failed, the first with: deadlock"),
        ({"failed_queries": ["timeout"]}, "1 queries of the application failed"),
        ({"counts": ApplicationCounts(writes=9, deletes=3, by_revision={"r1": 3})}, "did not do enough"),
    ]
    for change, said in planted:
        [sentence] = ActVerdict(**given | change).broken()
        assert said in sentence


def test_the_tables_of_the_demo_are_those_that_langchain_makes() -> None:
    needs("langchain_postgres")
    from langchain_postgres.vectorstores import _get_embedding_collection_store  # type: ignore[import-not-found]
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateIndex, CreateTable

    embedding, collection = (one.__table__ for one in _get_embedding_collection_store(None))
    made = [CreateTable(collection), CreateTable(embedding), *map(CreateIndex, embedding.indexes)]
    plain = [re.sub(r"\s+", " ", str(one.compile(dialect=postgresql.dialect()))).strip() for one in made]
    assert [re.sub(r"\s*([(),])\s*", r"\1", one) for one in plain] == [
        re.sub(r"\s*([(),])\s*", r"\1", re.sub(r"\s+", " ", one)) for one in TABLES
    ]
