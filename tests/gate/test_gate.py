"""The gate that guards a swap: what it demands and refuses beforehand, what it keeps, and the page on it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import ConfigError, GateFailed, LabelError, RevectorError, StateError
from revector.interfaces import Document, Piece, Side, whole_texts
from revector.labels import span_of
from revector.measure.comparison import Comparison, compare
from revector.pages.gate_result import gate_page, kept_result
from stages import AtStep
from worlds import QUERIES, World

B200 = 'model = ModelSpec(name="hashing:seed2", dim=64)'


def kept(world: World, **which: Any) -> dict[str, Any]:
    return kept_result(world.project, "docs", **which).as_data()


def demanded(world: World, gate: str, body: str = B200) -> None:
    world.revision("b200", "a100", body, f"gate = Gate({gate})")


def languages(world: World, *names: str) -> None:
    """Give every query of the labels a language, in turn."""
    path = world.root / "labels" / "queries.jsonl"
    queries = [json.loads(line) for line in path.read_text().splitlines()]
    for n, query in enumerate(queries):
        query["metadata"] = {"language": names[n % len(names)]}
    path.write_text("".join(json.dumps(query) + "\n" for query in queries))


# What is refused before anything is embedded --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "error", "match"),
    [
        ("k=500", ConfigError, "recall@500 was asked for over 120 documents"),
        ('max_drop=0.1, slices=("tenant",)', LabelError, "none of 60 queries has that field"),
        ("min_queries=61", LabelError, "at least 61 labelled queries"),
        ("k=1, min_recall=0.9", LabelError, "the best possible recall@1 on these labels is 0.5"),
    ],
)
def test_a_gate_that_could_never_pass_is_refused_before_anything_is_embedded(
    served: World, gate: str, error: type[RevectorError], match: str
) -> None:
    qrels = served.root / "labels" / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "".join(f"q{n}\td00119\t1\n" for n in range(QUERIES)))
    demanded(served, gate)
    before = served.state()
    with pytest.raises(error, match=match):
        served.upgrade("b200", to="provision")
    assert served.state() == before


def test_a_plan_warns_of_labels_too_few_to_tell_what_the_gate_demands(served: World) -> None:
    demanded(served, "max_drop=0.02")
    (warning,) = served.migrator.plan("b200").warnings
    assert "60 labelled queries cannot exclude a drop of 0.02, about 191 can" in warning
    demanded(served, "max_drop=0.1")
    assert served.migrator.plan("b200").warnings == ()


# What it demands ------------------------------------------------------------------------------------------------------


def test_queries_that_became_too_few_are_inconclusive_and_may_be_overridden(served: World) -> None:
    demanded(served, "max_drop=0.15, min_queries=60")
    served.upgrade("b200", to="verify")
    served.documents.delete_many(["d00000"])
    served.settle()
    with pytest.raises(GateFailed, match="is inconclusive: 59 labelled queries were measured, at least 60"):
        served.upgrade("b200", to="gate")
    assert (kept(served)["verdict"], kept(served)["queries"]) == ("inconclusive", 59)
    served.migrator.override("one query fewer", by="ana")
    served.upgrade("b200")
    assert served.generation().revision == "b200"


def test_a_slice_that_falls_fails_a_gate_that_all_queries_together_pass(served: World) -> None:
    served.put(480, start=120)
    served.settle()
    served.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(600))
    languages(served, *["en"] * 9, "th")
    found = served.loader["hashing:seed2"]
    blind = {f"apple{n} pear{n}" for n in range(9, 600, 20)}  # every second query in Thai
    inner = found._inner

    class Half:
        """Finds nothing for these queries."""

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def encode(self, side: Side, pieces: list[Piece]) -> Any:
            if side == "query":
                pieces = whole_texts("nothing at all" if piece.text in blind else piece.text for piece in pieces)
            return inner.encode(side, pieces)

    found._inner = Half()
    demanded(served, 'max_drop=0.12, max_slice_drop=0.2, slices=("language", "length")')
    with pytest.raises(GateFailed, match=r"recall@10 falls by more than the allowed 0.2000 in language = th"):
        served.upgrade("b200")
    result = kept(served)
    assert {one["value"] for one in result["findings"] if "against revision" in one["sentence"]} == {"pass"}
    assert {(one["field"], one["name"]) for one in result["comparison"]["slices"]} >= {
        ("language", "en"),
        ("language", "th"),
    }


@pytest.mark.parametrize(("ratio", "verdict"), [(1e-6, "fail"), (1e6, "pass")])
def test_the_time_of_a_query_against_the_old_revision_is_judged_where_it_is_demanded(
    served: World, ratio: float, verdict: str
) -> None:
    demanded(served, f"max_drop=0.15, max_latency_ratio={ratio}")
    if verdict == "fail":
        with pytest.raises(GateFailed, match="p95 latency of a query, new over old"):
            served.upgrade("b200", to="gate")
    else:
        served.upgrade("b200", to="gate")
    assert kept(served)["verdict"] == verdict
    assert kept(served)["latency"]["queries"] == QUERIES


def test_an_index_that_the_planner_does_not_use_loses_nothing_and_is_not_read_again(at_step: AtStep) -> None:
    served = at_step("gate")
    assert kept(served)["ann"] is None
    assert "every answer was exact" in gate_page(served.project, "docs")


# Judged passages ------------------------------------------------------------------------------------------------------

PASSAGES, WORDS = 6, 12


def passage(document: int, number: int) -> str:
    own = f"apple{document}{'abcdef'[number]}"
    others = (f"word{(number * 7 + n) % 40}" for n in range(48))
    return " ".join([own, *(f"{own}{word}" for word in range(3)), *others])


@pytest.fixture
def books(world: World) -> World:
    """40 documents of six passages, two of each judged by their characters, cut into large chunks."""
    texts = {f"d{n:05d}": ". ".join(passage(n, number) for number in range(PASSAGES)) for n in range(40)}
    rows = ["query_id,query,doc_id,score,start,end"]
    for n, (doc_id, text) in enumerate(texts.items()):
        for number in (1, 4):
            start = text.index(passage(n, number))
            words = " ".join(passage(n, number).split()[:3])
            rows.append(f"q{n}{number},{words},{doc_id},1,{start},{start + len(passage(n, number))}")
    (world.root / "spans.csv").write_text("\n".join(rows) + "\n")
    world.settings(qrels="spans.csv")
    model = 'model = ModelSpec(name="hashing", dim=512)'
    world.revision("a100", None, model, "chunking = Chunking(max_tokens=128, overlap_tokens=0)", "gate = Gate(k=3)")
    fine = "chunking = Chunking(max_tokens=48, overlap_tokens=8)"
    world.revision("b200", "a100", model, fine, "gate = Gate(k=3, max_drop=0.1, min_queries=40)")
    world.documents.put_many([Document(doc_id, text) for doc_id, text in texts.items()])
    world.upgrade("a100")
    return world


def test_a_revision_that_only_cuts_otherwise_is_judged_on_the_same_passages(books: World) -> None:
    books.upgrade("b200")
    result = kept(books)
    assert result["verdict"] == "pass"
    assert result["queries"] == 80
    assert 0.5 < result["old"]["recall"]["mean"] <= 1
    assert result["new"]["recall"]["mean"] >= result["old"]["recall"]["mean"] - 0.1
    overlap = Comparison.from_data(result["comparison"]).passages
    assert overlap is not None
    assert (overlap.queries, 0 < overlap.new.mean < 1) == (80, True)
    assert "passage IoU@3" in gate_page(books.project, "docs")
    assert books.project.canary("docs").queries == 80


def test_a_passage_is_not_found_by_another_of_its_document(books: World) -> None:
    path = books.root / "spans.csv"
    head, *rows = path.read_text().splitlines()
    asked = [row.rsplit(",", 2)[0] for row in rows[::2]]  # the words of one passage, judged at another
    judged = [",".join(row.rsplit(",", 2)[1:]) for row in rows[1::2]]
    path.write_text("\n".join([head, *(f"{one},{where}" for one, where in zip(asked, judged, strict=True))]))
    books.upgrade("b200", to="index")
    measured = books.migrator.evaluate(generation=books.collection.building_gen, k=1)
    assert measured.interval().mean < 0.2
    read_first = [span_of(run[0]) for run in measured.run.values()]
    assert sum(one is not None and one.doc_id == f"d{n:05d}" for n, one in enumerate(read_first)) >= 38


# What is kept, and its page -------------------------------------------------------------------------------------------


@pytest.fixture
def judged(served: World) -> World:
    """A kept result with queries that lost: one of two dimensions finds little."""
    demanded(served, "max_drop=0.1", 'model = ModelSpec(name="hashing:seed2", dim=2)')
    with pytest.raises(GateFailed):
        served.upgrade("b200")
    return served


def test_a_kept_result_holds_recall_per_query_and_no_text_of_a_user(judged: World) -> None:
    result = kept(judged)
    assert result["scores"]["old"].keys() == result["scores"]["new"].keys() == {f"q{n}" for n in range(QUERIES)}
    assert sum(result["scores"]["new"].values()) / QUERIES == pytest.approx(result["new"]["recall"]["mean"])
    assert result["comparison"]["lost"]
    assert "apple" not in json.dumps(result)
    events = json.dumps([event["detail"] for event in judged.events("gate_failed")])
    assert "scores" not in events
    assert "comparison" not in events
    status = judged.project.status("docs").as_data()["migration"]["gate"]
    assert status["id"] == result["id"]
    assert "comparison" not in status


def test_a_kept_comparison_reads_back_as_it_was_and_is_a_table(judged: World) -> None:
    result = kept(judged)
    comparison = Comparison.from_data(result["comparison"])
    assert json.loads(json.dumps(comparison.as_data())) == result["comparison"]
    assert result["comparison"].pop("passages") is None  # earlier versions did not keep it
    assert Comparison.from_data(result["comparison"]) == comparison
    frame = comparison.to_frame()
    recall = frame[(frame["metric"] == "recall") & (frame["slice"] == "")]
    assert recall["new"].item() == pytest.approx(result["new"]["recall"]["mean"])


def test_the_page_of_a_kept_result_shows_texts_of_today_and_what_is_gone(judged: World) -> None:
    lost = kept(judged)["comparison"]["lost"][0]
    found = lost["old_ranking"][0]
    text = f"apple{int(found[1:])} pear{int(found[1:])} some words"
    before = gate_page(judged.project, "docs")
    assert f"✓ {found}" in before
    assert text in before
    assert "labels changed since" not in before
    judged.documents.delete_many([found])
    after = gate_page(judged.project, "docs", kept(judged)["id"])
    assert text not in after
    assert f'{found}</span><span class="soft"> gone since' in after
    (judged.root / "labels" / "queries.jsonl").unlink()
    assert lost["query"] in gate_page(judged.project, "docs"), "the figures stand without texts"


def test_results_are_named_by_number_and_generation_and_an_unknown_one_is_refused(judged: World) -> None:
    first = kept(judged)
    assert kept(judged, result_id=first["id"]) == kept(judged, generation=first["generation"]) == first
    with pytest.raises(StateError, match="keeps no gate result number 999"):
        gate_page(judged.project, "docs", 999)
    with pytest.raises(StateError, match="of generation 999"):
        kept(judged, generation=999)
    with pytest.raises(ConfigError, match="'other'"):
        gate_page(judged.project, "other")


def test_a_result_of_another_collection_is_not_shown(judged: World) -> None:
    number = kept(judged)["id"]
    with judged.engine.begin() as connection:
        connection.execute(sa.text("UPDATE collection SET name = 'others' WHERE name = 'docs'"))
    judged.project.init()
    with pytest.raises(StateError, match="keeps no gate result"):
        gate_page(judged.project, "docs", number)


def run(world: World, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--project", str(world.root)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_gate_tells_verdict_findings_and_figures_and_writes_the_page(judged: World) -> None:
    result, page = kept(judged), judged.root / "gate.html"
    shown = run(judged, "gate", "--html", str(page))
    assert shown.startswith("FAIL for generation 2, revision b200 against revision a100")
    for one in result["findings"]:
        assert one["sentence"] in shown
    assert f"{result['new']['recall']['mean']:.4f}" in shown
    assert page.read_text() == gate_page(judged.project, "docs")
    told = json.loads(run(judged, "gate", "--generation", "2", "--json"))
    assert told == {**result, "html": None}


def test_the_command_gate_shows_that_a_first_generation_was_not_measured(world: World) -> None:
    world.settings(qrels=None)
    world.put(20)
    world.upgrade("a100")
    assert "Not measured: first generation" in run(world, "gate")
    assert "first generation" in gate_page(world.project, "docs")


def test_labels_that_change_between_two_measurements_are_refused(judged: World) -> None:
    migrator = judged.migrator
    old = migrator.evaluate(generation=1)
    judged.labels((f"d{n:05d}", f"apple{n} pear{n} again") for n in range(QUERIES))
    new = migrator.evaluate(generation=2)
    with pytest.raises(LabelError, match="changed between the two measurements"):
        compare(new.scored, old.scored, k=10, documents=120)
    same = replace(new, fingerprint=old.fingerprint)
    assert compare(same.scored, old.scored, k=10, documents=120).queries == QUERIES
