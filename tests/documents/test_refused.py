"""Updates that are refused: what is served meanwhile says so, and nothing older removes the trace of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_documents import Records
from typer.testing import CliRunner

from revector.cli.app import app
from revector.documents.deadletters import DeadLetter, dead_letters, open_letters, waive
from revector.documents.ingesting import IngestReport
from revector.documents.writing import LateMessage
from revector.errors import DocumentError, SourceError, StateError
from revector.interfaces import Document
from worlds import World


def ingest(world: World, *records: Document) -> IngestReport:
    return world.documents.ingest(Records(records), actor="tester")


def letters(world: World) -> list[DeadLetter]:
    with world.engine.connect() as connection:
        return dead_letters(connection, world.collection.cid)


def refund(text: str | None, version: int | None) -> Document:
    return Document("refund", text, {}, version)


OPENING = Document("opening", "The shop opens at nine.")
GOOD, DAMAGED = "Refunds are paid within thirty days.", "text\0with NUL and more"


@pytest.fixture
def behind(world: World) -> World:
    """Version 20 is stored, version 30 was refused."""
    ingest(world, refund(GOOD, 20), OPENING)
    ingest(world, refund(DAMAGED, 30), OPENING)
    return world


@pytest.mark.parametrize("late", [5, 20], ids=["older", "of the stored version"])
def test_an_older_message_is_counted_named_and_leaves_the_dead_letter(behind: World, late: int) -> None:
    report = ingest(behind, refund("Refunds are paid within sixty days.", late), OPENING)
    assert (report.written, report.unchanged, report.older, report.differing, report.rejected) == (0, 1, 1, 1, 0)
    assert report.late == {"refund": LateMessage(late, 20, differs=True)}
    assert behind.events("ingest")[0]["detail"]["late"]["refund"]["version"] == late
    written = behind.documents.put("refund", "Refunds are paid within sixty days.", version=late)
    assert (written.changed, written.older) == (0, {"refund": LateMessage(late, 20, differs=True)})
    assert behind.documents.delete("refund", version=late).older["refund"].differs
    [letter] = letters(behind)
    assert (letter.doc_id, letter.stage, letter.external_version, letter.behind) == ("refund", "ingest", 30, True)


def test_a_repeated_message_is_unchanged_and_an_older_equal_one_does_not_differ(behind: World) -> None:
    assert ingest(behind, refund(GOOD, 20)).unchanged == 1
    report = ingest(behind, refund(GOOD, 7))
    assert (report.older, report.differing, report.late) == (1, 0, {})
    assert len(letters(behind)) == 1


def test_a_refused_message_that_is_older_than_what_is_stored_is_no_dead_letter(world: World) -> None:
    ingest(world, refund(GOOD, 20))
    report = ingest(world, refund("", 5), OPENING)
    assert (report.older, report.rejected, report.reasons) == (1, 0, {})
    assert letters(world) == []
    _, refused = world.documents.put_valid([refund("", 5)], "an upload")
    assert refused == {}
    assert letters(world) == []


@pytest.mark.parametrize("version", [25, 30, 31])
def test_a_version_between_is_stored_and_only_one_as_new_as_the_refused_answers_it(behind: World, version: int) -> None:
    assert ingest(behind, refund("Refunds are paid at once.", version), OPENING).written == 1
    assert len(letters(behind)) == (version < 30)


def test_the_newest_refusal_is_the_one_that_is_kept(behind: World) -> None:
    ingest(behind, refund("", 25), OPENING)
    [letter] = letters(behind)
    assert (letter.external_version, "NUL" in letter.reason) == (30, True)


def test_without_versions_a_later_write_answers_even_one_that_changes_nothing(world: World) -> None:
    ingest(world, refund(GOOD, None), OPENING)
    ingest(world, refund("", None), OPENING)
    assert letters(world)[0].behind
    assert ingest(world, refund(GOOD, None)).unchanged == 1
    assert letters(world) == []


def test_a_stored_version_that_comes_again_does_not_answer_a_refusal_without_version(world: World) -> None:
    ingest(world, refund(GOOD, 20), OPENING)
    ingest(world, refund("", None), OPENING)
    ingest(world, refund(GOOD, 20))
    assert len(letters(world)) == 1
    ingest(world, refund(GOOD, 21))
    assert letters(world) == []


@pytest.mark.parametrize("version", [None, 31])
def test_a_delete_answers_a_refused_record(behind: World, version: int | None) -> None:
    behind.documents.delete("refund", version=version)
    assert letters(behind) == []


def test_a_delete_of_what_was_never_stored_answers_its_refused_record(world: World) -> None:
    ingest(world, refund("", None), OPENING)
    assert world.documents.delete("refund").changed == 0
    assert letters(world) == []
    assert world.value("SELECT count(*) FROM document") == 1, "no tombstone of what never was"


def test_plain_sql_answers_with_new_text_and_not_with_new_metadata(behind: World) -> None:
    behind.sql("UPDATE document SET meta = '{\"lang\": \"en\"}' WHERE doc_id = 'refund'")
    behind.sql("UPDATE document SET content = 'Some days.', external_version = 25 WHERE doc_id = 'refund'")
    assert len(letters(behind)) == 1
    behind.sql("UPDATE document SET content = 'Ten days.' WHERE doc_id = 'refund'")
    assert letters(behind) == []


def test_a_refused_source_leaves_the_letters_of_what_is_stored(world: World) -> None:
    ingest(world, refund(GOOD, 20))
    with pytest.raises(SourceError, match="dead letters now"):
        ingest(world, refund("", 30), Document("new", ""))
    assert [(letter.doc_id, letter.behind) for letter in letters(world)] == [("refund", True)]


def test_an_upload_keeps_its_refused_lines_as_dead_letters(behind: World) -> None:
    written, refused = behind.documents.put_valid([refund("", 40), Document("x\n", "text"), OPENING], "an upload")
    assert (written.changed, set(refused)) == (0, {"refund", "x\n"})
    assert [(letter.doc_id, letter.external_version) for letter in letters(behind)] == [("refund", 40)]


# A person -------------------------------------------------------------------------------------------------------------


def test_a_waived_record_is_out_of_the_count_until_another_version_is_refused(behind: World) -> None:
    cid = behind.collection.cid

    def counted() -> tuple[int, int, int]:
        with behind.engine.connect() as connection:
            found = open_letters(connection, cid)
        return found.letters, found.refused, found.behind

    assert counted() == (1, 1, 1)
    with behind.engine.begin() as connection:
        waive(connection, cid, ["refund"], actor="maria", why="the page is gone")
    assert counted() == (0, 0, 0)
    ingest(behind, refund(DAMAGED, 30), OPENING)
    assert counted() == (0, 0, 0), "the same record, refused again by night"
    assert [letter.waived_by for letter in letters(behind)] == ["maria"]
    with behind.engine.begin() as connection, pytest.raises(StateError, match="not waived already"):
        waive(connection, cid, ["refund"], actor="maria", why="again")
    ingest(behind, refund(DAMAGED, 31), OPENING)
    assert counted() == (1, 1, 1)


def test_what_could_not_be_stored_holds_up_no_swap_and_the_plan_says_so(served: World) -> None:
    ingest(served, Document("d00003", ""), Document("new", ""), OPENING)
    assert served.migrator.plan("b200").risks[-1].startswith("2 records were refused at ingestion, 1 of them later")
    assert served.upgrade("b200")[-1].step == "swap"
    assert len(letters(served)) == 2


def test_get_search_and_status_say_that_what_is_served_is_behind(served: World) -> None:
    ingest(served, Document("d00003", "", version=30), OPENING)
    served.settle()
    stored = served.documents.get("d00003")
    assert stored is not None
    assert stored.refused is not None
    assert (stored.refused.version, stored.refused.source) == (30, "records")
    run = CliRunner().invoke
    project = ["--project", str(served.root)]
    said = "A later version of 'd00003' (your version 30) was refused"
    assert said in run(app, ["get", "d00003", *project]).output
    assert said in run(app, ["search", "apple3 pear3", "--explain", *project]).output
    found = json.loads(run(app, ["search", "apple3 pear3", "--explain", "--json", *project]).output)
    assert found["behind"]["d00003"]["version"] == 30
    status = run(app, ["status", *project]).output
    assert "1 documents are served in an older version" in status
    assert served.project.status("docs").refused.as_data() == {"records": 1, "behind": 1}


# Text that is empty on purpose ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t ", "\u200b\ufeff", "&nbsp;", None])
def test_empty_text_deletes_where_the_collection_says_so(world: World, text: str | None) -> None:
    ingest(world, refund(GOOD, 20), OPENING)
    world.settings(on_empty="delete")
    report = ingest(world, refund(text, 30), Document("never", text), OPENING)
    assert (report.deleted, report.written, report.unchanged, report.rejected) == (1, 0, 2, 0)
    assert world.documents.get("refund") is None
    assert ingest(world, refund(GOOD, 25)).older == 1, "an older text does not come back"
    assert letters(world) == []
    assert world.value("SELECT count(*) FROM document") == 2


def test_a_put_of_empty_text_deletes_as_well_and_damage_is_refused_as_ever(world: World) -> None:
    world.settings(on_empty="delete")
    world.documents.put("refund", GOOD, version=20)
    written = world.documents.put("refund", " ", {"lang": "en"}, version=30)
    assert written.deleted == {"refund"}
    assert world.documents.get("refund") is None
    for damaged in ("\x01\x02", "\ue000", DAMAGED):
        with pytest.raises(DocumentError):
            world.documents.put("opening", damaged)


def test_a_source_of_many_empty_texts_alone_deletes_nothing(world: World) -> None:
    world.put(20)
    world.settings(on_empty="delete")
    with pytest.raises(SourceError, match="all 11 records"):
        ingest(world, *(Document(f"d{n:05d}", None) for n in range(11)))
    assert world.documents.count() == 20
    assert ingest(world, Document("d00003", None)).deleted == 1


def test_the_three_files_in_their_order(world: World, tmp_path: Path) -> None:
    """As a user meets it: first, emptied, and a message that was late."""
    lines = {"first": ("Thirty days.", 20), "emptied": ("", 30), "late": ("Sixty days.", 5)}
    run = CliRunner().invoke
    options = ["--version-field", "n", "--json", "--project", str(world.root)]
    reports = []
    for name, (text, n) in lines.items():
        path = tmp_path / f"{name}.jsonl"
        other = {"_id": "opening", "text": f"Opens at {n}.", "n": n}
        path.write_text("\n".join(json.dumps(line) for line in ({"_id": "refund", "text": text, "n": n}, other)))
        reports.append(json.loads(run(app, ["ingest", str(path), *options]).output))
    assert [(one["written"], one["rejected"], one["older"]) for one in reports] == [(2, 0, 0), (1, 1, 0), (0, 0, 2)]
    assert reports[-1]["late"] == {
        "opening": {"version": 5, "stored": 30, "differs": True},
        "refund": {"version": 5, "stored": 20, "differs": True},
    }
    assert [(one.doc_id, one.external_version) for one in letters(world)] == [("refund", 30)]
