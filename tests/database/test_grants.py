"""Roles with the least rights: what `revector db grants` prints lets them do just that, also as no owner of tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from pgvector import Vector

from copies import Databases
from revector.adoption.presets import AdoptionRequest
from revector.cli import run
from revector.database.grants import apply_grants, grants_for
from worlds import World

ROLES = ("owner", "app", "reader", "writer")


class Site:
    """A database whose tables belong to ``owner``, who is no superuser, and to nobody else's group."""

    def __init__(self, root: Path, url: str, prefix: str) -> None:
        self._url, self.prefix = sa.make_url(url), prefix
        self.worlds = {name: World(root, self.url(name), init=name == "owner") for name in ("owner", "app")}

    def role(self, name: str) -> str:
        return f'{self.prefix}-"{name}"'

    def url(self, name: str) -> str:
        return self._url.set(username=self.role(name), password="x").render_as_string(hide_password=False)

    def session(self, name: str) -> psycopg.Connection[Any]:
        url = sa.make_url(self.url(name)).set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(url, autocommit=True)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def site(tmp_path: Path, databases: Databases, admin: sa.Engine) -> Iterator[Site]:
    name = databases.create()
    prefix = f"{name}'s"
    roles = [f'{prefix}-"{role}"' for role in ROLES]
    with admin.connect() as connection:
        for role in roles:
            connection.exec_driver_sql(f"CREATE ROLE {quoted(role)} LOGIN PASSWORD 'x'")
        connection.exec_driver_sql(f"ALTER DATABASE {name} OWNER TO {quoted(roles[0])}")
    superuser = sa.create_engine(databases.url(name), isolation_level="AUTOCOMMIT")
    with superuser.connect() as connection:
        connection.exec_driver_sql("CREATE EXTENSION vector")
    made = Site(tmp_path, databases.url(name), prefix)
    try:
        yield made
    finally:
        for world in made.worlds.values():
            world.close()
        with superuser.connect() as connection:
            for role in roles:
                connection.exec_driver_sql(f"DROP OWNED BY {quoted(role)} CASCADE")
        superuser.dispose()
        databases.drop(name)
        with admin.connect() as connection:
            for role in roles:
                connection.exec_driver_sql(f"DROP ROLE {quoted(role)}")


def refused(session: psycopg.Connection[Any], statement: str) -> bool:
    with pytest.raises(psycopg.Error) as caught:
        session.execute(statement)
    return caught.value.sqlstate == "42501"


def test_roles_that_may_only_call_functions_search_and_write_and_can_do_nothing_else(site: Site) -> None:
    owner, app = site.worlds["owner"], site.worlds["app"]
    for sql in (
        grants_for(site.role("app")),
        grants_for(site.role("reader"), read=True),
        grants_for(site.role("writer"), write=True),
    ):
        apply_grants(owner.engine, sql)
        apply_grants(owner.engine, sql)
    app.put(60)
    app.upgrade("a100")  # so the index belongs to the application, not to the owner of the functions
    generation = app.generation()
    vector = Vector(app.project.searcher("docs").encode(generation, ["apple7 pear7"])[0]).to_text()
    search = f"SELECT doc_id FROM revector.search('docs', '{vector}', '{generation.encoder_fp}', 1)"
    with site.session("reader") as reader, site.session("writer") as writer:
        assert reader.execute(search).fetchall() == [("d00007",)]
        assert reader.execute("SELECT revision FROM revector.active('docs')").fetchall() == [("a100",)]
        assert refused(reader, "SELECT revector.put('docs', 'a', 'b')")
        assert refused(reader, "SELECT revector.delete('docs', 'd00007')")
        assert writer.execute("SELECT outcome FROM revector.put('docs', 'new', 'quince melon')").fetchall() == [
            ("written",)
        ]
        assert writer.execute("SELECT outcome FROM revector.delete('docs', 'd00007')").fetchall() == [("deleted",)]
        assert refused(writer, search)
        for session in (reader, writer):
            for table in ("document", "collection", "generation", "ledger", "pending", generation.physical_name):
                assert refused(session, f"SELECT 1 FROM revector.{table}"), table
            assert refused(session, "INSERT INTO revector.document (cid, doc_id, content) VALUES (1, 'x', 'y')")
            assert refused(session, "UPDATE revector.document SET content = 'y'")
            assert refused(session, "SELECT revector.ledger_drop(1, 1)")
            assert refused(session, "CREATE TABLE revector.mine (a int)")
        app.settle()
        assert reader.execute(search).fetchall() != [("d00007",)]
    assert app.search("quince melon", 1) == ["new"]


def test_row_level_security_of_the_applications_own_table_applies_to_what_is_joined(site: Site) -> None:
    owner = site.worlds["owner"]
    owner.put(60)
    owner.upgrade("a100")
    generation = owner.generation()
    apply_grants(owner.engine, grants_for(site.role("reader"), read=True))
    reader = quoted(site.role("reader"))
    for statement in (
        "CREATE TABLE public.article (id text PRIMARY KEY, tenant text NOT NULL)",
        "INSERT INTO public.article SELECT doc_id, CASE WHEN doc_id < 'd00030' THEN 'a' ELSE 'b' END FROM document",
        "ALTER TABLE public.article ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON public.article USING (tenant = current_setting('app.tenant', true))",
    ):
        owner.sql(statement)
    owner.sql(f"GRANT SELECT ON public.article TO {reader}")
    vector = Vector(owner.project.searcher("docs").encode(generation, ["some words here"])[0]).to_text()
    with site.session("reader") as session:
        for tenant, wanted in (("a", 30), ("b", 30), ("c", 0)):
            session.execute("SELECT set_config('app.tenant', %s, false)", (tenant,))
            found = session.execute(
                "SELECT a.id, a.tenant FROM revector.search('docs', %s, %s, 1000) s JOIN article a ON a.id = s.doc_id",
                (vector, generation.encoder_fp),
            ).fetchall()
            assert ({row[1] for row in found}, len(found)) == ({tenant} if wanted else set(), wanted)


def test_a_view_follows_the_swap_of_a_role_that_owns_neither_view_nor_documents(site: Site) -> None:
    owner, app = site.worlds["owner"], site.worlds["app"]
    owner.sql("CREATE TABLE public.article (id text PRIMARY KEY, body text)")
    owner.sql("INSERT INTO public.article SELECT 'd' || n, 'apple' || n || ' pear' FROM generate_series(1, 60) n")
    apply_grants(owner.engine, grants_for(site.role("app")))
    owner.sql(f"GRANT SELECT ON public.article TO {quoted(site.role('app'))}")
    adopter = owner.project.adopter("docs")
    adopter.begin(
        adopter.plan(
            AdoptionRequest(table="public.article", model="hashing", text=("body",), vectors=False, view="public.seen")
        )
    )
    app.project.adopter("docs").resume()
    assert owner.sql("SELECT count(*) FROM public.seen") == [(60,)]
    apply_grants(owner.engine, grants_for(site.role("reader"), read=True))
    with site.session("reader") as reader:
        assert refused(reader, "SELECT 1 FROM public.seen"), "its table is the owner's to grant"
        owner.sql(f"GRANT SELECT ON public.article TO {quoted(site.role('reader'))}")
        assert reader.execute("SELECT count(*) FROM public.seen").fetchall() == [(60,)]


def test_the_search_path_of_a_caller_leads_no_function_astray(site: Site) -> None:
    owner = site.worlds["owner"]
    owner.put(60)
    owner.upgrade("a100")
    generation = owner.generation()
    vector = Vector(owner.project.searcher("docs").encode(generation, ["apple7 pear7"])[0]).to_text()
    apply_grants(owner.engine, grants_for(site.role("reader"), read=True, write=True))
    with site.session("reader") as session:
        session.execute("CREATE TEMP TABLE document (cid int, doc_id text, deleted bool)")
        session.execute("CREATE TEMP TABLE collection (cid int, name text, active_gen int)")
        session.execute(
            "CREATE FUNCTION pg_temp.set_config(text, text, bool) RETURNS text LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'led astray as %', current_user; END $$"
        )
        session.execute("SET search_path = pg_temp, revector, public")
        found = session.execute(f"SELECT doc_id FROM revector.search('docs', '{vector}', '{generation.encoder_fp}', 1)")
        assert found.fetchall() == [("d00007",)]
        assert session.execute("SELECT outcome FROM revector.put('docs', 'x', 'y')").fetchall() == [("written",)]


def test_the_command_prints_json_or_grants_in_the_projects_database(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    assert run(["db", "grants", "shop", "--read", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sql"].splitlines()[:2] == [
        'GRANT USAGE ON SCHEMA revector TO "shop";',
        'GRANT EXECUTE ON FUNCTION revector.search, revector.active, revector.expect TO "shop";',
    ]
    assert (printed["role"], printed["applied"]) == ("shop", False)
    assert run(["db", "grants", "nobody_of_that_name", "--write", "--apply"]) == 2
    assert "make the role first" in capsys.readouterr().err
    served.sql("CREATE ROLE revector_shop")
    try:
        assert run(["db", "grants", "revector_shop", "--read", "--write", "--apply"]) == 0
        for name in ("search", "active", "put", "delete"):
            may = "SELECT has_function_privilege('revector_shop', to_regproc(:name), 'EXECUTE')"
            assert served.value(may, name=f"revector.{name}"), name
    finally:
        served.sql("DROP OWNED BY revector_shop")
        served.sql("DROP ROLE revector_shop")
