"""``min_score`` keeps the hits that reach a similarity or a named cut-off; what is neither is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from revector.cli import run
from revector.errors import ConfigError
from revector.registry import cutoffs
from revector.registry.control import control
from worlds import World

QUERY = "apple7 pear7 some words"


@pytest.fixture
def supported(served: World) -> World:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    return served


def test_a_number_and_a_name_keep_the_same_hits_however_it_is_asked(supported: World) -> None:
    searcher, generation = supported.project.searcher("docs"), supported.generation()
    every = searcher.search(QUERY, 50)
    wanted = [hit.id for hit in every.hits if hit.score >= 0.5]
    assert 0 < len(wanted) < len(every.hits)
    for least in (0.5, "support"):
        assert supported.search(QUERY, 50, min_score=least) == wanted
    vector = searcher.encode(generation, [QUERY])[0].tolist()
    found = searcher.search_given(vector, generation.encoder_fp, 50, min_score="support")
    assert [hit.id for hit in found.hits] == wanted
    like = searcher.search_like("d00007", 50, min_score="support")
    assert like.hits == searcher.search_like("d00007", 50).at_least(0.5).hits


@pytest.mark.parametrize("least", [True, 1.5, float("nan"), "suport", [0.5]])
def test_what_is_no_least_score_is_refused(supported: World, least: Any) -> None:
    with pytest.raises(ConfigError, match="min_score"):
        supported.search(QUERY, min_score=least)


def test_shadow_reads_are_offered_the_whole_answer(supported: World) -> None:
    seen: list[int] = []
    searcher = supported.project.searcher("docs", offer=lambda _query, answer, **_: seen.append(len(answer.hits)))
    assert len(searcher.search(QUERY, 20, min_score=1.0).hits) == 0
    assert seen == [20]


def test_the_command_line_takes_both_and_sets_lists_and_drops(
    supported: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(supported.root)

    def said(*words: str, code: int = 0) -> Any:
        assert run([*words, "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if not code else err

    by_name, by_number = (said("search", QUERY, "-k", "50", "--min-score", one) for one in ("support", "0.5"))
    assert [hit["id"] for hit in by_name["hits"]] == [hit["id"] for hit in by_number["hits"]] != []
    assert by_name["cutoffs"] == {"support": 0.5}
    assert "--min-score" in said("search", QUERY, "--min-score", "0,5", code=2)
    assert "which has support" in said("search", QUERY, "--min-score", "faq", code=2)
    rows = said("cutoffs", "set", "faq=0.25")["cutoffs"]
    assert [(row["name"], row["score"], row["revision"]) for row in rows] == [
        ("faq", 0.25, "a100"),
        ("support", 0.5, "a100"),
    ]
    assert "twice" in said("cutoffs", "set", "faq=0.25", "faq=0.3", code=2)
    assert "NAME=SCORE" in said("cutoffs", "set", "faq", code=2)
    assert [row["name"] for row in said("cutoffs", "drop", "support")["cutoffs"]] == ["faq"]
    assert run(["cutoffs", "list"]) == 0
    assert "a person" in capsys.readouterr().out
    assert said("status")["slots"]["active"]["cutoffs"] == {"faq": 0.25}
    assert run(["status"]) == 0
    assert "Cut-offs of a100 (active): faq 0.2500" in capsys.readouterr().out
