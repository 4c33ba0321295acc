"""Queries that people judge next: a random sample of those that differ, remembered, and of no weight elsewhere."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import GateFailed, LabelError
from revector.gate.draws import Draws, choose, set_apart
from revector.gate.needs import label_need
from revector.gate.query_set import QuerySet
from revector.labels import Labels
from revector.measure.statistics import Share, paired_interval
from revector.pages.gate_result import kept_result
from revector.spec import Gate
from worlds import QUERIES, World

OTHER = 'model = ModelSpec(name="hashing:seed2", dim=64)'


def query_set(base: int, others: int, judged: dict[str, int]) -> QuerySet:
    """Labels of ``base`` queries and of the ``judged`` ones of the others, which are relevant or not."""
    texts = {f"q{n}": f"text {n}" for n in range(base)}
    qrels = {query: {"d": 1} for query in texts} | {query: {"d": score} for query, score in judged.items()}
    labels = Labels("labels", texts | {query: f"other {query}" for query in judged}, qrels, "fp")
    usable = {query: known for query, known in qrels.items() if known["d"]}
    counts = {"queries": len(usable)}
    return QuerySet(labels, usable, usable, "fp", counts, others={f"u{n}": f"other u{n}" for n in range(others)})


@given(st.sets(st.integers(0, 59)), st.integers(1, 20), st.integers(1, 20))
def test_what_is_drawn_is_the_head_of_one_random_order_whatever_is_asked_at_a_time(
    differing: set[int], first: int, second: int
) -> None:
    queries = query_set(5, 60, {})
    old = {query: ["a"] for query in queries.others}
    new = old | {f"u{n}": ["b"] for n in differing}
    whole = choose(queries, old, new, Draws(), 60)
    assert set(whole.drawn) == {f"u{n}" for n in differing}
    assert (whole.differing, whole.of) == (len(differing), 60)
    one = choose(queries, old, new, Draws(), first)
    again = choose(queries, old, new, Draws(frozenset(one.drawn), one.drawn), first)
    assert list(again.queries) == list(one.queries), "what is not judged yet is handed out again"
    assert again.drawn == ()
    judged = query_set(5, 60, dict.fromkeys(one.drawn, 0))
    two = choose(judged, old, new, Draws(frozenset(one.drawn), one.drawn), second)
    assert (*one.drawn, *two.drawn) == whole.drawn[: first + second]
    assert two.judged == len(one.drawn)
    assert all(set(found) == {"a", "b"} for found in two.found.values())


def test_drawn_queries_count_up_to_the_first_that_is_not_judged_and_never_as_random_ones() -> None:
    judged = {"u1": 1, "u2": 0, "u4": 1}
    queries = query_set(3, 9, judged)
    apart = set_apart(queries, Draws(frozenset({"u1", "u2", "u3", "u4"}), ("u2", "u1", "u3", "u4")))
    assert set(apart.qrels) == {"q0", "q1", "q2"}
    assert apart.counts["queries"] == 3
    assert apart.drawn == {"u2": {}, "u1": {"d": 1}}
    elsewhere = set_apart(queries, Draws(frozenset(judged), ()))
    assert (set(elsewhere.qrels), elsewhere.drawn) == ({"q0", "q1", "q2"}, {})
    assert set_apart(queries, Draws()) is queries
    with pytest.raises(LabelError, match="Nothing was measured; label some queries at random"):
        set_apart(replace(queries, qrels={"u1": {"d": 1}}), Draws(frozenset({"u1"}), ()))


def test_what_a_gate_needs_is_said_in_numbers_that_its_interval_confirms() -> None:
    need = label_need(Gate())
    assert need is not None
    for count, passes in ((need.same, True), (need.same * 4 // 5, False)):
        assert (paired_interval([1.0] * count, [1.0] * count).low >= -need.max_drop) is passes
    for share, judged in need.differing.items():
        asked = Share(20_000, round(20_000 * share))
        assert paired_interval([1.0] * judged, [1.0] * judged, share=asked).low >= -need.max_drop
    assert f"about {need.same:,} labelled queries" in need.sentence
    assert label_need(Gate(max_drop=0.0)) is None


def run(world: World, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--project", str(world.root)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_people_judge_what_differs_and_the_verdict_counts_it(served: World) -> None:
    asked = [{"_id": f"u{n}", "text": f"apple{n % 120} words number {n}"} for n in range(200)]
    (served.root / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    served.settings(queries="asked.jsonl")
    served.revision("b200", "a100", OTHER, "gate = Gate(max_drop=0.01, min_overlap=None)")
    served.upgrade("b200", to="index")
    file = served.root / "next.csv"
    told = json.loads(run(served, "labels", "next", "-n", "12", "-o", str(file), "--json"))
    assert (told["queries"], told["of"], told["judged"]) == (12, 200, 0)
    rows = list(csv.DictReader(file.open()))
    for row in rows:
        row["score"] = str(int(row["query"].split()[0] == row["text"].split()[0]))
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run(served, "labels", "add", str(file))
    with pytest.raises(GateFailed):
        served.upgrade("b200", to="gate")
    found = kept_result(served.project, "docs")
    change = found.compared.metrics["recall"]
    assert (found.queries, found.others, found.drawn) == (QUERIES, 200, 12)
    assert change.asked == QUERIES + 200
    assert change.differing >= change.judged >= 12
    second = json.loads(run(served, "labels", "next", "-n", "5", "-o", str(served.root / "more.csv"), "--json"))
    assert (second["queries"], second["judged"]) == (5, 12)
    asked_of = [row["query_id"] for row in csv.DictReader((served.root / "more.csv").open())]
    assert not {row["query_id"] for row in rows} & set(asked_of)
    assert [len(event["detail"]["asked"]) for event in served.events("labels_next")] == [5, 12]
