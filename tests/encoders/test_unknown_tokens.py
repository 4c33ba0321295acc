"""Texts that a model cannot read are refused by name, on every way into an index, and so are queries made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fakes import Loader, ReadingEncoder
from revector.cli import run
from revector.cli.doctor import examine
from revector.encoders.vocabulary import LONG_WORDS, SYMBOLS
from revector.errors import NotCaughtUp, QueryRefused
from revector.indexing.encoding import Encoders
from revector.interfaces import Document, whole_texts
from revector.spec import ModelSpec, Revision, revision_from_data
from services import HERE, SEARCH, refused, serve
from worlds import World, document

THAI, LAO, KHMER = "แม่น้ำเจ้าพระยา", "ເຂົ້າໜຽວກັບໝາກມ່ວງ", "ទន្លេមេគង្គហូរកាត់ប្រទេស"
TEXTS = {"thai": THAI, "lao": LAO, "khmer": KHMER, "dna": "GATTACA" * 20, "hex": "4d5a9000" * 20, "emoji": "🎉 🎊"}
MIXED = "the river and its bridges " * 30 + f"{THAI} " * 300 + "the river and its bridges " * 30
INDEX = 'index = IndexSpec(kind="exact")'

Call = Callable[..., Any]


def reads(world: World) -> World:
    """From now on the models of a world know nothing but ASCII, as if it had been upgraded to a revector that looks."""
    world.loader = Loader(ReadingEncoder)
    world.project.__dict__["encoders"] = Encoders(world.loader)
    return world


@pytest.fixture
def reading(served: World) -> World:
    return reads(served)


@pytest.fixture
def call(reading: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run a command in the project; its exit code and what it said, as data where it said any."""
    monkeypatch.chdir(reading.root)
    monkeypatch.setattr("revector.config.load_project", lambda *_: reading.project)

    def go(*words: str) -> Any:
        code = run([*words, "--json"])
        seen = capsys.readouterr()
        return code, json.loads(seen.out) if seen.out else seen.err

    yield go
    monkeypatch.undo()


def put(world: World, texts: dict[str, str]) -> None:
    world.documents.put_many([Document(doc_id, text) for doc_id, text in texts.items()])


def dead(world: World, role: str = "active") -> dict[str, str]:
    rows = world.sql(
        "SELECT doc_id, last_error FROM pending WHERE state = 'dead' AND gen = :gen", gen=world.generation(role).gen
    )
    return {row.doc_id: row.last_error for row in rows}


def rows_of(world: World, role: str = "active") -> set[str]:
    return {row.doc_id for row in world.sql(f"SELECT DISTINCT doc_id FROM {world.generation(role).physical_name}")}


# Documents ------------------------------------------------------------------------------------------------------------


def test_a_written_document_that_the_model_cannot_read_becomes_a_dead_letter_and_its_neighbours_do_not(
    reading: World,
) -> None:
    put(reading, {**TEXTS, "plain": "the bridge over the Mekong", "half": f"bridge {THAI}"})
    reading.settle()
    found = dead(reading)
    assert set(found) == set(TEXTS)
    assert {"plain", "half"} <= rows_of(reading)
    assert not rows_of(reading) & set(TEXTS)
    assert all("100% of the tokens of chunk 1 of 1" in reason and "allows 50%" in reason for reason in found.values())
    assert f"'{THAI}'" in found["thai"]


def test_one_unreadable_chunk_among_good_ones_makes_the_document_a_dead_letter_that_names_it(reading: World) -> None:
    put(reading, {"mixed": MIXED})
    reading.settle()
    assert set(dead(reading)) == {"mixed"}
    assert re.search(r"the tokens of chunk [234] of \d+ \(", dead(reading)["mixed"])
    assert "mixed" not in rows_of(reading)


def test_a_backfill_refuses_them_too_and_the_swap_waits_for_a_person(reading: World) -> None:
    reading.sql("UPDATE pending SET due_at = 'infinity'")
    put(reading, {"thai": THAI, "dna": TEXTS["dna"]})
    reading.settle()
    reading.upgrade("b200", to="provision")
    reading.loader["hashing:seed2"].embedded.clear()  # what the plan tried
    with pytest.raises(NotCaughtUp, match="dead"):
        reading.upgrade("b200")
    assert set(dead(reading, "building")) == {"thai", "dna"}
    assert reading.loader["hashing:seed2"].embedded.count(THAI) == 0


def test_vectors_that_exist_already_are_not_reused_for_them(served: World) -> None:
    put(served, {"thai": THAI, "plain": "the bridge over the Mekong"})
    served.settle()  # by a revector that does not look
    served.revision("c300", "a100", 'model = ModelSpec(name="hashing", dim=64)', INDEX)
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    reads(served).upgrade("c300", to="provision")
    served.loader["hashing"].embedded.clear()  # what the plan tried
    with pytest.raises(NotCaughtUp, match="dead"):
        served.upgrade("c300")
    assert set(dead(served, "building")) == {"thai"}
    assert "plain" in rows_of(served, "building")
    assert THAI not in served.loader["hashing"].embedded


def test_imported_vectors_of_them_are_refused_or_left_out_by_name(served: World, call: Call) -> None:
    put(served, {"thai": THAI, "plain": "the bridge over the Mekong"})
    own = {
        "id": np.array(["thai", "plain"]),
        "vector": served.loader["hashing"].encode("document", whole_texts([THAI, "the bridge over the Mekong"])),
    }
    np.savez(served.root / "own.npz", **own)
    code, said = call("vectors", "import", "own.npz", "-r", "a100")
    assert code == 8
    assert "of more unknown tokens than" in said
    assert "'thai'" in said
    assert served.value("SELECT count(*) FROM archived") == 0
    code, found = call("vectors", "import", "own.npz", "-r", "a100", "--skip", "unreadable")
    assert (code, found["documents"], found["skipped"], found["first"]) == (
        0,
        1,
        {"unreadable": 1},
        {"unreadable": ["thai"]},
    )


def test_a_revision_may_allow_them(reading: World) -> None:
    reading.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=128, max_unknown_tokens=1.0)')
    put(reading, TEXTS)
    reading.settle()
    reading.upgrade("b200")
    assert not dead(reading)
    assert set(TEXTS) <= rows_of(reading)
    assert "thai" in reading.search(THAI, 200)


def test_what_was_indexed_before_stays_served_until_its_text_changes(served: World) -> None:
    put(served, {"thai": THAI})
    served.settle()
    reads(served).documents.put("thai", THAI, {"lang": "th"})
    served.settle()
    assert not dead(served)
    assert "thai" in rows_of(served)
    assert served.project.verify("docs", actor="tester").passed
    served.documents.put("thai", f"{THAI} {LAO}")
    served.settle()
    assert set(dead(served)) == {"thai"}


# What is told ---------------------------------------------------------------------------------------------------------


def test_a_plan_tells_the_share_of_unknown_tokens_by_script_and_what_would_be_refused(reading: World) -> None:
    put(reading, {**TEXTS, "thai2": f"{THAI} {THAI}", "half": f"bridge river town {THAI}"})
    plan = reading.migrator.plan("b200", probe_s=0.5)
    found = plan.unknown
    assert found is not None
    scripts = {one.script: one for one in found.scripts}
    assert (found.looked, found.documents, found.unreadable.value) == (128, 128, 7)
    assert (scripts["Thai"].share, scripts["Thai"].unreadable, scripts["Thai"].documents) == (1.0, 2, 2)
    assert scripts[LONG_WORDS].unreadable == 2
    assert scripts[SYMBOLS].first == ("emoji ('🎉 🎊')",)
    assert (scripts["Latin"].unreadable, scripts["Latin"].first) == (0, ("half ('bridge river town แม่น้ำเจ้าพระยา')",))
    assert 0 < found.share < 0.1
    warning = next(one for one in plan.warnings if "dead letter" in one)
    assert warning.startswith("7 of 128 documents")
    assert f"thai ('{THAI}')" in warning


def test_a_plan_names_labelled_queries_that_would_be_refused(reading: World) -> None:
    reading.labels([*((f"d{n:05d}", f"apple{n} pear{n}") for n in range(58)), ("d00058", THAI), ("d00059", LAO)])
    plan = reading.migrator.plan("b200", probe_s=0.5)
    assert set(plan.unreadable_queries) == {"q58", "q59"}
    assert any("2 labelled queries would be refused and find nothing (q58, q59)" in risk for risk in plan.risks)


def test_a_plan_for_an_encoder_without_a_vocabulary_says_nothing_of_it(served: World) -> None:
    put(served, TEXTS)
    plan = served.migrator.plan("b200", probe_s=0.5)
    assert plan.unknown is None
    assert not [one for one in plan.warnings if "dead letter" in one]


def test_doctor_tells_what_is_indexed_and_cannot_be_told_apart(served: World) -> None:
    put(served, TEXTS)
    served.settle()
    before = {check.name: check for check in examine(reads(served).project)}["docs, unknown tokens"]
    assert not before.ok
    assert "about 6 of 126 indexed documents" in before.detail
    assert f"thai ('{THAI}')" in before.detail
    for doc_id in TEXTS:
        served.documents.delete(doc_id)
    served.settle()
    after = {check.name: check for check in examine(served.project)}["docs, unknown tokens"]
    assert (after.ok, after.detail) == (True, "0.00% in 120 of 120 indexed documents")


def test_verify_names_what_was_indexed_before_without_calling_it_damage(served: World) -> None:
    put(served, {"thai": THAI, "khmer": KHMER})
    served.settle()
    report = reads(served).project.verify("docs", actor="tester", reembed=500)
    assert report.passed
    assert set(report.generations[0].unreadable) == {"thai", "khmer"}
    assert report.as_data()["generations"][0]["unreadable"]["thai"].startswith("100% of the tokens of chunk 1 of 1")


def test_verify_names_vectors_that_unlike_texts_share(served: World) -> None:
    texts = {
        "a": "river bridge town",
        "b": "town river bridge",
        "c": "Town,  river: BRIDGE!",
        "d": "river bridge, town",
    }
    put(served, {**texts, "same1": "an equal text", "same2": "An  équal text".replace("é", "e")})
    served.settle()  # to a bag of words the order is nothing
    report = served.project.verify("docs", actor="tester", reembed=0)
    assert report.passed
    (alike,) = report.generations[0].alike
    assert alike.texts == 4
    assert [one.split()[0] for one in alike.first] == ["a", "b", "c", "d"]
    assert served.events("verify_live")[-1]["detail"]["generations"][0]["alike"] == 4


def test_verify_looks_for_shared_vectors_where_it_looks_at_everything(served: World) -> None:
    put(served, {"a": "river bridge town", "b": "town river bridge"})
    served.settle()
    assert served.project.verify("docs", actor="tester", reembed=0, sample=0.5).generations[0].alike == []


# Revisions ------------------------------------------------------------------------------------------------------------


def test_the_default_changes_no_identity_and_another_value_does() -> None:
    before = {
        "name": "hashing",
        "dim": 384,
        "commit": None,
        "max_tokens": 256,
        "query_prompt": "",
        "document_prompt": "",
    }
    model = ModelSpec("hashing", 384)
    assert model.as_identity() == before | {"normalize": True, "dtype": "float32"}
    assert Revision("7c41", None, model).config_hash == (
        "5b865907d22f3bc0b0166ee1425f72a59a9a1b8dfdd2e0102e5138a148618486"  # as it was before the setting
    )
    other = Revision("7c41", None, ModelSpec("hashing", 384, max_unknown_tokens=1))
    assert other.config_hash != Revision("7c41", None, model).config_hash
    assert other.config_hash == Revision("7c41", None, ModelSpec("hashing", 384, max_unknown_tokens=1.0)).config_hash


def test_a_generation_that_was_registered_before_allows_half() -> None:
    data = Revision("7c41", None, ModelSpec("hashing", 384)).as_data()
    del data["model"]["max_unknown_tokens"]  # type: ignore[attr-defined]
    assert revision_from_data(data).model.max_unknown_tokens == 0.5


# Queries --------------------------------------------------------------------------------------------------------------

BAD_QUERIES = {**TEXTS, "question": f"{THAI}?", "zero width": "\u200b\u200d", "nul": "\x00", "blank": "  \n"}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_a_query_that_nothing_can_answer_is_refused_in_python_and_over_http(reading: World, name: str) -> None:
    with pytest.raises(QueryRefused, match="Nothing was searched"):
        reading.project.searcher("docs").search(BAD_QUERIES[name])
    with serve(reading.project) as client:
        detail = refused(client.post(f"{HERE}{SEARCH}", json={"query": BAD_QUERIES[name]}), 422, "QueryRefused")
    assert "Nothing was searched" in detail


def test_the_command_line_refuses_it_with_the_share_and_what_is_allowed(call: Call) -> None:
    code, said = call("search", THAI)
    assert code == 2
    assert f"100% of the tokens of the query '{THAI}'" in said
    assert "allows 50%" in said
    assert call("search", "\u200b")[0] == 2


def test_a_query_is_searched_for_as_a_document_of_the_same_text_is_stored(reading: World) -> None:
    put(reading, {"cafe": "the café at the bridge"})
    reading.settle()
    answer = reading.project.searcher("docs").search("the cafÃ© at the\u200b bridge".replace("\u200b", "\x07"))
    assert answer.hits[0].id == "cafe"
    assert answer.hits[0].score == pytest.approx(1.0, abs=1e-6)


def test_a_query_that_is_readable_for_the_most_part_is_answered(reading: World) -> None:
    assert "d00001" in reading.search(f"apple1 pear1 number {THAI}")


def test_only_what_the_model_sees_of_a_query_counts(reading: World) -> None:
    with pytest.raises(QueryRefused):
        reading.search(f"{THAI} " * 256 + "apple1 " * 1_000)
    assert reading.search("apple1 pear1 " * 200 + f"{THAI} " * 1_000)


def test_labelled_queries_that_would_be_refused_find_nothing_and_are_named(reading: World, call: Call) -> None:
    reading.labels([*((f"d{n:05d}", f"apple{n} pear{n}") for n in range(58)), ("d00058", THAI), ("d00059", LAO)])
    code, found = call("eval")
    assert code == 0
    assert found["refused_queries"]["count"] == 2
    assert set(found["refused_queries"]["first"]) == {"q58", "q59"}
    assert found["metrics"]["recall"]["mean"] == pytest.approx(58 / 60)
    reading.upgrade("b200")
    code, kept = call("gate")
    assert code == 0
    for side in ("new", "old"):
        assert set(kept[side]["refused_queries"]["first"]) == {"q58", "q59"}


def test_a_document_is_not_taken_for_another(reading: World) -> None:
    """The whole promise: no text finds another one because the model can read neither."""
    put(reading, TEXTS | {"plain": document(1).text or ""})
    reading.settle()
    for text in TEXTS.values():
        with pytest.raises(QueryRefused):
            reading.search(text)
    assert not set(TEXTS) & set(reading.search("apple1 pear1", 200))
