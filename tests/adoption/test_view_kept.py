"""A view is made only where it can be kept, follows the rights of its table, is missed where it is gone, and goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from adoption.conftest import VIEW, Application, Call, ViewedApplication, caller
from copies import Databases
from revector.cli import run
from revector.database.grants import apply_grants, grants_for
from revector.errors import ConfigError, SpecError, StateError
from revector.spec import IndexSpec


def faults(application: Application) -> list[str]:
    """What verification, status and doctor say is wrong with the view; they agree."""
    verified = application.project.verify("articles", sample=1.0, reembed=0)
    assert verified.table is not None
    found = application.project.status("articles").adoption
    assert found is not None
    assert verified.table.faults == list(found.view_faults)
    assert verified.passed == (not found.view_faults)
    return verified.table.faults


TAKEN = {
    "table": (f"CREATE TABLE {VIEW} (a int)", VIEW, "already"),
    "schema": ("SELECT 1", "nowhere.seen", "there is no schema"),
    "ours": ("SELECT 1", "revector.seen", "for what revector makes"),
    "column": ("ALTER TABLE public.articles ADD revector_chunk int", VIEW, "which the view adds"),
    "other database": ("SELECT 1", "a.b.c", "a table of another database"),
}


@pytest.mark.parametrize("taken", TAKEN)
def test_a_view_that_cannot_be_made_is_refused_before_anything_changes(application: Application, taken: str) -> None:
    application.create(5)
    statement, name, said = TAKEN[taken]
    application.sql(statement)
    before = application.catalogue()
    with pytest.raises(ConfigError, match=re.escape(said)):
        application.adopt(view=name)
    assert application.catalogue() == before


def test_what_is_copied_has_no_view(application: Application, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="what is copied has none here"):
        application.request(table="", source=str(tmp_path / "a.parquet"), view=VIEW)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (IndexSpec(storage="halfvec"), "the graph would hold halfvec"),
        (IndexSpec(quantize="bit"), "the graph would hold bit"),
        (IndexSpec(kind="exact", store="memory"), "in the store 'memory'"),
        (IndexSpec(metric="dot"), "name the operator of cosine, and the index would be of dot"),
    ],
)
def test_a_revision_that_the_view_cannot_follow_is_refused_before_any_work(
    adopted_viewed: ViewedApplication, index: IndexSpec, said: str
) -> None:
    adopted_viewed.revision(index=index)
    migrator = adopted_viewed.project.migrator("articles")
    for ask in (migrator.plan, migrator.upgrade):
        with pytest.raises(SpecError, match=said):
            ask()
    assert adopted_viewed.sql("SELECT count(*) FROM revector.generation") == [(1,)]


@pytest.fixture
def adopted_viewed(application: Application) -> ViewedApplication:
    """A table that was adopted with a view, and nothing more."""
    made = ViewedApplication(application.root, application.project.engine.url.render_as_string(hide_password=False))
    made.create(8)
    made.adopt(view=VIEW)
    return made


def test_a_view_is_made_later_and_dropped_by_command(
    adopted: Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call: Call = caller(adopted, monkeypatch, capsys)
    before = adopted.catalogue()
    assert call("adopt", "-c", "articles", "--view", "articles_seen")[0] == 0
    assert adopted.sql(f"SELECT count(*) FROM {VIEW}") == [(15,)]
    assert adopted.sql("SELECT to_regclass('revector.idx_articles_g1_key') IS NOT NULL") == [(True,)]
    code, _, err = call("adopt", "-c", "articles", "--view", "public.another")
    assert (code, "is read through the view public.articles_seen" in err) == (2, True)
    assert "the view public.articles_seen reads the vectors that are served" in call("status")[1]
    code, out, _ = call("unadopt", "-c", "articles", "--only-view", "--json")
    assert (code, json.loads(out)["view"]) == (0, "public.articles_seen")
    assert adopted.sql(f"SELECT to_regclass('{VIEW}'), to_regclass('revector.vectors_1')") == [(None, None)]
    assert adopted.catalogue() == before
    events = call("history", "--events", "-c", "articles")[1].lower()
    assert "is read through the view articles_seen" in events
    assert "the view public.articles_seen is dropped" in events


ANOTHER = """
CREATE OR REPLACE VIEW revector.vectors_1 AS SELECT NULL::text COLLATE "C" AS doc_id, NULL::int AS chunk,
  NULL::int AS start, NULL::int AS stop, NULL::vector AS embedding
"""
BY_HAND = {
    "dropped": (f"DROP VIEW {VIEW}", "was dropped"),
    "both dropped": ("DROP VIEW revector.vectors_1 CASCADE", "was dropped"),
    "its owner's rights": (f"ALTER VIEW {VIEW} RESET (security_invoker)", "with the rights of its owner"),
    "another generation": (
        ANOTHER,
        "does not read the generation that is active",
    ),
}


@pytest.mark.parametrize("by_hand", BY_HAND)
def test_a_view_that_someone_changed_by_hand_is_named_and_made_again(
    adopted_viewed: ViewedApplication, by_hand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    application = adopted_viewed
    statement, said = BY_HAND[by_hand]
    application.sql(statement.replace("::", "\\:\\:"))
    assert said in faults(application)[0]
    run(["doctor", "--project", str(application.root)])
    assert said in " ".join(capsys.readouterr().out.split())
    application.project.adopter("articles").resume()
    assert faults(application) == []
    assert application.widths() == {64: 8}


def test_a_view_of_anothers_is_neither_replaced_nor_dropped(adopted_viewed: ViewedApplication) -> None:
    application = adopted_viewed
    application.sql(f"DROP VIEW {VIEW}; CREATE VIEW {VIEW} AS SELECT 1 AS mine")
    with pytest.raises(ConfigError, match=r"there is .* already"):
        application.project.adopter("articles").resume()
    application.project.adopter("articles").end()
    assert application.sql(f"SELECT mine FROM {VIEW}") == [(1,)]


def test_a_view_that_does_not_follow_the_alias_refuses_and_is_found(viewed: ViewedApplication) -> None:
    viewed.sql("ALTER TABLE revector.collection DISABLE TRIGGER view_follows")
    viewed.project.migrator("articles").run("swap")
    with pytest.raises(sa.exc.DBAPIError, match="was moved since"):
        viewed.widths()
    assert "does not read the generation that is active" in faults(viewed)[0]


def test_giving_the_table_back_drops_the_view_unless_something_reads_it(adopted_viewed: ViewedApplication) -> None:
    application = adopted_viewed
    application.sql(f"CREATE VIEW public.report AS SELECT count(*) FROM {VIEW}")
    adopter = application.project.adopter("articles")
    with pytest.raises(StateError, match="view report depends on view articles_seen"):
        adopter.end()
    assert faults(application) == []
    application.sql("DROP VIEW public.report")
    adopter.end()
    assert application.sql(f"SELECT to_regclass('{VIEW}'), to_regclass('revector.vectors_1')") == [(None, None)]
    assert application.search("apple7 pear7", 1) == ["7"]


def test_the_view_is_renamed_moved_and_read_on(adopted_viewed: ViewedApplication) -> None:
    application = adopted_viewed
    application.sql(
        f"ALTER VIEW {VIEW} RENAME TO mine; CREATE SCHEMA app; ALTER VIEW public.mine SET SCHEMA app;"
        "ALTER TABLE public.articles RENAME body TO text; ALTER TABLE public.articles SET SCHEMA app"
    )
    assert faults(application) == []
    assert application.sql("SELECT count(body) FROM app.mine") == [(8,)]
    application.project.adopter("articles").end()
    assert application.sql("SELECT to_regclass('app.mine')") == [(None,)]


@pytest.fixture
def role(databases: Databases, admin: sa.Engine) -> Iterator[str]:
    name = f"{databases.create()}_reader"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name}")
        yield name
        connection.exec_driver_sql(f"DROP ROLE {name}")


def test_rights_and_row_level_security_of_the_table_apply(viewed: ViewedApplication, role: str) -> None:
    apply_grants(viewed.project.engine, grants_for(role, read=True))
    vector = viewed.vector("apple7\npear7 some words here")
    ask = f"SELECT id FROM {VIEW} ORDER BY embedding <=> '{vector}' LIMIT 3"
    try:
        with viewed.engine.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {role}")
            with pytest.raises(sa.exc.DBAPIError, match="permission denied for table articles"):
                connection.exec_driver_sql(ask)
        viewed.sql(
            f"GRANT SELECT ON public.articles TO {role}; ALTER TABLE public.articles ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY few ON public.articles USING (id > 8)"
        )
        viewed.project.migrator("articles").run("swap")  # grants outlast it
        ask = ask.replace(vector, str([0.5] * 96))
        assert min(viewed.sql(ask.replace("LIMIT 3", "")))[0] == 1
        with viewed.engine.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {role}")
            assert min(connection.exec_driver_sql(ask).all())[0] > 8
            with pytest.raises(sa.exc.DBAPIError, match="permission denied"):
                connection.exec_driver_sql("SELECT content FROM revector.document")
    finally:
        viewed.sql(f"DROP OWNED BY {role}")
