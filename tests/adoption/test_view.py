"""A view over an adopted table: the application's rows beside the vectors of the model that serves, and of no other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from evaluation.reliability.checks import wait_until

from adoption.conftest import VIEW, Application, ViewedApplication
from revector.errors import GateBusy
from revector.registry.control import control


def sqlstate(error: sa.exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", ""))


def fingerprint(application: Application) -> str:
    return str(application.sql("SELECT encoder_fp FROM revector.active('articles')")[0][0])


def test_rows_are_read_beside_the_vectors_that_were_adopted(viewed: ViewedApplication) -> None:
    nearest = f"SELECT * FROM {VIEW} ORDER BY embedding <=> CAST(:v AS vector) LIMIT 1"
    (row,) = viewed.sql(nearest, v=viewed.vector("apple7\npear7 some words here"))
    assert list(row._fields) == ["id", "title", "body", "lang", "views", "embedding", "revector_chunk"]
    assert (row.id, row.title, row.lang, row.revector_chunk) == (7, "apple7", "en", 0)
    assert row.embedding == viewed.sql("SELECT embedding FROM public.articles WHERE id = 7")[0][0]


def test_the_view_moves_with_the_alias_there_back_and_there_again(viewed: ViewedApplication) -> None:
    migrator = viewed.project.migrator("articles")
    assert viewed.widths() == {64: 15}
    migrator.run("swap")
    assert viewed.widths() == {96: 18}, "row 3 has four chunks"
    assert viewed.sql(f"SELECT array_agg(revector_chunk ORDER BY 1) FROM {VIEW} WHERE id = 3")[0][0] == [0, 1, 2, 3]
    migrator.rollback("a test")
    assert viewed.widths() == {64: 15}
    migrator.run("swap")
    assert viewed.widths() == {96: 18}
    migrator.retire(now=True)
    assert viewed.widths() == {96: 18}
    assert viewed.project.verify("articles").passed


def test_a_transaction_that_began_before_the_swap_never_reads_vectors_of_the_other_model(
    viewed: ViewedApplication,
) -> None:
    with viewed.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        before = connection.scalar(sa.text("SELECT encoder_fp FROM revector.active('articles')"))
        viewed.project.migrator("articles").run("swap")
        assert connection.scalar(sa.text("SELECT encoder_fp FROM revector.active('articles')")) == before
        with pytest.raises(sa.exc.OperationalError, match="was moved since this transaction took its snapshot") as told:
            connection.execute(sa.text(f"SELECT embedding FROM {VIEW}"))
        assert sqlstate(told.value) == "40001"


def test_a_vector_of_another_model_is_refused_in_the_statement_itself(viewed: ViewedApplication) -> None:
    ask = f"SELECT id FROM {VIEW} WHERE revector.expect('articles', :fp) ORDER BY embedding <=> :v LIMIT 1"
    old, vector = fingerprint(viewed), viewed.vector("apple7\npear7 some words here")
    assert viewed.sql(ask, fp=old, v=vector) == [(7,)]
    viewed.project.migrator("articles").run("swap")
    with pytest.raises(sa.exc.DBAPIError, match="Make the vector by the model that serves") as told:
        viewed.sql(ask, fp=old, v=vector)
    assert sqlstate(told.value) == "RV004"
    with pytest.raises(sa.exc.DBAPIError) as told:
        viewed.sql("SELECT revector.expect('nothing', :fp)", fp=old)
    assert sqlstate(told.value) == "RV001"


def test_what_a_row_is_now_decides_whether_it_is_seen(viewed: ViewedApplication) -> None:
    viewed.sql(
        "DELETE FROM public.articles WHERE id = 1; UPDATE public.articles SET lang = 'de' WHERE id = 2;"
        "INSERT INTO public.articles (id, title, lang) VALUES (30, 'quince', 'en')"
    )
    ids = f"SELECT DISTINCT id FROM {VIEW} WHERE id IN (1, 2, 3, 30) ORDER BY id"
    assert viewed.sql(ids) == [(3,)], "the new row has no vector yet"
    viewed.settle()
    assert viewed.sql(ids) == [(3,), (30,)]


def plan(application: Application, query: str) -> str:
    with application.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off")
        return "\n".join(connection.scalars(sa.text(f"EXPLAIN {query}")))


@pytest.mark.parametrize("swapped", [False, True])
def test_indexes_serve_both_ways_vectors_to_rows_and_rows_to_vectors(viewed: ViewedApplication, swapped: bool) -> None:
    if swapped:
        viewed.project.migrator("articles").run("swap")
    generation = "g2" if swapped else "g1"
    vector = str([1.0] * (96 if swapped else 64))
    fp = fingerprint(viewed)
    nearest = plan(
        viewed,
        f"SELECT id FROM {VIEW} WHERE revector.expect('articles', '{fp}') ORDER BY embedding <=> '{vector}' LIMIT 3",
    )
    assert f"Index Scan using idx_articles_{generation}_hnsw" in nearest
    assert "using articles_pkey" in nearest
    assert "Sort" not in nearest
    by_row = plan(viewed, f"SELECT embedding FROM {VIEW} WHERE id = 5")
    assert f"using idx_articles_{generation}_key" in by_row
    assert "Seq Scan" not in by_row


KEYS = {
    "composite": ('"A b" varchar(20), n smallint', '"A b", n', "('x/%', 3)"),
    "text": ("id text", "id", "('x')"),
    "collated": ('id text COLLATE "POSIX"', "id", "('Äx')"),
    "uuid": ("id uuid", "id", "('6f1c0c2e-0000-4000-8000-00000000000a')"),
    "numeric": ("id numeric(8,2)", "id", "(1.5)"),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_and_names_of_any_kind_are_joined(application: Application, key: str) -> None:
    columns, names, value = KEYS[key]
    application.sql('CREATE SCHEMA "My schema"')
    application.sql(f'CREATE TABLE "My schema"."My ""Rows"" %" ({columns}, "te xt" text, PRIMARY KEY ({names}))')
    application.sql(f'INSERT INTO "My schema"."My ""Rows"" %" VALUES ({value[1:-1]}, \'some words\')')
    ids = tuple(one.strip(' "') for one in names.split(","))
    changes: dict[str, Any] = {"id": ids, "text": ("te xt",), "meta": (), "vectors": False, "view": '"its ""View"""'}
    application.adopt(table='"My schema"."My ""Rows"" %"', **changes)
    view = '"My schema"."its ""View"""'
    (row,) = application.sql(f"SELECT * FROM {view}")
    assert (row[-3], row[-1], row._fields[-2]) == ("some words", 0, "embedding")
    if key != "numeric":  # compared as text: from a vector no index leads to its row
        assert "_pkey" in plan(application, f"SELECT 1 FROM {view} ORDER BY embedding <=> '{[1.0] * 64}' LIMIT 1")


def test_a_reader_that_stays_open_holds_up_the_swap_and_is_never_a_deadlocks_victim(viewed: ViewedApplication) -> None:
    migrator = viewed.project.migrator("articles")
    with ThreadPoolExecutor(1) as pool, viewed.engine.connect() as connection:
        connection.execute(sa.text(f"SELECT count(*) FROM {VIEW}"))
        swapping = pool.submit(migrator.run, "swap")
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'revector.vectors_1'::regclass"
        waits = waits.replace("::", "\\:\\:")
        wait_until(lambda: viewed.sql(waits)[0][0] == 1, 20, "the swap waits for the reader")
        # It holds the gate, for which this write waits: the swap gives way within 200 ms, and tries again.
        connection.execute(sa.text("UPDATE public.articles SET title = 'olive' WHERE id = 1"))
        assert connection.scalar(sa.text(f"SELECT max(vector_dims(embedding)) FROM {VIEW}")) == 64
        connection.commit()
        assert swapping.result().changed
    assert set(viewed.widths()) == {96}


def test_a_swap_that_gives_way_says_for_what(viewed: ViewedApplication) -> None:
    viewed.project.migrator("articles").run("swap")
    with viewed.engine.connect() as connection:
        connection.execute(sa.text(f"SELECT count(*) FROM {VIEW}"))
        with (
            pytest.raises(GateBusy, match=r"a transaction that read the view .* did not end in time"),
            control(viewed.project.engine, 1, actor="tester") as held,
        ):
            held.move_slots("active_gen = standby_gen, standby_gen = active_gen")
    assert set(viewed.widths()) == {96}
