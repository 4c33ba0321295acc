"""Upkeep: stale entries are re-embedded, a changed source is noticed, dead letters are tried within their bounds."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from typer.testing import CliRunner

from revector.cli import commands_upkeep
from revector.cli.app import app
from revector.documents.deadletters import waive
from revector.errors import BadVectors, ConfigError, SourceError, TooManyMissing
from revector.interfaces import Document, Vectors
from revector.upkeep.rereading import Reread, allowed_missing, configured_source
from revector.upkeep.upkeep import MOST_ENTRIES, RetryReport, StaleReport, refresh_stale, retry_dead_letters
from worlds import World, document


def refresh(world: World, *, reread: bool = False, **options: Any) -> StaleReport:
    project, cid = world.project, world.collection.cid
    chosen = project.collection("docs")
    source = configured_source("docs", chosen, project.root, lambda: world.database_url) if reread else None
    missing = allowed_missing(chosen)
    return refresh_stale(
        world.engine, cid, "docs", world.documents, source, actor="night", max_missing=missing, **options
    )


def retry(world: World, **options: Any) -> RetryReport:
    return retry_dead_letters(world.engine, world.collection.cid, "docs", actor="night", **options)


def age(world: World, days: int, *numbers: int, role: str = "active") -> None:
    """Make the entries of these documents look as old as that."""
    world.sql(
        "UPDATE ledger SET applied_at = now() - :days * interval '1 day' WHERE gen = :gen AND doc_id = ANY(:ids)",
        days=days,
        gen=world.generation(role).gen,
        ids=[f"d{n:05d}" for n in numbers],
    )


def write_source(
    world: World, numbers: Iterable[int], settings: Mapping[str, Any] = MappingProxyType({}), **changed: str
) -> None:
    """Write docs.jsonl with these documents as they were put, but for the texts in ``changed``."""
    records = [
        {"_id": one.id, "text": changed.get(one.id, one.text), **one.meta} for one in (document(n) for n in numbers)
    ]
    (world.root / "docs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    world.settings(source="docs.jsonl", **settings)


class Stubborn:
    """Refuses texts that hold a word; ``final``: for good, else in a way that may pass."""

    def __init__(self, *words: str, final: bool) -> None:
        self.words, self.final = words, final

    def __call__(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        if any(word in text.split() for word in self.words for text in texts):
            raise BadVectors("zero vector") if self.final else RuntimeError("device lost")
        return vectors


def bury(world: World, *numbers: int, final: bool) -> None:
    """Make these documents dead letters of the active index, by an encoder that fails on them and is left so."""
    world.loader["hashing"].hook = Stubborn(*(f"pear{n}" for n in numbers), final=final)
    world.documents.put_many([document(n, again=True) for n in numbers])
    world.sql("UPDATE ledger SET content_hash = '' WHERE doc_id = ANY(:ids)", ids=[f"d{n:05d}" for n in numbers])
    starve(world)
    assert dead(world) >= {f"d{n:05d}" for n in numbers}


def starve(world: World) -> None:
    """Apply all that is due until it is applied or dead, without the pauses between tries."""
    while world.value("SELECT count(*) FROM pending WHERE state = 'due'"):
        world.sql("UPDATE pending SET due_at = clock_timestamp()")
        world.settle()


def dead(world: World) -> set[str]:
    return {row.doc_id for row in world.sql("SELECT doc_id FROM pending WHERE state = 'dead'")}


# Stale entries --------------------------------------------------------------------------------------------------------


def test_a_sound_collection_has_nothing_stale(served: World) -> None:
    assert refresh(served, max_age_days=30) == StaleReport("docs", 120, 0, 0, 0, 0, None)


def test_old_entries_are_reembedded_and_served_meanwhile(served: World) -> None:
    age(served, 40, 3, 4)
    age(served, 20, 5)
    before = served.loader.embedded
    assert refresh(served, max_age_days=30) == StaleReport("docs", 120, 2, 0, 2, 0, None)
    assert served.search("apple3 pear3")[0] == "d00003"
    served.settle()
    assert served.loader.embedded - before == 2
    assert served.differences(served.generation()) == []
    assert refresh(served, max_age_days=30).old == 0


def test_age_does_not_count_unless_a_limit_is_given(served: World) -> None:
    age(served, 4_000, 3)
    assert refresh(served).due == 0


def test_every_live_index_is_refreshed(swapped: World) -> None:
    age(swapped, 40, 7, role="active")
    age(swapped, 40, 8, role="standby")
    assert refresh(swapped, max_age_days=30) == StaleReport("docs", 240, 2, 0, 2, 0, None)
    waiting = {(row.gen, row.doc_id) for row in swapped.sql("SELECT gen, doc_id FROM pending")}
    assert waiting == {(swapped.generation("active").gen, "d00007"), (swapped.generation("standby").gen, "d00008")}


def test_the_oldest_come_first_and_the_next_run_goes_on(served: World) -> None:
    age(served, 40, 1, 2)
    age(served, 90, 9)
    first = refresh(served, max_age_days=30, limit=1)
    assert (first.old, first.due, first.left) == (3, 1, 2)
    assert [row.doc_id for row in served.sql("SELECT doc_id FROM pending")] == ["d00009"]
    # What waits already is not made due a second time.
    assert (refresh(served, max_age_days=30, limit=5).due, refresh(served, max_age_days=30).due) == (2, 0)


def test_what_is_served_comes_first_however_old_the_others_are(swapped: World) -> None:
    age(swapped, 400, *range(100), role="standby")
    age(swapped, 40, *range(100), role="active")
    report = refresh(swapped, max_age_days=30, limit=100)
    assert (report.old, report.due, report.left) == (200, 100, 100)
    active = swapped.generation().gen
    assert {row.gen for row in swapped.sql("SELECT DISTINCT gen FROM pending")} == {active}
    swapped.settle()
    assert refresh(swapped, max_age_days=30, limit=100).due == 100
    assert {row.gen for row in swapped.sql("SELECT DISTINCT gen FROM pending")} == {swapped.generation("standby").gen}


def test_the_limit_counts_what_an_earlier_run_made_due_and_nobody_did(served: World) -> None:
    age(served, 40, *range(30))
    assert refresh(served, max_age_days=30, limit=10).due == 10
    second = refresh(served, max_age_days=30, limit=10)
    assert (second.due, second.left, second.waiting) == (0, 20, 10)
    served.settle()
    assert refresh(served, max_age_days=30, limit=10).due == 10


def test_what_was_written_behind_our_back_is_found_without_an_age(served: World) -> None:
    served.documents.put("d00002", "quite another text")
    served.sql("DELETE FROM pending")
    report = refresh(served)
    assert (report.behind, report.old, report.due) == (1, 0, 1)
    served.settle()
    assert served.search("quite another text")[0] == "d00002"
    assert served.differences(served.generation()) == []


def test_the_history_keeps_the_counts_and_what_was_repaired(served: World) -> None:
    age(served, 40, 3)
    refresh(served, max_age_days=30)
    (event,) = served.events("stale")
    assert event["actor"] == "night"
    assert (event["detail"]["due"], event["detail"]["max_age_days"]) == (1, 30)
    assert served.events("repair")[0]["detail"]["old"] == 1


@pytest.mark.parametrize("options", [{"max_age_days": 0}, {"max_age_days": -1}, {"limit": 0}])
def test_numbers_out_of_range_change_nothing(served: World, options: dict[str, Any]) -> None:
    before = served.state()
    with pytest.raises(ConfigError, match="Nothing has run"):
        refresh(served, **options)
    assert served.state() == before


# The source -----------------------------------------------------------------------------------------------------------


def test_a_source_that_changed_without_telling_us_is_followed(served: World) -> None:
    write_source(served, range(1, 121), d00005="melons instead")
    report = refresh(served, reread=True)
    assert report.reread == Reread(
        str(served.root / "docs.jsonl"),
        read=120,
        changed=2,
        unchanged=118,
        older=0,
        rejected=0,
        absent=1,
        first=("d00000",),
    )
    assert report.due == 0  # what was written is work of its own already
    served.settle()
    assert served.search("melons instead")[0] == "d00005"
    assert served.documents.get("d00120") is not None
    assert served.documents.get("d00000") is not None, "what is gone from the source is told, never deleted"
    assert served.differences(served.generation()) == []


def test_the_source_is_left_alone_unless_it_is_asked_for(served: World) -> None:
    write_source(served, range(120), d00005="melons instead")
    assert refresh(served).reread is None
    assert "pear5" in str(served.documents.get("d00005"))


def test_a_record_that_was_rejected_is_still_in_the_source(served: World) -> None:
    write_source(served, range(120), d00005="")
    reread = refresh(served, reread=True).reread
    assert reread is not None
    assert (reread.rejected, reread.absent, reread.changed) == (1, 0, 0)


def test_what_is_written_while_the_source_is_read_is_not_called_absent(served: World) -> None:
    class Slow:
        name = "a source"

        def __iter__(self) -> Iterator[Document]:
            served.put(1, start=700)
            yield Document("an id that cannot be stored\0", "text")
            yield from (document(n) for n in range(120))

    report = refresh_stale(served.engine, served.collection.cid, "docs", served.documents, Slow(), actor="night")
    assert report.reread == Reread("a source", 121, changed=0, unchanged=120, older=0, rejected=1, absent=0, first=())


def test_a_source_that_cannot_be_read_changes_nothing(served: World) -> None:
    write_source(served, range(120), d00005="melons instead")
    path = served.root / "docs.jsonl"
    path.write_text(path.read_text() + '{"torn')
    before = served.state()
    with pytest.raises(SourceError):
        refresh(served, reread=True)
    assert served.state() == before
    write_source(served, range(120))
    reread = refresh(served, reread=True).reread
    assert reread is not None
    assert reread.unchanged == 120


def test_a_collection_without_a_source_is_told_so(served: World) -> None:
    with pytest.raises(ConfigError, match="names none"):
        configured_source("docs", served.project.collection("docs"), Path(), str)


DELETE = {"on_missing": "delete"}


def test_what_is_gone_from_the_source_is_deleted_where_that_is_wanted(served: World) -> None:
    write_source(served, range(5, 120), DELETE)
    reread = refresh(served, reread=True).reread
    assert reread is not None
    assert (reread.absent, reread.deleted) == (5, 5)
    served.settle()
    assert served.documents.count() == 115
    assert served.search("apple3 pear3")[0] != "d00003"
    assert served.events("missing")[0]["detail"]["documents"] == [f"d{n:05d}" for n in range(5)]
    assert served.differences(served.generation()) == []


def test_more_than_the_bound_is_not_deleted_unless_a_person_says_so(served: World) -> None:
    write_source(served, range(7, 120), DELETE, d00050="melons instead")
    before = served.state()
    with pytest.raises(TooManyMissing, match=r"7 of 120 documents .*5.8%, 5.0% are allowed.*'d00000'.*--max-missing"):
        refresh(served, reread=True)
    assert served.state() == before
    words = ["ingest", "--project", str(served.root), "--max-missing", "0.1", "--json"]
    found = json.loads(CliRunner().invoke(app, words).stdout)
    assert (found["written"], found["missing_deleted"], served.documents.count()) == (1, 7, 113)


def test_another_source_than_the_configured_one_deletes_nothing_unless_it_is_asked_to(served: World) -> None:
    write_source(served, range(1, 120), DELETE)
    (served.root / "few.jsonl").write_text('{"_id": "new", "text": "some text"}\n')
    words = ["ingest", str(served.root / "few.jsonl"), "--project", str(served.root), "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["missing_deleted"] == 0
    refused = CliRunner().invoke(app, [*words, "--on-missing", "delete"])
    assert refused.exit_code == SourceError.exit_code
    assert served.documents.count() == 121
    done = CliRunner().invoke(app, [*words, "--on-missing", "delete", "--max-missing", "1"])
    assert json.loads(done.stdout)["missing_deleted"] == 120


def test_the_first_few_of_a_source_are_stored_and_the_rest_is_not_gone(served: World) -> None:
    write_source(served, range(120), DELETE, d00001="melons instead", d00007="plums instead")
    words = ["ingest", "--project", str(served.root), "--json", "--limit"]
    for wrong in ([*words, "5"], [*words, "0", "--on-missing", "keep"]):
        refused = CliRunner().invoke(app, wrong)
        assert refused.exit_code == ConfigError.exit_code
    found = json.loads(CliRunner().invoke(app, [*words, "5", "--on-missing", "keep"]).stdout)
    assert (found["read"], found["written"], found["missing_deleted"], served.documents.count()) == (5, 1, 0, 120)


def test_what_is_written_while_the_source_is_read_is_not_deleted(served: World) -> None:
    class Slow:
        name = "a source"

        def __iter__(self) -> Iterator[Document]:
            served.put(1, start=700)
            served.documents.put("d00119", "written again meanwhile")
            yield from (document(n) for n in range(119))

    refresh_stale(
        served.engine, served.collection.cid, "docs", served.documents, Slow(), actor="night", max_missing=1.0
    )
    assert served.documents.known(["d00700", "d00119"]) == {"d00700", "d00119"}


def test_a_row_that_comes_back_with_the_number_that_it_had_is_taken_and_an_older_one_is_not(served: World) -> None:
    def read(*rows: tuple[str, int]) -> None:
        lines = [json.dumps({"_id": doc_id, "text": f"text {at}", "at": at}) + "\n" for doc_id, at in rows]
        (served.root / "docs.jsonl").write_text("".join(lines))
        done = CliRunner().invoke(app, ["ingest", "--project", str(served.root)])
        assert done.exit_code == 0, done.output

    served.settings(source="docs.jsonl", version_field="at", on_missing="delete", max_missing=1.0)
    read(("a", 5), ("b", 5))
    read(("b", 5))
    assert served.documents.get("a") is None
    served.documents.put("a", "an old message", version=4)
    assert served.documents.get("a") is None
    read(("a", 5), ("b", 5))
    assert str(served.documents.get("a").text) == "text 5"


def test_a_query_on_the_own_or_another_database_is_read_again_by_night(served: World, database_url: str) -> None:
    served.sql("CREATE TABLE public.article (id text, body text, at bigint)")
    served.sql("INSERT INTO public.article VALUES ('a', 'melons instead', 1)")
    fields = {"id_field": "id", "text_fields": ["body"], "version_field": "at"}
    served.settings(source="sql:SELECT id, body, at FROM public.article", **fields)
    reread = refresh(served, reread=True).reread
    assert reread is not None
    assert reread.changed == 1
    stored = served.documents.get("a")
    assert stored is not None
    assert (stored.text, stored.external_version) == ("melons instead", 1)
    query = "sql:SELECT 'b' AS id, current_database() AS body, 7 AS at"
    served.settings(source=query, source_url=database_url, **fields)
    refresh(served, reread=True)
    assert str(served.documents.get("b").text) == database_url.rpartition("/")[2].partition("?")[0]


# Dead letters ---------------------------------------------------------------------------------------------------------


def test_no_dead_letters_are_no_event(served: World) -> None:
    assert retry(served) == RetryReport("docs", 0, 0, 0, 0, 0, 0)
    assert served.events("dlq_upkeep") == []


def test_a_dead_letter_is_cured_once_its_reason_has_passed(served: World) -> None:
    bury(served, 3, final=False)
    served.loader["hashing"].hook = None
    assert retry(served) == RetryReport("docs", 1, 1, 0, 0, 0, 0)
    served.settle()
    assert dead(served) == set()
    assert served.differences(served.generation()) == []


def test_what_may_pass_is_tried_every_time(served: World) -> None:
    bury(served, 3, final=False)
    for _ in range(4):
        assert retry(served, tries=1).retried == 1
        starve(served)


def test_what_is_final_is_tried_so_often_and_a_new_text_begins_anew(served: World) -> None:
    bury(served, 3, final=True)
    for _ in range(2):
        assert retry(served, tries=2).retried == 1
        starve(served)
    assert retry(served, tries=2) == RetryReport("docs", 1, 0, 0, 1, 0, 0)
    served.documents.put("d00003", "pear3 once more")
    starve(served)
    assert retry(served, tries=2).retried == 1


def test_the_cap_takes_first_what_was_tried_least(served: World) -> None:
    bury(served, 3, 4, 5, final=True)
    first = retry(served, limit=2)
    assert (first.retried, first.left) == (2, 1)
    starve(served)
    retry(served, limit=1)
    tried = [event["detail"]["documents"] for event in served.events("dlq_upkeep")]
    assert sorted(doc_id for ids in tried for doc_id in ids) == ["d00003", "d00004", "d00005"]


def test_a_document_that_kills_processes_counts_as_final(served: World) -> None:
    bury(served, 3, final=False)
    served.sql("UPDATE pending SET attempts = 16")
    assert retry(served, tries=0) == RetryReport("docs", 1, 0, 0, 1, 0, 0)


def test_what_a_person_waived_is_left_alone_and_refused_records_are_counted(served: World) -> None:
    bury(served, 3, final=False)
    with served.engine.begin() as connection:
        waive(connection, served.collection.cid, ["d00003"], actor="tester", why="a dump")
    write_source(served, range(4, 120), d00005="")
    refresh(served, reread=True)
    assert retry(served) == RetryReport("docs", 1, 0, 0, 0, 1, 1)
    assert dead(served) == {"d00003"}


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_has_the_limit_of_the_library() -> None:
    assert inspect.signature(commands_upkeep.stale).parameters["limit"].default == MOST_ENTRIES


def test_the_command_says_what_it_found_and_names_what_is_gone(served: World) -> None:
    age(served, 40, 3)
    write_source(served, range(1, 120))
    words = ["stale", "--project", str(served.root), "--max-age-days", "30", "--reread"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Looked at 120 index entries: 0 behind their document, 1 too old; 1 are due again" in done.output
    assert "1 documents are not in it, and none was deleted" in done.output
    assert "not in the source: d00000" in done.output
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (found["due"], found["reread"]["absent"]) == (0, 1)
