"""Queries that are documents themselves: none of them is its own answer, wherever answers are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.gate.query_set import QuerySet, usable_queries
from revector.interfaces import Document
from revector.labels import Labels
from worlds import World

GROUPS = 6


def text(group: int, n: int) -> str:
    return f"apple{group} pear{group} plum{group} cherry{group} word{n}"


def write_labels(world: World, queries: Mapping[str, str], judged: Mapping[str, list[str]]) -> None:
    lines = (json.dumps({"_id": query, "text": said}) + "\n" for query, said in queries.items())
    (world.root / "labels" / "queries.jsonl").write_text("".join(lines))
    pairs = (f"{query}\t{doc}\t1\n" for query, docs in judged.items() for doc in docs)
    (world.root / "labels" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(pairs))


@pytest.fixture
def argued(world: World) -> World:
    """Groups of eleven like documents, the first of each is a query whose ten answers are the others: as ArguAna is."""
    gate = "gate = Gate(max_drop=1.0, min_queries=5)"
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)', gate)
    world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=128)', gate)
    world.documents.put_many([Document(f"g{group}-{n}", text(group, n)) for group in range(GROUPS) for n in range(11)])
    write_labels(
        world,
        {f"g{group}-0": text(group, 0) for group in range(GROUPS)},
        {f"g{group}-0": [f"g{group}-{n}" for n in range(1, 11)] for group in range(GROUPS)},
    )
    world.upgrade("a100")
    return world


def run(world: World, *command: str) -> Any:
    result = CliRunner().invoke(app, [*command, "--json", "--project", str(world.root)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_search_that_finds_every_answer_scores_1_in_eval_canary_gate_and_rehearsal(argued: World) -> None:
    found = run(argued, "eval")
    assert found["own_documents"] == GROUPS
    assert [found["metrics"][name]["mean"] for name in ("recall", "mrr", "ndcg")] == [1, 1, pytest.approx(1)]
    assert (
        "6 queries are documents themselves" in CliRunner().invoke(app, ["eval", "--project", str(argued.root)]).stdout
    )
    canary = run(argued, "canary")
    assert (canary["recall"], canary["own_documents"]) == (1, GROUPS)
    argued.upgrade("b200", to="gate")
    gate = run(argued, "gate")
    assert (gate["old"]["means"]["mrr"], gate["own_documents"]) == (1, GROUPS)
    page = argued.root / "gate.html"
    run(argued, "gate", "--html", str(page))
    assert "Queries that are documents" in page.read_text()
    assert run(argued, "compare")["own_documents"] == GROUPS
    rehearsed = run(argued, "rehearse", "--sample", "100%", "b200")["gate"]
    assert 0 < rehearsed["queries"] == rehearsed["own_documents"]


def test_a_comparison_leaves_a_query_out_of_its_own_answers(argued: World) -> None:
    argued.upgrade("b200", to="index")
    asked = argued.root / "asked.txt"
    asked.write_text(text(0, 0) + "\nplum1 cherry2\n")
    found = run(argued, "compare", "--queries", str(asked), "-k", "10")
    assert (found["queries"], found["own_documents"]) == (2, 1)


def queries(world: World, texts: Mapping[str, str], judged: Mapping[str, Mapping[str, int]]) -> QuerySet:
    labels = Labels("set/test", dict(texts), {query: dict(docs) for query, docs in judged.items()}, "f" * 64)
    return usable_queries(labels, world.documents)


def test_equal_ids_alone_or_a_relevant_judgement_leave_nothing_out(argued: World) -> None:
    """Many sets number queries and documents from 1; and a question may be judged the answer of itself."""
    found = queries(
        argued,
        {"g0-3": "another text", "g1-0": text(1, 0)},
        {"g0-3": {"g0-1": 1}, "g1-0": {"g1-0": 1}},
    )
    assert (found.own, found.counts["own_documents"], found.counts["same_ids"]) == ({}, 0, 1)


def test_a_title_before_the_text_and_another_id_of_the_same_text_are_the_query_as_well(argued: World) -> None:
    argued.documents.put("titled", f"A title\n{text(7, 7)}")
    argued.documents.put("twin", text(8, 8))
    argued.settle()
    found = queries(
        argued,
        {"titled": text(7, 7).replace(" ", "  "), "other": text(8, 8)},
        {"titled": {"g0-1": 1}, "other": {"g0-1": 1}},
    )
    assert found.own == {"titled": {"titled"}, "other": {"twin"}}
    argued.documents.delete("twin")
    assert "other" not in queries(argued, {"other": text(8, 8)}, {"other": {"g0-1": 1}}).own


def test_the_fingerprint_of_queries_that_are_no_documents_is_as_it_was(argued: World) -> None:
    found = queries(argued, {"q": "apple1 pear1"}, {"q": {"g1-1": 1}})
    assert found.fingerprint == "9099f410f1bd616fd155aca07afbcfa429b75ee60c10d44303b384a03ed33db8"
