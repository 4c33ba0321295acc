"""`revector compare` asks two generations the same queries, without labels."""

from __future__ import annotations

import json

import pytest

from revector.cli import run
from stages import AtStep
from worlds import World


@pytest.fixture
def indexed(at_step: AtStep, monkeypatch: pytest.MonkeyPatch) -> World:
    made = at_step("index")
    monkeypatch.chdir(made.root)
    return made


def test_two_generations_are_compared_on_the_labelled_queries(
    indexed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "--cutoff", "support=0.3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["old"], found["new"]) == (indexed.collection.active_gen, indexed.collection.building_gen)
    assert found["queries"] == 60
    assert 0 < found["overlap"]["mean"] <= 1
    assert found["latency"]["ratio"]["p95"]["mean"] > 0
    (cutoff,) = found["cutoffs"]
    assert cutoff["name"] == "support"
    assert 0 <= cutoff["unchanged"]["agreement"]["mean"] <= 1


def test_queries_come_from_a_file_and_the_page_is_for_people(
    indexed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (indexed.root / "asked.txt").write_text("apple7 pear7\n\napple8 pear8\napple7 pear7\n")
    assert run(["compare", "--queries", "asked.txt", "--cutoff", "support=0.3"]) == 0
    out = capsys.readouterr().out
    assert "on 2 queries: overlap@10" in out
    assert "support" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cutoff", "support"], "NAME=SCORE"),
        (["--queries", "nowhere.txt"], "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    indexed: World, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(["compare", *words]) == 2
    assert said in capsys.readouterr().err
    assert indexed.collection.building_gen is not None


def test_what_an_index_loses_is_told_with_the_ef_search_that_is_enough(
    indexed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "--exact", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["queries"] == 60
    assert found["served"]["overlap"]["mean"] >= 0.95
    assert run(["compare", "--exact"]) == 0
    assert "overlap@10 with exact search" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--exact", "--new", "2"], ["--exact", "--cutoff", "x=1"], ["--least", "0.5"]])
def test_an_option_of_the_other_comparison_is_refused(
    indexed: World, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["compare", *words]) == 2
    assert "does not take --" in capsys.readouterr().err


def test_one_generation_alone_is_nothing_to_compare(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    assert run(["compare"]) == 4
    assert "two live generations" in capsys.readouterr().err
