"""Filters: metadata is found whatever its shape and spelling, and a field that holds nothing of the kind is named."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from revector.cli import run
from revector.formats.values import plain
from revector.interfaces import Document
from revector.serving.filters import LOOKED_AT, MANY, compile_filter, why_nothing
from services import SEARCH, serve
from worlds import World

META: Mapping[str, Mapping[str, Any]] = {
    "seal": {"tags": ["hydraulics", "short"], "author": {"name": "Ann"}, "at": "2026-03-29T01:30:00+01:00"},
    "belt": {"tags": ["drive"], "author": {"name": "Bo"}, "at": "2026-03-29T00:45:00Z"},
    "lamp": {"tags": [], "author": {"name": "Ann"}, "at": "2026-03-29T02:15:00+02:00"},
    "dots": {
        "author.name": "Zoe",
        "authors": [{"name": "Ann"}, {"name": "Cy"}],
        "n": [5, 25],
        "at": "2026-03-29 00:50",
    },
    "deep": {"a": {"b": [{"c": -7}, {"c": 2.50}]}, "flag": True, "none": None, "tags": "short", "day": "2026-03-29"},
    "list": {"log": ["2026-03-01T00:00:00Z", "2026-05-01T00:00:00Z"], "state": "n/a", "name": 'a "b" \\ $.c'},
}

FOUND: list[tuple[dict[str, Any], set[str]]] = [
    ({"tags": "short"}, {"seal", "deep"}),
    ({"tags": ["drive", "hydraulics"]}, {"belt", "seal"}),
    ({"tags": [["hydraulics", "short"]]}, {"seal"}),
    ({"author.name": "Ann"}, {"seal", "lamp"}),
    ({"author.name": ["Bo", "Zoe"]}, {"belt", "dots"}),
    ({"author": [{"name": "Bo"}]}, {"belt"}),
    ({"authors.name": "Cy"}, {"dots"}),
    ({"a.b.c": -7}, {"deep"}),
    ({"a.b.c": {"gte": 2.5}}, {"deep"}),
    ({"n": 25}, {"dots"}),
    ({"n": {"gt": 20}}, {"dots"}),
    ({"n": {"gt": 10, "lt": 20}}, set()),
    ({"n": [*range(26, 26 + MANY), 5]}, {"dots"}),
    ({"authors.name": [*map(str, range(MANY)), "Ann"]}, {"dots"}),
    ({"name": [*map(str, range(MANY)), "NULL", "{,}", "", 'a "b" \\ $.c']}, {"list"}),
    ({"flag": True}, {"deep"}),
    ({"flag": 1}, set()),
    ({"none": None}, {"deep"}),
    ({"name": 'a "b" \\ $.c'}, {"list"}),
    ({"state": {"gte": "m"}}, {"list"}),
    ({"at": "2026-03-29T00:30:00Z"}, {"seal"}),
    ({"at": "2026-03-28T19:15:00.000-05:00"}, {"lamp"}),
    ({"at": ["2026-03-29T00:50:00+00:00", "2026-03-29 02:45+02"]}, {"belt", "dots"}),
    ({"at": {"gte": "2026-03-29T00:30:00Z"}}, {"seal", "belt", "dots"}),
    ({"at": {"gt": "2026-03-29T00:30:00+00:00"}}, {"belt", "dots"}),
    ({"at": {"lte": datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2)))}}, {"seal", "lamp"}),
    ({"at": {"gte": date(2026, 3, 29), "lt": "2026-03-30"}}, {"seal", "belt", "lamp", "dots"}),
    ({"at": {"lt": "2026-03-29T00:15:00.000001Z"}}, {"lamp"}),
    ({"day": {"lt": "2026-03-29T00:00:00+01:00"}}, set()),
    ({"day": {"lt": "2026-03-29T00:00:00-01:00"}}, {"deep"}),
    ({"log": {"gte": "2026-04-01", "lt": "2026-04-30T00:00:00Z"}}, set()),
    ({"log": {"gte": "2026-04-01", "lt": "2026-05-01T02:00:00+01:00"}}, {"list"}),
]


@pytest.fixture(scope="module")
def stored(databases, template, tmp_path_factory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("filters"), databases.url(databases.create(template)))
    world.documents.put_many([Document(name, "some text", meta) for name, meta in META.items()])
    yield world
    world.engine.dispose()


def found(world: World, where: Mapping[str, Any]) -> set[str]:
    """What a filter finds, by our Python and by the function of the database: always the same."""
    sql, params = compile_filter(where)
    there = {row.doc_id for row in world.sql(f"SELECT doc_id FROM document d WHERE NOT deleted AND {sql}", **params)}
    condition = world.value("SELECT filter_condition(CAST(:where AS jsonb))", where=json.dumps(plain(where)))
    with world.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        rows = driver.execute(f"SELECT doc_id FROM revector.document d WHERE NOT deleted AND {condition}")
        assert {row[0] for row in rows} == there, condition
    return there


@pytest.mark.parametrize(("where", "wanted"), FOUND)
def test_a_filter_finds_elements_nested_fields_and_moments(stored: World, where: Any, wanted: set[str]) -> None:
    assert found(stored, where) == wanted


def spellings(moment: datetime, rng: random.Random) -> str:
    """The moment, spelled as someone might; some without zone, which is UTC."""
    zone = timezone(timedelta(minutes=15 * rng.randint(-47, 56)))
    if rng.random() < 0.2:
        local, ending = moment, rng.choice(["", "Z", "z", "+00", "+0000", "-00:00"])
    else:
        local = moment.astimezone(zone)
        ending = local.isoformat()[-6:]
        ending = rng.choice([ending, ending.replace(":", "")])
    text = local.strftime("%Y-%m-%d") + rng.choice("Tt ") + local.strftime("%H:%M")
    if local.microsecond:
        text += local.strftime(":%S.%f") + rng.choice(["", "000"])
    elif local.second:
        text += local.strftime(":%S") + rng.choice(["", ".0", ".000"])
    return text + ending


def test_moments_are_compared_as_moments_whatever_their_spelling(world: World) -> None:
    rng = random.Random(7)
    start = datetime(2023, 12, 31, 20, tzinfo=UTC)
    moments = [
        start + timedelta(minutes=15 * rng.randint(0, 30), microseconds=rng.choice([0, 0, 1, 250_000]))
        for _ in range(150)
    ]
    world.documents.put_many(
        [Document(f"m{n}", "some text", {"at": spellings(moment, rng)}) for n, moment in enumerate(moments)]
    )

    def those(test) -> set[str]:
        return {f"m{n}" for n, moment in enumerate(moments) if test(moment)}

    for _ in range(15):
        low, high = sorted(rng.sample(moments, 2))
        assert found(world, {"at": spellings(low, rng)}) == those(lambda moment, low=low: moment == low)
        where = {"at": {"gte": spellings(low, rng), "lt": spellings(high, rng)}}
        assert found(world, where) == those(lambda moment, low=low, high=high: low <= moment < high), where
        where = {"at": {"gt": spellings(low, rng), "lte": spellings(high, rng)}}
        assert found(world, where) == those(lambda moment, low=low, high=high: low < moment <= high), where


ODD = ["2023-02-29T00:00Z", "2026-04-31", "0000-01-01T00:00Z", "2026-01-01T24:00Z", "2026-01-01T00:00+99:00", "n/a", ""]
ODD += ["9999-12-31T23:59:59.999999999-15:59", "1000-01-01T00:00+15:59", "2024-02-29T00:00Z", "2000-02-29 00:00Z"]
ODD += [
    "1900-02-29T00:00Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01T00:00Z\n",
    "٢٠٢٦-01-01T00:00Z",
    "2026-1-1T0:00Z",
    "2026",
]


def test_text_that_is_no_moment_is_compared_as_text_and_breaks_no_search(world: World) -> None:
    world.documents.put_many([Document(f"o{n}", "some text", {"at": odd}) for n, odd in enumerate(ODD)])
    for n, odd in enumerate(ODD):
        assert f"o{n}" in found(world, {"at": odd})
        assert f"o{n}" in found(world, {"at": {"gte": odd, "lte": odd}})
        assert f"o{n}" not in found(world, {"at": {"gt": odd}})
        found(world, {"at": {"lt": odd}})


def test_equality_also_with_elements_and_nested_fields_is_answered_by_the_index(stored: World) -> None:
    for where in ({"tags": "short"}, {"author.name": ["Ann", "Bo"]}, {"n": -1}):
        sql, params = compile_filter(where)
        with stored.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = connection.execute(sa.text(f"EXPLAIN SELECT FROM document d WHERE {sql}"), params).scalars()
            assert "document_meta" in " ".join(plan), where


SAID: list[tuple[dict[str, Any], list[str]]] = [
    ({"lnag": "en"}, ["'lnag': no document has this field"]),
    ({"author.nmae": "Ann"}, ["'author.nmae': no document has this field"]),
    ({"n": "25"}, ["'n': the field holds numbers, and the filter asks for text"]),
    ({"n": {"gte": "5"}}, ["'n': the field holds numbers"]),
    ({"tags": [1, True]}, ["'tags': the field holds text, and the filter asks for true or false or numbers"]),
    ({"author": "Ann"}, ["'author': the field holds objects", "'author.name'"]),
    ({"flag": "true", "x": 1}, ["'flag': the field holds true or false", "'x': no document has"]),
    ({"n": 26, "flag": True}, []),
    ({"tags": "long"}, []),
]


@pytest.mark.parametrize(("where", "says"), SAID, ids=str)
def test_a_field_that_no_document_has_or_has_with_other_types_is_named(
    stored: World, where: Any, says: list[str]
) -> None:
    with stored.engine.connect() as connection:
        said = why_nothing(connection, 1, where)
        assert why_nothing(connection, 999, where) == ()
    assert all(any(one in sentence for sentence in said) for one in says), said
    assert bool(said) == bool(says)


def test_a_warning_says_at_how_many_documents_it_looked(world: World) -> None:
    world.sql(
        "INSERT INTO document (cid, doc_id, content) SELECT 1, 'd' || n, 'x' FROM generate_series(1, :n) n", n=LOOKED_AT
    )
    with world.engine.connect() as connection:
        assert why_nothing(connection, 1, {"a": 1}) == (
            f"filter 'a': none of {LOOKED_AT:,} documents that were looked at has this field.",
        )


def test_warnings_are_in_the_answer_of_python_http_and_command_line(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "filter 'n': the field holds numbers, and the filter asks for text."
    answer = served.project.searcher("docs").search("apple7", where={"n": "7"})
    assert (answer.hits, answer.warnings) == ((), (said,))
    assert served.project.searcher("docs").search("apple7", where={"n": 7}).warnings == ()
    with serve(served.project) as client:
        assert client.post(SEARCH, json={"query": "apple7", "where": {"n": "7"}}).json()["warnings"] == [said]
    monkeypatch.chdir(served.root)
    assert run(["search", "apple7", "--where", '{"n": "7"}', "--explain"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert run(["search", "apple7", "--where", '{"n": "7"}', "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [said]
