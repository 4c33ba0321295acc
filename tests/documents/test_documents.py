"""The write path on a real PostgreSQL: versions, tombstones, refusals and bulk ingestion."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import sqlalchemy as sa

from revector.documents import deadletters
from revector.errors import DocumentError, NotCaughtUp, SourceError
from revector.interfaces import Document
from worlds import World, document


class Records:
    """A source from a list or a generator."""

    name = "records"

    def __init__(self, records: Iterable[Document]) -> None:
        self._records = records

    def __iter__(self) -> Iterator[Document]:
        return iter(self._records)


def ingest(world: World, *records: Document):
    return world.documents.ingest(Records(records), actor="tester")


# Versions -------------------------------------------------------------------------------------------------------------


def test_an_unchanged_document_costs_no_version_and_no_work(served: World) -> None:
    before = served.state()
    assert served.put(120).changed == 0
    assert served.state() == before


def test_every_change_raises_the_version_above_all_before(world: World) -> None:
    versions = [world.documents.put("d", f"text {n}").versions["d"] for n in range(3)]
    versions.append(world.documents.delete("d").versions["d"])
    versions.append(world.documents.put("d", "text 2").versions["d"])
    assert versions == sorted(set(versions))


def test_write_if_newer_keeps_the_newest_whatever_the_order_of_arrival(world: World) -> None:
    for version in (2, 5, 1, 4, 5, 3):
        world.documents.put("d", f"text {version}", version=version)
    stored = world.documents.get("d")
    assert stored is not None
    assert (stored.text, stored.external_version) == ("text 5", 5)


def test_an_equal_external_version_does_not_replace(world: World) -> None:
    world.documents.put("d", "first", version=7)
    assert world.documents.put("d", "second", version=7).changed == 0


def test_a_write_without_an_external_version_is_kept_and_leaves_it(world: World) -> None:
    world.documents.put("d", "first", version=7)
    world.documents.put("d", "second")
    stored = world.documents.get("d")
    assert stored is not None
    assert (stored.text, stored.external_version) == ("second", 7)


def test_a_delete_is_a_tombstone_without_content(served: World) -> None:
    served.documents.delete("d00003")
    [row] = served.sql("SELECT * FROM document WHERE doc_id = 'd00003'")
    assert (row.deleted, row.content, row.tombstone_version) == (True, None, row.version)
    assert served.documents.get("d00003") is None
    served.settle()
    assert served.value("SELECT deleted FROM ledger WHERE doc_id = 'd00003'")
    assert served.differences(served.generation()) == []


def test_an_older_write_that_arrives_after_the_delete_stays_out(world: World) -> None:
    world.documents.put("d", "first", version=1)
    world.documents.delete("d", version=3)
    assert world.documents.put("d", "late", version=2).changed == 0
    assert world.documents.get("d") is None


def test_a_versioned_delete_of_an_unknown_id_keeps_older_writes_out(world: World) -> None:
    assert world.documents.delete("d", version=3).changed == 1
    assert world.documents.put("d", "late", version=2).changed == 0
    assert world.documents.put("d", "new", version=4).changed == 1


def test_deleting_what_does_not_exist_does_nothing(world: World) -> None:
    world.documents.put("d", "text")
    world.documents.delete("d")
    assert world.documents.delete_many(["d", "unknown"]).changed == 0


def test_a_document_created_anew_after_its_delete_is_served_again(served: World) -> None:
    served.documents.delete("d00003")
    served.settle()
    served.documents.put("d00003", "melon3 kiwi3")
    served.settle()
    assert served.search("melon3 kiwi3")[0] == "d00003"
    assert served.differences(served.generation()) == []


def test_a_metadata_change_bumps_the_version_and_embeds_nothing(served: World) -> None:
    before, embedded = served.documents.get("d00003"), served.loader.embedded
    served.documents.put("d00003", document(3).text or "", {"n": 3, "lang": "de"})
    served.settle()
    after = served.documents.get("d00003")
    assert before is not None
    assert after is not None
    assert after.version > before.version
    assert served.loader.embedded == embedded
    assert served.value("SELECT version FROM ledger WHERE doc_id = 'd00003'") == after.version
    assert served.search("apple3 pear3", where={"lang": "de"}) == ["d00003"]


# Ids and refusals -----------------------------------------------------------------------------------------------------


def test_ids_are_compared_byte_for_byte(served: World) -> None:
    ids = ["Key", "key", "KEY", "caf\u00e9", "cafe\u0301", "a b", "a  b"]
    served.documents.put_many([Document(doc_id, f"kiwi{n} melon{n}") for n, doc_id in enumerate(ids)])
    served.settle()
    assert served.documents.known(ids) == set(ids)
    for n, doc_id in enumerate(ids):
        assert served.search(f"kiwi{n} melon{n}")[0] == doc_id
    served.documents.delete("key")
    assert served.documents.known(ids) == set(ids) - {"key"}


@pytest.mark.parametrize(
    "bad",
    [
        Document("x", "text\0with NUL and more"),
        Document("x", "word " * (10 << 18)),
        Document("x", ""),
        Document("x", " \n\t "),
        Document("x", None),
        Document("", "text"),
        Document("x\0y", "text"),
        Document("x\ny", "text"),
        Document("x" * 513, "text"),
        Document("x\ud800", "text"),
        Document("x", "text", {"a": float("nan")}),
        Document("x", "text", {"a": "NUL \0"}),
        Document("x", "text", {"a": {1, 2}}),
        Document("x", "text", {"a": "lone \ud800"}),
        Document("x", "text", version=-1),
        Document("x", "text", version=2**63),
    ],
    ids=lambda document: repr((document.id[:4], document.text and document.text[:5], document.version)),
)
def test_a_document_that_cannot_be_stored_is_refused_before_anything_changes(world: World, bad: Document) -> None:
    with pytest.raises(DocumentError, match=r"(?i)not stored"):
        world.documents.put_many([document(1), bad, document(2)])
    assert world.documents.count() == 0


def test_times_of_a_program_are_kept_as_json_in_utc(world: World) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    at = datetime(2026, 3, 29, 1, 30, tzinfo=zone)
    meta = {"at": at, "log": [{"at": at, "day": at.date()}], "naive": at.replace(tzinfo=None), "n": np.int64(3)}
    wanted = {
        "at": "2026-03-28T20:00:00+00:00",
        "log": [{"at": "2026-03-28T20:00:00+00:00", "day": "2026-03-29"}],
        "naive": "2026-03-29T01:30:00",
        "n": 3,
    }
    world.documents.put("a", "some text", meta)
    ingest(world, Document("b", "some text", meta), Document("c", "some text", {**meta, "at": at.astimezone(UTC)}))
    for doc_id in ("a", "b", "c"):
        stored = world.documents.get(doc_id)
        assert stored is not None
        assert stored.meta == wanted


def test_two_keys_of_a_program_that_would_be_one_field_are_refused(world: World) -> None:
    for meta in ({1: "a", "1": "b"}, {"author": [{True: "a", "true": "b"}]}):
        with pytest.raises(DocumentError, match="twice"):
            world.documents.put("a", "some text", meta)  # type: ignore[arg-type]
    assert world.documents.count() == 0


@pytest.mark.parametrize("version", [-1, 2**63])
def test_a_delete_with_an_impossible_version_is_refused(served: World, version: int) -> None:
    before = served.state()
    with pytest.raises(DocumentError):
        served.documents.delete("d00003", version=version)
    assert served.state() == before


def test_one_call_that_names_a_document_twice_is_refused(world: World) -> None:
    with pytest.raises(DocumentError, match="twice"):
        world.documents.put_many([document(1), document(2), document(1)])
    with pytest.raises(DocumentError, match="twice"):
        world.documents.delete_many(["a", "a"])
    assert world.documents.count() == 0


# Bulk ingestion -------------------------------------------------------------------------------------------------------


def test_ingest_counts_written_unchanged_and_rejected(world: World) -> None:
    world.put(3)
    report = ingest(world, *(document(n) for n in range(10)), Document("bad", "  "))
    assert (report.read, report.written, report.unchanged, report.rejected) == (11, 7, 3, 1)
    assert list(report.reasons) == ["bad"]
    assert world.events("ingest")[0]["detail"] == {"source": "records", "read": 11, "written": 7, "rejected": 1}


def test_ingest_refuses_repeated_ids_before_anything_is_stored(world: World) -> None:
    with pytest.raises(SourceError, match=r"'d00002' \(2 times\)"):
        ingest(world, *(document(n) for n in range(5)), document(2))
    assert world.documents.count() == 0


@pytest.mark.parametrize("records", [[], [Document("a", ""), Document("b", None)]], ids=["empty", "without text"])
def test_ingest_refuses_a_source_without_usable_text(world: World, records: list[Document]) -> None:
    before = world.state()
    with pytest.raises(SourceError, match="Nothing was stored"):
        ingest(world, *records)
    assert world.state() == before
    assert ingest(world, document(1)).written == 1, "the next ingest starts afresh"


def test_ingest_of_a_source_that_breaks_off_stores_nothing(world: World) -> None:
    def records() -> Iterator[Document]:
        yield document(1)
        raise SourceError("line 2 cannot be read. Nothing was stored.")

    with pytest.raises(SourceError, match="line 2"):
        world.documents.ingest(Records(records()), actor="tester")
    assert world.documents.count() == 0


def test_a_rejected_record_is_a_dead_letter_until_it_is_ingested_well(world: World) -> None:
    ingest(world, document(1), Document("bad", "text\0with NUL and more"))
    with world.engine.connect() as connection:
        [letter] = deadletters.dead_letters(connection, world.collection.cid)
    assert (letter.doc_id, letter.stage) == ("bad", "ingest")
    assert "NUL" in letter.reason
    ingest(world, Document("bad", "good text now"))
    with world.engine.connect() as connection:
        assert deadletters.dead_letters(connection, world.collection.cid) == []


def test_a_rejected_record_is_healed_by_a_put_as_well(world: World) -> None:
    ingest(world, document(1), Document("bad", ""))
    world.documents.put("bad", "good text now")
    with world.engine.connect() as connection:
        assert deadletters.dead_letters(connection, world.collection.cid) == []


def test_refused_ids_that_look_alike_are_dead_letters_of_their_own(world: World) -> None:
    long = "https://files.example.org/" + "X-Amz-Security-Token=abcdefghij" * 20
    refused = [f"{long}1", f"{long}2", "nul\0", "half\ud800", "spaced "]
    good = [long[:500], long[:512], "nul\\0", "half\\ud800"]
    report = ingest(world, *(Document(doc_id, "some text") for doc_id in [*refused, *good]))
    assert (report.read, report.written, report.rejected) == (9, 4, 5)
    with world.engine.connect() as connection:
        letters = {one.doc_id for one in deadletters.dead_letters(connection, 1)}
    assert len(letters) == 5
    assert not letters & set(good)
    assert sum(name.startswith("https://files.example.org/X-Amz") for name in letters) == 2
    assert ingest(world, *(Document(doc_id, "some text") for doc_id in [*refused, *good])).rejected == 5


def test_a_refused_record_of_a_long_good_id_is_healed_under_that_id(world: World) -> None:
    long = "x" * 512
    ingest(world, Document("a", "some text"), Document(long, ""))
    with world.engine.connect() as connection:
        assert [one.doc_id for one in deadletters.dead_letters(connection, 1)] == [long]
    world.documents.put(long, "some text")
    with world.engine.connect() as connection:
        assert deadletters.dead_letters(connection, 1) == []


def test_a_long_refused_id_that_comes_twice_is_a_repeated_id(world: World) -> None:
    with pytest.raises(SourceError, match="repeats ids"):
        ingest(world, Document("a", "some text"), *[Document("x" * 600, "some text")] * 2)


def test_memory_of_an_ingest_does_not_grow_with_its_source(world: World) -> None:
    """256 bytes kept for each of 4,000 records more would be 1 MB; the texts alone are 4 MB."""

    def peak_mib(count: int) -> float:
        text = "some words that repeat " * 40
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        records = (Document(f"r{count}-{n:06d}", f"{text}{n}") for n in range(count))
        assert world.documents.ingest(Records(records), actor="tester").written == count
        return (tracemalloc.get_traced_memory()[1] - before) / 2**20

    tracemalloc.start()
    try:
        peak_mib(100)  # what is imported and prepared once
        fewer = peak_mib(2_000)
        assert peak_mib(6_000) - fewer < 0.4
    finally:
        tracemalloc.stop()


# Foreign SQL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["DELETE FROM document", "TRUNCATE document", "TRUNCATE document CASCADE"])
def test_removing_rows_by_sql_is_refused(served: World, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="set deleted = true"):
        served.sql(statement)
    assert served.documents.count() == 120


def test_changing_an_id_by_sql_is_refused(served: World) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="an id never changes"):
        served.sql("UPDATE document SET doc_id = 'other' WHERE doc_id = 'd00001'")


def test_an_update_by_sql_reaches_every_index(swapped: World) -> None:
    swapped.sql("UPDATE document SET content = 'melon kiwi' WHERE doc_id = 'd00001'")
    swapped.settle()
    for role in ("active", "standby"):
        assert swapped.differences(swapped.generation(role)) == []


def test_a_delete_by_sql_is_a_flag_and_reaches_every_index(swapped: World) -> None:
    swapped.sql("UPDATE document SET deleted = true WHERE doc_id = 'd00001'")
    swapped.settle()
    for role in ("active", "standby"):
        assert swapped.differences(swapped.generation(role)) == []


def test_an_insert_by_sql_is_indexed_with_a_version_and_hash_of_our_own(served: World) -> None:
    served.sql(
        "INSERT INTO document (cid, doc_id, content, version, content_hash) "
        "SELECT cid, 'foreign', 'melon kiwi', 99999999, 'made up' FROM collection"
    )
    served.settle()
    assert served.search("melon kiwi")[0] == "foreign"
    assert served.value(
        "SELECT version < 99999999 AND content_hash <> 'made up' FROM document WHERE doc_id = 'foreign'"
    )


def test_triggers_fire_for_replication_sessions_too(served: World) -> None:
    served.unguarded("UPDATE document SET content = 'melon kiwi' WHERE doc_id = 'd00001'")
    assert served.value("SELECT count(*) FROM pending WHERE doc_id = 'd00001'") == 1


def test_a_writer_whose_snapshot_predates_a_registration_is_told_to_repeat(served: World) -> None:
    with served.engine.connect().execution_options(isolation_level="REPEATABLE READ") as writer:
        writer.execute(sa.text("SELECT count(*) FROM document"))
        served.upgrade("b200", to="provision")
        with pytest.raises(sa.exc.OperationalError) as refused:
            writer.execute(sa.text("UPDATE document SET content = 'melon kiwi' WHERE doc_id = 'd00001'"))
        assert refused.value.orig.sqlstate == "40001"


# Read your write ------------------------------------------------------------------------------------------------------


def test_waiting_for_a_write_ends_once_the_active_index_shows_it(served: World) -> None:
    written = served.documents.put("d00001", "melon kiwi")
    with pytest.raises(NotCaughtUp, match="worker"):
        served.documents.wait_until_served(written, timeout_s=0.05)
    served.settle()
    served.documents.wait_until_served(written, timeout_s=0.05)
