"""Writes of the application reach the documents in its own transactions, whatever it does to its table."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from adoption.conftest import Application
from revector.adoption.adoptions import read_adoption
from revector.adoption.checking import TableFindings, compare
from revector.errors import StateError
from revector.sources import open_source


def check(application: Application) -> TableFindings:
    engine = application.project.engine
    with engine.connect() as connection:
        adoption = read_adoption(connection, application.project.cid("articles"))
    assert adoption is not None
    return compare(engine, adoption)


WRITES = {
    "an insert": (
        "INSERT INTO public.articles (id, title, body, lang) VALUES (100, 'fig', 'olive', 'en')",
        {"100": "fig\nolive"},
    ),
    "an update of a text": (
        "UPDATE public.articles SET title = 'fig' WHERE id = 1",
        {"1": "fig\npear1 some words here"},
    ),
    "an update of metadata alone": (
        "UPDATE public.articles SET lang = 'en', views = 3 WHERE id = 4",
        {"4": "apple4\npear4 some words here"},
    ),
    "a row that leaves the condition": ("UPDATE public.articles SET lang = 'de' WHERE id = 1", {"1": None}),
    "a row whose text is emptied": ("UPDATE public.articles SET title = '', body = NULL WHERE id = 1", {"1": None}),
    "a delete": ("DELETE FROM public.articles WHERE id = 1", {"1": None}),
    "a truncate": ("TRUNCATE public.articles", {str(n): None for n in range(20)}),
    "an id that changes": (
        "UPDATE public.articles SET id = 50 WHERE id = 1",
        {"1": None, "50": "apple1\npear1 some words here"},
    ),
    "ids that are exchanged": (
        (
            "UPDATE public.articles SET id = CASE id WHEN 1 THEN -1 ELSE 1 END WHERE id IN (1, 2);"
            "UPDATE public.articles SET id = 2 WHERE id = -1"
        ),
        {"1": "apple2\npear2 some words here", "2": "apple1\npear1 some words here"},
    ),
    "an upsert": (
        (
            "INSERT INTO public.articles (id, title, body, lang) VALUES (1, 'fig', 'olive', 'en') ON CONFLICT (id) DO "
            "UPDATE SET title = EXCLUDED.title"
        ),
        {"1": "fig\npear1 some words here"},
    ),
    "a merge": (
        (
            "MERGE INTO public.articles a USING (VALUES (1), (200)) v(id) ON a.id = v.id WHEN MATCHED THEN DELETE "
            "WHEN NOT MATCHED THEN INSERT (id, title, lang) VALUES (v.id, 'fig', 'en')"
        ),
        {"1": None, "200": "fig"},
    ),
    "a session of replication": (
        "SET LOCAL session_replication_role = replica; UPDATE public.articles SET title = 'fig' WHERE id = 1",
        {"1": "fig\npear1 some words here"},
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_of_the_application_is_followed(adopted: Application, name: str) -> None:
    statement, wanted = WRITES[name]
    adopted.sql(statement)
    found = {doc_id: text for doc_id, (text, _) in adopted.documents().items()}
    assert {doc_id: found.get(doc_id) for doc_id in wanted} == wanted
    assert check(adopted).said == []


def test_a_write_that_is_rolled_back_leaves_no_trace(adopted: Application) -> None:
    before = adopted.documents()
    with adopted.engine.connect() as connection:
        connection.execute(sa.text("DELETE FROM public.articles"))
        connection.rollback()
    assert adopted.documents() == before


def test_copied_rows_are_followed(adopted: Application) -> None:
    with adopted.engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with driver.cursor().copy("COPY public.articles (id, title, lang) FROM STDIN") as copy:
            copy.write_row((300, "fig", "en"))
    assert adopted.documents()["300"] == ("fig", {"lang": "en"})


def test_an_update_of_another_column_costs_no_version(adopted: Application) -> None:
    versions = "SELECT max(version) FROM revector.document"
    before = adopted.sql(versions)
    adopted.sql("UPDATE public.articles SET views = views + 1, embedding = NULL")
    assert adopted.sql(versions) == before


def test_a_text_that_a_trigger_of_the_application_makes_is_the_one_that_is_stored(adopted: Application) -> None:
    adopted.sql(
        "CREATE FUNCTION public.shout() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END';"
        "CREATE TRIGGER zz_shout BEFORE INSERT OR UPDATE ON public.articles FOR EACH ROW EXECUTE FUNCTION "
        "public.shout()"
    )
    adopted.sql("UPDATE public.articles SET views = 1 WHERE id = 1")
    assert adopted.documents()["1"][0].startswith("APPLE1")


def test_renamed_columns_and_tables_are_followed(adopted: Application) -> None:
    adopted.sql(
        "ALTER TABLE public.articles RENAME COLUMN title TO headline; ALTER TABLE public.articles RENAME COLUMN lang "
        "TO language; ALTER TABLE public.articles RENAME COLUMN id TO number; ALTER TABLE public.articles RENAME TO "
        "posts; CREATE SCHEMA shop; ALTER TABLE public.posts SET SCHEMA shop; ALTER TABLE shop.posts ADD COLUMN n int"
    )
    adopted.sql("UPDATE shop.posts SET headline = 'fig' WHERE number = 1; DELETE FROM shop.posts WHERE number = 2")
    assert adopted.documents()["1"] == ("fig\npear1 some words here", {"lang": "en"})
    assert check(adopted).said == []
    assert check(adopted).table == "shop.posts"


def test_a_column_that_is_needed_is_not_dropped_by_accident(adopted: Application) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="other objects depend on it"):
        adopted.sql("ALTER TABLE public.articles DROP COLUMN body")
    adopted.sql("ALTER TABLE public.articles DROP COLUMN views")
    adopted.sql("ALTER TABLE public.articles DROP COLUMN body CASCADE")
    assert any("column body was dropped" in one for one in check(adopted).said)


def test_triggers_that_are_off_or_gone_and_rows_that_were_missed_are_named(adopted: Application) -> None:
    adopted.sql(
        "ALTER TABLE public.articles DISABLE TRIGGER USER;UPDATE public.articles SET title = 'fig' WHERE id = 1"
    )
    adopted.sql("DELETE FROM public.articles WHERE id = 2")
    found = check(adopted)
    assert [one for one in found.faults if "switched off" in one]
    assert (found.differing, found.vanished, set(found.first)) == (1, 1, {"1", "2"})
    adopted.sql("DROP TRIGGER revector_1_write ON public.articles")
    assert any("revector_1_write is missing" in one for one in check(adopted).faults)


def test_a_row_that_cannot_be_a_document_is_a_dead_letter_and_the_write_goes_on(application: Application) -> None:
    application.create(
        3, "CREATE TABLE public.articles (id text PRIMARY KEY, title text, body text, lang text, embedding vector(64))"
    )
    application.adopt()
    application.sql(
        "INSERT INTO public.articles (id, title) VALUES (repeat('x', 600), 'fig'), (' edge', 'fig'), ('ok', 'fig')"
    )
    assert "ok" in application.documents()
    reasons = dict(application.sql("SELECT left(doc_id, 5), reason FROM revector.rejected"))
    assert "600 bytes" in reasons["xxxxx"]
    assert "white space" in reasons[" edge"]
    assert check(application).said == []


def test_rows_that_a_foreign_key_deletes_are_followed(adopted: Application) -> None:
    adopted.sql(
        "CREATE TABLE public.authors (id int PRIMARY KEY); INSERT INTO public.authors VALUES (1);"
        "ALTER TABLE public.articles ADD COLUMN author int REFERENCES public.authors ON DELETE CASCADE;"
        "UPDATE public.articles SET author = 1 WHERE id = 1; DELETE FROM public.authors"
    )
    assert "1" not in adopted.documents()
    assert check(adopted).said == []


def test_a_row_that_goes_together_with_what_its_condition_names_is_followed(application: Application) -> None:
    """As where LangChain deletes a collection: its rows go by a foreign key, after the row that the condition names."""
    application.create(4)
    application.sql(
        "CREATE TABLE public.shelves (id int PRIMARY KEY, name text); INSERT INTO public.shelves VALUES (1, 'a');"
        "ALTER TABLE public.articles ADD COLUMN shelf int REFERENCES public.shelves ON DELETE CASCADE;"
        "UPDATE public.articles SET shelf = 1 WHERE id < 3"
    )
    application.adopt(where="shelf = (SELECT s.id FROM public.shelves s WHERE s.name = 'a')")
    assert sorted(application.documents()) == ["0", "1", "2"]
    application.sql("DELETE FROM public.shelves")
    assert application.documents() == {}
    assert check(application).said == []


def test_a_role_that_knows_nothing_of_revector_writes_its_table(adopted: Application) -> None:
    role = f"shop_{adopted.root.name[:40]}"
    adopted.sql(f'CREATE ROLE "{role}"; GRANT SELECT, INSERT, UPDATE, DELETE ON public.articles TO "{role}"')
    try:
        adopted.sql(
            f"SET LOCAL ROLE \"{role}\"; INSERT INTO public.articles (id, title, lang) VALUES (100, 'fig', 'en');"
            "UPDATE public.articles SET title = 'olive' WHERE id = 1; DELETE FROM public.articles WHERE id = 2"
        )
        found = adopted.documents()
        assert (found["100"][0], found["1"][0], "2" in found) == ("fig", "olive\npear1 some words here", False)
        with pytest.raises(sa.exc.DBAPIError, match="permission denied"):
            adopted.sql(f'SET LOCAL ROLE "{role}"; SELECT * FROM revector.document')
    finally:
        adopted.sql(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_ids_of_nineteen_digits_are_rows_like_others(adopted: Application) -> None:
    """As Snowflake ids are."""
    adopted.sql(
        "INSERT INTO public.articles (id, title, lang) SELECT n, 'fig', 'en' FROM unnest(ARRAY[1234567890123456789, "
        "9223372036854775807, -9223372036854775808]) n; ALTER TABLE public.articles DISABLE TRIGGER revector_1_write;"
        "DELETE FROM public.articles WHERE id = 1"
    )
    found = adopted.project.verify("articles", repair=True).table
    assert found is not None
    assert (found.differing, found.vanished) == (0, 1)
    assert {"1234567890123456789", "9223372036854775807", "-9223372036854775808"} < adopted.documents().keys()


def test_a_document_that_is_a_row_is_written_by_its_row_alone(adopted: Application) -> None:
    """What was put beside the table would be deleted by verify --repair."""
    before, documents = adopted.documents(), adopted.project.documents("articles")
    (more := adopted.root / "more.jsonl").write_text('{"_id": "new", "text": "a fig"}\n')
    ways: tuple[Callable[[], object], ...] = (
        lambda: documents.put("new", "a fig"),
        lambda: documents.put("1", "a fig"),
        lambda: documents.delete("1"),
        lambda: documents.ingest(open_source(str(more)), actor="test"),
    )
    for write in ways:
        with pytest.raises(
            StateError, match=r"follows the table public.articles.*Nothing was stored.*revector unadopt"
        ):
            write()
    for call in ("put('articles', 'new', 'a fig', '{}')", "delete('articles', '1')"):
        with pytest.raises(sa.exc.DBAPIError, match=r"follows the table public\.articles") as refused:
            adopted.sql(f"SELECT revector.{call}")
        assert getattr(refused.value.orig, "sqlstate", None) == "RV010"
    assert adopted.documents() == before
    adopted.project.adopter("articles").end()
    assert documents.put("new", "a fig").changed == 1
