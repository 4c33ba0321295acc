"""What a DBA deletes, empties, drops or switches off is refused, or found and named with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from revector.cli import run
from revector.database.catalogue import PARTS, known_parts, read_parts
from revector.errors import IndexGone, RevectorError, SchemaMismatch
from stages import AtStep
from worlds import World

DELETED = {
    "image": "one that a document holds is not, and no other is missed",
    "load_sample": "a chart has a gap",
    "rejected": "reading the source again refuses it again; any later write clears it",
    "server": "a process that serves says so again within seconds",
}
"""What may be deleted by hand, and why. A new table must be listed here or be protected."""

EMPTIED = {"load_sample", "server"}
"""What may be emptied by TRUNCATE."""


@pytest.fixture
def by_hand() -> Iterator[Callable[[World, str], str | None]]:
    """Runs a statement as a DBA does, by a session that is not ours; returns what PostgreSQL refused it with."""

    def statement(world: World, sql: str) -> str | None:
        engine = sa.create_engine(world.database_url)
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql("SET search_path = revector, public")
                connection.exec_driver_sql(sql)
        except sa.exc.DBAPIError as error:
            return str(error.orig)
        finally:
            engine.dispose()
        return None

    return statement


@pytest.fixture
def full(swapped: World) -> World:
    """``swapped`` with a row in every table whose rows cannot be deleted."""
    swapped.sql("INSERT INTO spending VALUES ('p', '2026-11-01', 1, 1, 0.1)")
    swapped.sql(
        "INSERT INTO api_key (key_id, name, digest, scopes, made_by) VALUES ('0123456789abcdef', 'shop', "
        "decode(repeat('00', 32), 'hex'), ARRAY['read'], 'tester')"
    )
    swapped.sql(
        "INSERT INTO proxy_score SELECT cid, 'j', repeat('0', 64), repeat('1', 64), 1, NULL, 'n', 'm', 'p', 'm', 1, "
        "1 FROM collection"
    )
    swapped.sql("INSERT INTO gate_override SELECT min(id), 'tester', 'a test' FROM gate_result")
    swapped.project.canary("docs")
    return swapped


ByHand = Callable[[World, str], str | None]


def test_what_others_rest_on_can_neither_be_deleted_nor_emptied(full: World, by_hand: ByHand) -> None:
    names = {one.removeprefix("table ") for one in known_parts() if one.startswith("table ")}
    assert DELETED.keys() < names
    for role in ("active", "standby"):
        gen = full.generation(role).gen
        names |= {full.generation(role).physical_name, f"ledger_g{gen}"}
    assert {name for name in names if by_hand(full, f"DELETE FROM {name}") is None} == DELETED.keys()
    assert {name for name in names if by_hand(full, f"TRUNCATE {name} CASCADE") is None} == EMPTIED
    one = "DELETE FROM {0} WHERE ctid = (SELECT min(ctid) FROM {0})"
    kept = {"image", "load_sample", "server", "rejected", "ledger"}  # the last has no ctid of its own
    assert [name for name in sorted(names - kept) if by_hand(full, one.format(name)) is None] == []
    said = by_hand(full, "DELETE FROM ledger WHERE doc_id = 'd00007'")
    assert said is not None
    assert "write to revector.document instead" in said
    full.settle()
    assert [found.faults for found in full.project.verify("docs", actor="tester").generations] == [[], []]


def test_rows_of_an_index_that_is_made_now_are_not_deleted_by_hand_either(at_step: AtStep, by_hand: ByHand) -> None:
    served = at_step("backfill")
    generation = served.generation("building")
    for name in (generation.physical_name, f"ledger_g{generation.gen}"):
        assert "not allowed by hand" in str(by_hand(served, f"DELETE FROM {name}"))
    served.upgrade("b200")
    served.documents.delete("d00007")
    served.settle()
    assert served.differences(served.generation()) == []


def test_the_parts_of_the_schema_are_those_of_a_new_database(world: World) -> None:
    with world.engine.connect() as connection:
        found = sorted(read_parts(connection))
    assert found == PARTS.read_text().splitlines(), "a version adds or drops: write the file again"


# Dropped and switched off ---------------------------------------------------------------------------------------------

BROKEN = {
    "DROP TABLE api_key": "missing are table api_key;",
    "DROP TABLE load_sample": "missing are table load_sample;",
    "DROP VIEW i1_lost": "missing are view i1_lost;",
    "DROP FUNCTION document_fan_out CASCADE": "trigger b_fan_out_insert on document, always, trigger b_fan_out_update",
    "ALTER TABLE document DROP COLUMN meta": "missing are column document.meta, index document_meta on document;",
    "ALTER TABLE ledger DROP CONSTRAINT a_tombstone_has_no_chunks": "constraint a_tombstone_has_no_chunks on ledger",
    "ALTER TABLE document DISABLE TRIGGER a_version": "`ALTER TABLE revector.document ENABLE ALWAYS TRIGGER a_version",
    "ALTER TABLE event DISABLE TRIGGER ALL": "ALTER TABLE revector.event ENABLE TRIGGER append_only;",
    "ALTER TABLE document ENABLE TRIGGER b_fan_out_insert": "ENABLE ALWAYS TRIGGER b_fan_out_insert;",
}


@pytest.mark.parametrize("statement", BROKEN)
def test_doctor_names_what_of_the_schema_is_missing_or_off(
    served: World, statement: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.sql(statement)
    monkeypatch.chdir(served.root)
    assert run(["doctor"]) == 11
    said = " ".join(capsys.readouterr().out.split())
    assert "someone changed the tables of this database by hand" in said
    assert BROKEN[statement].replace(" ", "") in said.replace(" ", "").replace("│", "")


@pytest.mark.parametrize("statement", ["DROP TABLE load_sample", "DROP TABLE gate_override", "DROP TABLE canary"])
@pytest.mark.parametrize(
    "command", [("status",), ("worker", "--once"), ("canary",), ("verify",), ("document", "put", "a", "--text", "b")]
)
def test_a_command_that_needs_what_was_dropped_says_so_and_leads_to_doctor(
    served: World,
    statement: str,
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served.sql(statement)
    monkeypatch.chdir(served.root)
    code, said = run(command), capsys.readouterr().err
    assert code == 0 or (code == 3 and "`revector doctor`" in said), said


def test_init_does_not_begin_anew_where_only_the_version_is_gone(served: World) -> None:
    served.sql("DROP TABLE schema_version")
    with pytest.raises(SchemaMismatch, match="restore the table schema_version"):
        served.project.init()


# Tables of a generation -----------------------------------------------------------------------------------------------

GONE = ["DROP TABLE {index}", "DROP TABLE {ledger}", "TRUNCATE {index}"]


def break_tables(world: World, role: str, statement: str) -> None:
    generation = world.generation(role)
    world.sql(statement.format(index=generation.physical_name, ledger=f"ledger_g{generation.gen}"))


@pytest.mark.parametrize("statement", GONE)
def test_the_alias_never_moves_back_to_tables_that_are_gone_and_the_rest_goes_on(
    swapped: World, statement: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_tables(swapped, "standby", statement)
    monkeypatch.chdir(swapped.root)
    for force in (False, True):
        with pytest.raises(IndexGone, match="revector doctor"):
            swapped.migrator.rollback("a trial", force=force)
    assert run(["verify"]) == 11
    assert run(["doctor"]) == 11
    assert "give it up with `revector retire --now`" in " ".join(capsys.readouterr().out.split())
    swapped.put(3, start=500)
    swapped.settle()  # what is served goes on
    assert swapped.differences(swapped.generation()) == []
    swapped.migrator.retire("its tables are gone", now=True)
    swapped.settle()
    assert run(["doctor"]) == 0
    assert swapped.differences(swapped.generation()) == []


@pytest.mark.parametrize("statement", GONE[:2])
def test_what_is_served_goes_back_when_its_tables_are_gone(
    swapped: World, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_tables(swapped, "active", statement)
    monkeypatch.chdir(swapped.root)
    swapped.put(3, start=500)
    swapped.settle()
    assert run(["search", "apple7 pear7"]) in (0, 3)
    assert run(["doctor"]) == 11
    swapped.migrator.rollback("its tables are gone", force=True)
    assert swapped.search("apple7 pear7")[0] == "d00007"
    swapped.migrator.retire("its tables are gone", now=True)
    swapped.settle()
    assert swapped.differences(swapped.generation()) == []
    assert swapped.sql("SELECT * FROM i1_lost") == []


# In the middle of a migration -----------------------------------------------------------------------------------------

WITHIN = {
    "shards": "DELETE FROM shard",
    "a shard": "DELETE FROM shard WHERE shard = 1",
    "parts": "DELETE FROM part",
    "work": "DELETE FROM pending",
    "ledger": "DELETE FROM ledger WHERE gen = (SELECT building_gen FROM collection)",
    "rows": "TRUNCATE {index}",
    "index": "DROP TABLE {index}",
    "its ledger": "DROP TABLE {ledger}",
}


@pytest.mark.parametrize("to", ["provision", "backfill", "gate"])
@pytest.mark.parametrize("what", WITHIN)
def test_a_migration_whose_rows_were_deleted_never_serves_less_and_can_be_begun_again(
    at_step: AtStep, what: str, to: str
) -> None:
    """… also by someone who calls himself revector; what a verification saw is believed for a day."""
    served = at_step(to)
    if to == "provision":
        served.migrator.embed_shard("b200", 0)
    generation = served.generation("building")
    statement = WITHIN[what].format(index=generation.physical_name, ledger=f"ledger_g{generation.gen}")
    try:
        served.sql(statement)
    except sa.exc.IntegrityError:
        return  # refused
    try:
        served.upgrade("b200")
    except RevectorError:
        assert served.generation().revision == "a100"
        served.migrator.abort("its rows were deleted")
        served.upgrade("b200")
    served.settle()
    assert served.generation().revision == "b200"
    assert served.differences(served.generation()) == []
