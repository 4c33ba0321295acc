"""A judge beside people in a verdict: corrected by them, told with its agreement, and never enough alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from extras import needs
from fakes import FakeJudge
from revector.cli.app import app
from revector.errors import ConfigError, GateFailed, LabelError
from revector.gate.proxies import candidates
from revector.gate.query_set import QuerySet
from revector.labels import Labels, Span, in_random_order
from revector.pages.gate_result import kept_result
from worlds import World, build_beside

needs("openai")


def ask(world: World, *words: str) -> None:
    told = ["labels", "proxy", "--judge", "mini", "--yes", *words, "--project", str(world.root)]
    done = CliRunner().invoke(app, told, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def look(world: World) -> str:
    """Run the gate, and return what its verdict says of the judge."""
    with pytest.raises(GateFailed):
        world.upgrade("b200", to="gate")
    (sentence,) = [one.sentence for one in kept_result(world.project, "docs").findings if "Judge mini" in one.sentence]
    return sentence


def test_a_judge_counts_beside_people_and_each_more_of_it_is_a_look(served: World) -> None:
    served.labels((f"d{n:05d}", f"apple{n} words number {n - 30}") for n in range(30, 110))
    with FakeJudge() as server:
        judged = server.words
        server.words = lambda query, text: "Hm." if query.startswith("apple61 ") else judged(query, text)
        build_beside(served, server.base_url, 60)
        assert "judged 0 of the" in look(served)
        ask(served, "--limit", "60")
        some = look(served)
        ask(served)
        said = look(served)
    found = kept_result(served.project, "docs")
    change = found.compared.metrics["recall"]
    assert found.proxy is not None
    assert change.proxy is not None
    assert found.proxy.whole == found.proxy.differing == change.differing
    assert change.judged + change.proxy.beside == change.differing
    assert found.proxy.alike == found.proxy.pairs > 0, "this judge says what people say"
    assert f"judged 60 of the {change.differing} queries" in some
    assert 0 < change.proxy.weight < 1
    assert "% narrower (without it" in said
    assert found.proxy.refused >= 3
    assert f"({found.proxy.refused} answers were none of the scale)" in said
    assert (found.look, found.verdict) == (3, "fail")
    assert change.difference.high < -0.01 < change.proxy.without.high, "people alone would not have shown it"
    assert served.sql("SELECT count(*) FROM proxy_score")[0][0] > 0
    assert "apple70 words" not in json.dumps(found.as_data()), "texts are never kept"


def test_a_judge_whose_server_exchanges_the_model_is_not_believed(served: World) -> None:
    with FakeJudge() as server:
        build_beside(served, server.base_url)
        ask(served, "--limit", "10")
        server.model = "mini-2"
        ask(served)
    with pytest.raises(LabelError, match="answered by 2 models: mini, mini-2"):
        served.upgrade("b200", to="gate")


def test_a_judge_that_nobody_named_is_refused_before_the_work(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', 'gate = Gate(proxy="mini")')
    with pytest.raises(ConfigError, match="judge 'mini' was asked for as a proxy"):
        served.upgrade("b200", to="provision")
    assert served.project.status("docs").slots.building is None


def test_without_a_label_a_judge_alone_leaves_the_verdict_open_and_says_how_many_are_needed(served: World) -> None:
    served.settings(qrels=None)
    file = served.root / "revector.toml"
    file.write_text(f'{file.read_text()}\n[judges.mini]\nkind = "cross-encoder"\nmodel = "./m"\nrelevant_from = 0.5\n')
    served.__dict__.pop("project", None)
    body = 'model = ModelSpec(name="hashing:seed2", dim=64)'
    served.revision("b200", "a100", body)
    with pytest.raises(LabelError, match="has no labelled queries"):
        served.upgrade("b200", to="provision")
    served.revision("b200", "a100", body, 'gate = Gate(proxy="mini")')
    with pytest.raises(GateFailed, match=r"inconclusive: people judged no query.*a gate needs about 191 labelled"):
        served.upgrade("b200", to="gate")
    active = served.project.status("docs").slots.active
    assert active is not None
    assert active.revision == "a100"


def test_what_a_judge_is_asked_are_all_queries_that_differ_in_one_random_order() -> None:
    texts = {f"q{n}": f"text {n}" for n in range(9)}
    labels = Labels("labels", {"q0": "text 0"}, {"q0": {"a": 1}}, "fp")
    others = {query: text for query, text in texts.items() if query != "q0"}
    queries = QuerySet(labels, labels.qrels, labels.qrels, "fp", {}, others=others)
    old = {query: ["a", "b"] for query in texts}
    new = {query: ["b", "a"] for query in texts} | {"q0": ["c"], "q4": ["a"]}
    found = candidates(queries, old, new, ordered=False)
    assert found == {"q0": ["a", "b", "c"], "q4": ["a", "b"]}
    assert list(candidates(queries, old, new, ordered=True)) == in_random_order(texts)
    with pytest.raises(LabelError, match="where passages are judged"):
        candidates(
            replace(queries, labels=replace(labels, spans={"q0": {Span("a", 0, 5): 1}})), old, new, ordered=False
        )
