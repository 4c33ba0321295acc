"""A database of each earlier version, with documents, history and an open migration, is upgraded and goes on.

``databases/make.py`` made them, by the last code of each version: revision a100 retired, b200 active, c300 provisioned
but not backfilled, some items of work waiting, one document deleted; later ones with an adopted table, its view, and a
cut-off. All but the newest, and the one of 0.1.0, are of versions between two releases: `make prove` upgrades them.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

from copies import Databases
from revector.database import engine as registry_engine
from revector.database.engine import make_engine
from revector.errors import SchemaMismatch
from revector.history.events import broken_links
from worlds import World

GATE = "gate = Gate(max_drop=1.0, min_queries=1, min_overlap=None)"
MODELS = {"a100": "hashing", "b200": "hashing:seed2", "c300": "hashing"}


def restored(databases: Databases, dump: Path) -> str:
    """A database that holds exactly what the dump does."""
    url = databases.url(databases.create())
    with psycopg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as raw:
        raw.execute("CREATE EXTENSION IF NOT EXISTS vector")
        raw.execute(lzma.decompress(dump.read_bytes()))
    return url


VERSIONS = sorted(path.name[:4] for path in Path(registry_engine.__file__).parent.glob("schema/versions/0*.py"))
DUMPS = {dump.name[:4]: dump for dump in (Path(__file__).parents[1] / "databases").glob("*.sql.xz")}
EARLIER = sorted(DUMPS.keys() - {VERSIONS[-1]})
ALWAYS = {"0006", EARLIER[-1]}


@pytest.fixture(params=[pytest.param(one, marks=() if one in ALWAYS else pytest.mark.long) for one in EARLIER])
def before(databases: Databases, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """The project of the dump, opened by this version; its tables are still the old ones."""
    url = restored(databases, DUMPS[request.param])
    world = World(tmp_path, url, init=False)
    parent = None
    for name, model in MODELS.items():
        world.revision(name, parent, f'model = ModelSpec(name="{model}", dim=8)', GATE)
        parent = name
    return world


def test_no_version_before_the_newest_dump_is_without_one() -> None:
    """None is of 0003, whose text was changed before any release: what it is now was never the newest."""
    assert {one for one in VERSIONS if one < max(DUMPS)} - DUMPS.keys() == {"0003"}


def test_an_older_schema_is_refused_until_init_and_the_way_is_named(before: World) -> None:
    with pytest.raises(SchemaMismatch, match="revector init"):
        before.project.status("docs")


def what_the_application_writes_is_followed(before: World) -> None:
    """Where the older version had adopted a table, made a view over it and set a cut-off."""
    if before.value("SELECT to_regclass('public.notes')") is None:
        return
    texts = "SELECT doc_id, content FROM document JOIN collection USING (cid) WHERE name = 'notes' AND NOT deleted"
    before.sql("INSERT INTO public.notes VALUES (100, 'a note written after the upgrade', NULL)")
    before.sql("DELETE FROM public.notes WHERE id = 3")
    found = dict(map(tuple, before.sql(texts)))
    assert found["100"] == "a note written after the upgrade"
    assert set(found) == {str(n) for n in range(12) if n != 3} | {"100"}
    if before.value("SELECT to_regclass('public.notes_seen')") is not None:
        seen = {row.id for row in before.sql("SELECT id FROM public.notes_seen")}
        assert seen == {n for n in range(12) if n != 3}, "what waits for a worker is not there yet"
        if before.value("SELECT count(*) FROM cutoff"):
            assert before.project.status("docs").slots.active.cutoffs == {"support": 0.42}


def test_an_open_migration_survives_an_upgrade_of_the_schema_and_is_finished(before: World) -> None:
    before.project.init()
    with before.engine.connect() as connection:
        assert broken_links(connection, "docs") == []
    before.documents.put("d00003", "apple3 pear3 written after the upgrade")
    what_the_application_writes_is_followed(before)
    before.upgrade("c300")
    before.settle()
    active = before.generation()
    assert (active.revision, before.generation("standby").revision) == ("c300", "b200")
    assert before.differences(active) == before.differences(before.generation("standby")) == []
    assert before.documents.get("d00051") is None
    assert before.documents.count() == 61
    before.migrator.rollback("the way back works too")
    assert before.generation().revision == "b200"
    assert before.sql("SELECT * FROM i1_lost") == []
    with before.engine.connect() as connection:
        assert broken_links(connection, "docs") == []


def test_who_may_call_a_function_may_call_it_after_it_was_made_again(empty_database_url: str) -> None:
    """Version 0016 makes revector.active again, with a column more."""
    engine = make_engine(empty_database_url)
    may = sa.text("SELECT has_function_privilege(:role, 'revector.active(text)', 'EXECUTE')")
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector; CREATE SCHEMA revector")
            config, _ = registry_engine._script()
            config.attributes["connection"] = connection
            command.upgrade(config, "0015")
            connection.execute(sa.text("GRANT EXECUTE ON FUNCTION revector.active TO pg_monitor"))
        assert registry_engine.upgrade_schema(engine)
        with engine.connect() as connection:
            assert [connection.scalar(may, {"role": role}) for role in ("pg_monitor", "public")] == [True, False]
    finally:
        engine.dispose()
