"""The history cannot be changed unseen: its links, the head that is kept outside, and a role that may only append."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from revector.config import load_project
from revector.database import engine as registry_engine
from revector.database.grants import grants_for
from revector.errors import ConfigError, NotAllowed
from revector.history.audit import check_chain
from revector.history.events import broken_links
from revector.registry.control import add_event
from worlds import World


def rehash(world: World, first: int) -> None:
    """Compute all links from ``first`` on again, as one who owns the tables can."""
    world.unguarded(
        "DO $$ DECLARE e revector.event; before text; BEGIN "
        f"FOR e IN SELECT * FROM revector.event WHERE seq >= {first} ORDER BY seq LOOP "
        "SELECT hash INTO before FROM revector.event WHERE cid = e.cid AND seq = e.seq - 1; "
        "UPDATE revector.event SET hash = revector.event_hash(before, e) WHERE cid = e.cid AND seq = e.seq; "
        "END LOOP; END $$"
    )


def head(world: World) -> str:
    with world.engine.connect() as connection:
        found = check_chain(connection, "docs")
    assert found.intact
    return str(found.head)


def checked(world: World, noted: str) -> Any:
    with world.engine.connect() as connection:
        return check_chain(connection, "docs", head=noted)


def test_two_events_whose_fields_join_to_the_same_text_have_different_links(world: World) -> None:
    with world.engine.begin() as connection:
        add_event(connection, world.collection.cid, "anna\x1fswap", "note", None, {})
    event = "(SELECT e FROM event e ORDER BY seq DESC LIMIT 1)"
    for rule, equal in ((1, True), (2, False)):
        links = [
            world.value(
                f"SELECT event_hash('', jsonb_populate_record({event}, CAST(:fields AS jsonb)))",
                fields=json.dumps({"chain": rule, **fields}),
            )
            for fields in ({}, {"actor": "anna", "kind": "swap\x1fnote"})
        ]
        assert (links[0] == links[1]) is equal


def test_a_link_is_the_hash_of_its_fields_each_behind_its_length(served: World) -> None:
    """Computed here once more, apart from the database."""
    rows = served.sql(
        "SELECT chain, lag(hash, 1, '') OVER (ORDER BY seq) AS before, cid, seq, extract(epoch FROM at) AS at, epoch, "
        "actor, kind, gen, CAST(detail AS text) AS detail, hash FROM event ORDER BY seq"
    )
    for *fields, link in rows:
        framed = b""
        for field in fields:
            sent = None if field is None else str(field).encode()
            framed += struct.pack(">i", -1) if sent is None else struct.pack(">i", len(sent)) + sent
        assert hashlib.sha256(framed).hexdigest() == link


def test_an_event_cannot_go_back_to_the_older_rule(served: World) -> None:
    served.unguarded("UPDATE event SET chain = 1 WHERE seq = 2")
    rehash(served, 2)
    with served.engine.connect() as connection:
        assert broken_links(connection, "docs") == [2]


def test_a_history_of_the_older_rule_is_upgraded_and_still_checked(databases: Any, tmp_path: Path) -> None:
    name = databases.create()
    engine = sa.create_engine(databases.url(name))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION vector; CREATE SCHEMA revector")
        config, _ = registry_engine._script()
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        connection.exec_driver_sql("INSERT INTO revector.collection (name) VALUES ('docs')")
        for number in range(5):
            connection.exec_driver_sql(
                "INSERT INTO revector.event (cid, seq, at, epoch, actor, kind, detail, hash) SELECT cid, 0, now(), 1, "
                f"'old', 'note', '{{\"n\": {number}}}', '' FROM revector.collection"
            )
        before = connection.exec_driver_sql("SELECT seq, hash FROM revector.event ORDER BY seq").all()
    engine.dispose()
    world = World(tmp_path, databases.url(name))
    assert [tuple(row) for row in world.sql("SELECT seq, hash FROM event WHERE chain = 1 ORDER BY seq")] == before
    world.put(60)
    world.upgrade("a100")
    assert world.value("SELECT count(*) FROM event WHERE chain = 2 AND seq > 5") > 3
    assert checked(world, before[-1].hash).intact
    world.unguarded("UPDATE event SET actor = 'other' WHERE seq = 3")
    with world.engine.connect() as connection:
        assert broken_links(connection, "docs") == [3]
    world.engine.dispose()
    databases.drop(name)


def test_a_middle_that_its_owner_rewrote_is_found_by_a_head_that_was_noted_outside(swapped: World) -> None:
    noted = head(swapped)
    seq = swapped.value("SELECT max(seq) FROM event")
    assert checked(swapped, noted).intact
    assert checked(swapped, f"{seq}:{noted}").intact
    assert not checked(swapped, f"{seq - 1}:{noted}").intact
    swapped.unguarded("UPDATE event SET actor = 'someone else' WHERE seq = 3")
    rehash(swapped, 3)
    assert head(swapped) != noted, "the chain alone holds again"
    assert checked(swapped, noted).missing == noted
    for odd in ("", "abc", f"x:{noted}", f"{noted}0"):
        with pytest.raises(ConfigError, match="no head of a history"):
            checked(swapped, odd)


def test_an_end_that_was_cut_off_is_found_by_a_noted_head(swapped: World) -> None:
    noted = head(swapped)
    swapped.unguarded("DELETE FROM event WHERE seq > 5")
    assert head(swapped) != noted
    assert checked(swapped, noted).missing == noted


def test_each_notice_and_the_metrics_carry_the_head(served: World, webhook: Any) -> None:
    url, heard = webhook
    served.project.settings.alerts.webhook = url
    served.project.settings.drain_s = 0
    served.upgrade("b200")
    assert {one["event"]["kind"] for one in heard} >= {"gate", "swap"}
    for notice in heard:
        assert notice["history"]["seq"] >= notice["event"]["seq"]
        assert checked(served, "{seq}:{hash}".format(**notice["history"])).intact
    samples = [
        sample
        for family in served.project.metrics().collect()
        if family.name == "revector_history_head"
        for sample in family.samples
    ]
    assert [(one.labels["hash"], one.value) for one in samples] == [
        (head(served), served.value("SELECT max(seq) FROM event"))
    ]


# A role of the application's own --------------------------------------------------------------------------------------


@pytest.fixture
def app(served: World, databases: Any) -> Any:
    """The project of ``served``, worked by a role that owns no table of ours."""
    role = 'revector app\'s "role"'
    with served.engine.begin() as connection:
        quoted = '"' + role.replace('"', '""') + '"'
        connection.exec_driver_sql(f"CREATE ROLE {quoted} LOGIN PASSWORD 'x'")
        connection.connection.driver_connection.execute(grants_for(role))
        connection.connection.driver_connection.execute(grants_for(role))
    url = sa.make_url(served.database_url).set(username=role, password="x").render_as_string(hide_password=False)
    world = World(served.root, url)
    try:
        yield world
    finally:
        world.engine.dispose()
        with served.engine.begin() as connection:
            connection.exec_driver_sql(f"REASSIGN OWNED BY {quoted} TO CURRENT_USER")
            connection.exec_driver_sql(f"DROP OWNED BY {quoted}")
            connection.exec_driver_sql(f"DROP ROLE {quoted}")


def test_a_role_that_owns_nothing_does_all_of_the_everyday_work(app: World) -> None:
    app.put(30, 500)
    app.documents.delete("d00002")
    app.settle()
    assert app.search("apple500 pear500", 1) == ["d00500"]
    app.upgrade("b200")
    app.put(10, 700)
    app.settle()
    app.migrator.rollback("try")
    app.upgrade("b200")
    assert app.project.verify("docs").passed
    app.project.canary("docs")
    app.project.status("docs", recount=True)
    old = app.generation("standby")
    app.migrator.retire("done", now=True)
    assert app.value("SELECT to_regclass(:name) IS NULL", name=old.physical_name)
    assert app.value("SELECT to_regclass(:name) IS NULL", name=f"ledger_g{old.gen}")
    known = "SELECT min(reltuples) FROM pg_class WHERE oid = ANY(CAST(:names AS regclass[]))"
    names = [app.generation().physical_name, "document", f"ledger_g{app.generation().gen}"]
    assert app.value(known, names=names) >= 120, "the planner knows the owner's tables too"
    assert app.differences(app.generation()) == []
    assert head(app)


@pytest.mark.parametrize(
    "forbidden",
    [
        "UPDATE event SET actor = 'other'",
        "DELETE FROM event",
        "TRUNCATE event",
        "DROP TABLE event",
        "ALTER TABLE event DISABLE TRIGGER ALL",
        "ALTER TABLE event DISABLE TRIGGER append_only",
        "DROP TRIGGER append_only ON event",
        "ALTER TABLE document DISABLE TRIGGER ALL",
        "ALTER TABLE ledger DISABLE TRIGGER only_forward",
        "ALTER TABLE event OWNER TO CURRENT_USER",
        "ALTER TABLE event ALTER COLUMN hash DROP NOT NULL",
        "CREATE OR REPLACE FUNCTION revector.event_hash(text, revector.event) RETURNS text LANGUAGE sql RETURN 'same'",
        "CREATE OR REPLACE FUNCTION revector.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "SET session_replication_role = replica",
        "UPDATE gate_override SET who = 'other'",
        "UPDATE schema_version SET version_num = '0001'",
        "DROP SCHEMA revector CASCADE",
    ],
)
def test_the_application_cannot_change_the_history_or_switch_a_rule_off(app: World, forbidden: str) -> None:
    before = head(app)
    with pytest.raises(NotAllowed, match=r"permission denied|must be (able|owner)"):
        app.sql(forbidden)
    assert head(app) == before


def test_the_owners_functions_do_no_harm_in_the_hands_of_the_application(app: World) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="is not dropped, and its ledger stays"):
        app.sql("SELECT ledger_drop(:gen, 10)", gen=app.generation().gen)
    assert app.search("apple7 pear7", 1) == ["d00007"]


def test_who_lacks_a_right_is_told_what_to_do(served: World) -> None:
    served.sql("CREATE ROLE revector_nobody LOGIN PASSWORD 'x'")
    try:
        url = sa.make_url(served.database_url).set(username="revector_nobody", password="x")
        settings = served.root / "revector.toml"
        settings.write_text(
            f"database_url = {json.dumps(url.render_as_string(hide_password=False))}\n[collections.docs]\n"
        )
        with pytest.raises(NotAllowed, match=r"permission denied for schema revector.*revector db grants ROLE"):
            load_project(served.root).status("docs")
    finally:
        served.sql("DROP ROLE revector_nobody")
