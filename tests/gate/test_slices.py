"""Promises of slices: which there are, that no small one hides a loss or blocks for ever, that the worst is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from revector.airflow.questions import figures as asked
from revector.cli.app import app
from revector.errors import LabelError
from revector.gate.figures import GateFigures, GateResult, Value
from revector.gate.judgement import Verdict
from revector.gate.judgement import judge as judge_figures
from revector.measure.comparison import Comparison, ScoredRun, compare
from revector.measure.sliced import needed_to_clear
from revector.measure.slices import FEW, POOLED, WITHOUT, field_slices, length_slices, query_slices
from revector.spec import FIRST_GATE, Gate
from worlds import World


def run_of(name: str, recall: Sequence[float]) -> ScoredRun:
    return ScoredRun(name, "same", {"recall": {f"q{n:04d}": float(value) for n, value in enumerate(recall)}}, {})


def compared(old: Sequence[float] | None, new: Sequence[float], most: float | None = 0.1, **sizes: int) -> Comparison:
    """Compare recall by query; the queries belong to these languages, in turn."""
    slices = by_language(**sizes)
    before = None if old is None else run_of("a100", old)
    return compare(run_of("b200", new), before, k=10, documents=1_000, max_slice_drop=most, slices=slices)


def by_language(**sizes: int) -> dict[str, dict[str, list[str]]]:
    found, at = {}, 0
    for name, size in sizes.items():
        found[name] = [f"q{n:04d}" for n in range(at, at + size)]
        at += size
    return {"language": found}


def lost(queries: int, share: float) -> list[float]:
    """Recall of 1, but for the first ``share`` of the queries, which lost it."""
    return [0.0 if n < round(share * queries) else 1.0 for n in range(queries)]


def judged(measured: Comparison, most: float | None = 0.1, **demands: Any) -> Verdict:
    gate = Gate(max_drop=1.0, min_queries=1, min_overlap=None, max_slice_drop=most, **demands)
    return judge_figures(gate, GateFigures.model_validate({"comparison": measured}))


def told(verdict: Verdict) -> str:
    return " ".join(one.sentence for one in verdict.findings)


# Which there are ------------------------------------------------------------------------------------------------------


def test_slices_by_a_field_name_every_query() -> None:
    metadata = {"a": {"lang": "hi"}, "b": {"lang": "en", "tenant": 3}, "c": {"lang": None}, "d": {"lang": "hi"}}
    assert field_slices(metadata, "lang") == {"hi": ["a", "d"], "en": ["b"], WITHOUT: ["c"]}
    assert field_slices(metadata, "tenant") == {WITHOUT: ["a", "c", "d"], "3": ["b"]}
    with pytest.raises(LabelError, match=r"none of 4 queries has that field, they have: lang, tenant"):
        field_slices(metadata, "langauge")


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 12), min_size=1, max_size=30))
def test_slices_by_length_are_thirds_that_keep_every_query_once(lengths: dict[str, int]) -> None:
    found = length_slices(lengths)
    assert sorted(query for queries in found.values() for query in queries) == sorted(lengths)
    longest = [max(lengths[query] for query in queries) for queries in found.values()]
    assert longest == sorted(set(longest))
    if len(set(lengths.values())) == len(lengths):
        assert max(map(len, found.values())) <= len(lengths) / 3 + 1


def test_slices_by_length_say_their_lengths() -> None:
    assert length_slices({str(n): n for n in range(1, 10)}, "tokens") == {
        "short (up to 3 tokens)": ["1", "2", "3"],
        "medium (up to 6 tokens)": ["4", "5", "6"],
        "long (over 6 tokens)": ["7", "8", "9"],
    }
    with pytest.raises(LabelError):
        length_slices({})


def test_without_names_a_field_is_sliced_if_it_groups_the_queries() -> None:
    """Not by an identifier, not by what all have, and a field with many rare values still has its frequent ones."""
    meta: dict[str, dict[str, object]] = {
        f"q{n}": {"id": n, "app": "shop", "lang": "el" if n % 4 == 0 else "en", "topic": "a" if n < 30 else f"t{n}"}
        for n in range(60)
    }
    found = query_slices(dict.fromkeys(meta, "two words"), meta)
    assert sorted(found) == ["lang", "topic"]  # all are of one length, too
    assert {name: len(queries) for name, queries in found["lang"].items()} == {"el": 15, "en": 45}


def test_a_query_set_is_sliced_by_script_where_nothing_says_the_language(served: World) -> None:
    path = served.root / "labels" / "queries.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for one in lines[:20]:
        one["text"] += " επαναφορά κωδικού πρόσβασης"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = served.migrator._evidence.queries().slices()
    assert {name: len(queries) for name, queries in found["script"].items()} == {"Greek": 20, "Latin": 40}


# Accused and cleared --------------------------------------------------------------------------------------------------


def test_one_fallen_language_fails_though_the_mean_hardly_moves() -> None:
    measured = compared([1.0] * 4_000, lost(4_000, 0.01), hi=80, en=3_900, th=20)
    hindi, _, thai, pool = measured.slices
    assert hindi.difference.mean == pytest.approx(-0.5)
    assert (thai.to_clear, thai.queries, thai.minimum) == (False, 20, needed_to_clear(0.1, 0.95))
    assert (pool.name, pool.pooled, pool.queries) == (POOLED, ("th", "hi"), 100)
    assert judged(measured, None).value is Value.PASS
    found = judged(measured)
    assert found.value is Value.FAIL
    assert "language = hi (-0.5000 on 80 queries" in found.reasons[0]
    assert "of 1 slice with fewer than the 56 queries that clear one" in told(found)
    assert "language = th (20)" in told(found)


def test_a_small_slice_that_excludes_the_fall_by_its_gain_is_not_called_open() -> None:
    found = judged(compared(lost(300, 0.06), [1.0] * 300, 0.15, el=20, en=280), 0.15)
    assert found.value is Value.PASS
    assert "language = el (20)" not in told(found)


def test_the_worst_slice_is_judged_in_three_values() -> None:
    passed = judged(compared([1.0] * 1_000, lost(1_000, 0.001), hi=100, en=900))
    assert passed.value is Value.PASS
    assert "is excluded in each of 2 slices" in told(passed)
    unsure = judged(compared([1.0] * 1_000, lost(1_000, 0.01), hi=100, en=900))
    assert unsure.value is Value.INCONCLUSIVE
    assert "label more queries of it" in unsure.reasons[0]
    sized = compared([1.0] * 1_000, lost(1_000, 0.008), 0.08, hi=100, en=900)
    needed = sized.slices[0].recall.needed
    assert needed > 100
    assert f"about {needed:,} queries of language = hi are needed" in judged(sized, 0.08).reasons[0]


def test_queries_too_few_for_any_slice_block_only_what_was_named() -> None:
    few = compared([1.0] * 12, [1.0] * 12, hi=6, en=6)
    assert judged(few).value is Value.PASS
    assert "form no slices of 10 queries" in told(judged(few))
    assert judged(few, slices=("language",)).value is Value.INCONCLUSIVE


def test_among_many_slices_a_fall_must_be_shown_for_all_at_once() -> None:
    """The planted fault: twenty slices, each judged as if it were the only one; what shows it alone is left open."""
    new = [*lost(100, 0.11), *[1.0] * 19 * 30]
    alone = compared([1.0] * 100, new[:100], 0.02, hi=100)
    many = compared([1.0] * len(new), new, 0.02, hi=100, **{f"l{n}": 30 for n in range(19)})
    assert judged(alone, 0.02).value is Value.FAIL
    hindi = many.slices[0]
    assert hindi.difference.high < -0.02 < hindi.high_of_all
    assert judged(many, 0.02).value is Value.INCONCLUSIVE


@pytest.mark.parametrize(
    ("greek", "share", "value"),
    [
        (29, 0.0, Value.PASS),  # too few to exclude anything, and they block nothing
        (30, 0.0, Value.PASS),
        (29, 0.6, Value.FAIL),  # nor do they pass unseen
        (15, 0.6, Value.INCONCLUSIVE),
    ],
)
def test_a_small_slice_neither_blocks_for_ever_nor_passes_unseen(greek: int, share: float, value: Value) -> None:
    rest = 300 - greek
    measured = compared([1.0] * 300, [*lost(greek, share), *[1.0] * rest], 0.15, el=greek, fi=20, en=rest - 20)
    found = judged(measured, 0.15)
    assert found.value is value
    assert "The worst of 4 slices is language = el" in told(found) or not share


def test_small_slices_that_fall_a_little_each_are_not_cleared_together() -> None:
    new = [*[0.0] * 3, *[1.0] * 17] * 3 + [1.0] * 240
    found = judged(compared([1.0] * 300, new, 0.15, a=20, b=20, c=20, en=240), 0.15)
    assert found.value is Value.INCONCLUSIVE
    assert f"language = {POOLED}" in found.reasons[0]


@pytest.mark.slow
@given(st.lists(st.integers(1, 150), min_size=2, max_size=8))
def test_every_query_of_a_field_is_in_a_group_that_must_be_cleared_or_the_field_is_too_small(sizes: list[int]) -> None:
    names = {f"l{n}": size for n, size in enumerate(sizes)}
    count, minimum = sum(sizes), needed_to_clear(0.2, 0.95)
    measured = compare(
        run_of("b200", [1.0] * count), None, k=10, documents=1_000, max_slice_drop=0.2, slices=by_language(**names)
    )
    groups = [one for one in measured.slices if one.to_clear]
    inside = {name for one in groups for name in (one.pooled or (one.name,))}
    small, large = [one for one in sizes if one < minimum], sorted(one for one in sizes if one >= minimum)
    besides = large if not small or sum(small) >= minimum else large[1:]  # beside the pool of the small ones
    assert inside == (names.keys() if besides else {name for name, size in names.items() if size >= minimum})
    assert all(one.queries < minimum for one in measured.slices if one.name not in inside | {POOLED})
    assert all(one.recall is None for one in measured.slices if one.queries < FEW)


# The worst is always named --------------------------------------------------------------------------------------------


def test_a_pass_names_the_worst_slice_also_where_none_is_demanded() -> None:
    found = judged(compared([1.0] * 400, lost(400, 0.01), None, hi=100, en=300), None)
    assert found.value is Value.PASS
    assert "The worst of 2 slices is language = hi (-0.0400 on 100 queries" in told(found)


def test_a_language_that_both_revisions_find_badly_is_shown_by_the_gap_of_the_new_one() -> None:
    both = lost(400, 0.15)
    measured = compared(both, both, hi=100, en=300)
    found = judged(measured)
    assert found.value is Value.PASS
    assert "recall@10 is lowest beside the other queries in language = hi: 0.4000, -0.6000" in told(found)
    hindi, english = measured.slices
    assert hindi.gap.high < -0.4
    assert english.gap.mean == pytest.approx(0.6)


def test_a_first_revision_is_told_its_lowest_slice() -> None:
    measured = compared(None, lost(400, 0.15), None, hi=100, en=300)
    assert measured.worst_slice.name == "hi"
    assert "language = hi: 0.4000 on 100 queries" in measured.worst_slice.words


def test_a_verdict_of_an_earlier_version_has_its_slices_as_they_were_judged() -> None:
    kept = compared([1.0] * 400, lost(400, 0.01), None, hi=100, en=300).as_data()
    for one in kept["slices"]:
        del one["gap"], one["pooled"]
        one["minimum"] = 30
    small = {"field": "language", "name": "th", "queries": 29, "minimum": 30, "recall": None, "high_of_all": None}
    read = Comparison.from_data({**kept, "slices": [*kept["slices"], small]})
    assert [one.to_clear for one in read.slices] == [True, True, False]
    assert (read.worst_slice.name, read.lowest_slice) == ("hi", None)


def test_gate_command_question_and_history_name_the_worst_slice(served: World) -> None:
    languages = ["el"] * 20 + ["en"] * 40
    path = served.root / "labels" / "queries.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({**one, "lang": lang}) + "\n" for one, lang in zip(lines, languages, strict=True))
    )
    served.upgrade("b200", to="gate")
    status = served.project.status("docs").gate
    worst = status.worst_slice
    assert worst.queries in (20, 40)
    assert worst.words in asked(GateResult.model_validate(status.as_data()))
    shown = CliRunner().invoke(app, ["status", "--project", str(served.root)], env={"TERMINAL_WIDTH": "200"}).output
    assert worst.words in " ".join(shown.split())
    said = CliRunner().invoke(app, ["gate", "--project", str(served.root)]).output
    assert "is lang = " in " ".join(said.split())
    assert served.events("gate")[0]["detail"]["worst_slice"]["words"] == worst.words


# The command ----------------------------------------------------------------------------------------------------------


def test_a_first_revision_demands_slices_and_a_later_one_keeps_what_its_parent_demands(world: World) -> None:
    for path in (world.root / "migrations" / "docs").glob("*.py"):
        path.unlink()
    lenient = ("--max-drop", "0.1", "--json", "--project", str(world.root))

    def write(*options: str) -> Any:
        ended = CliRunner().invoke(app, ["revision", "-m", "x", *options, *lenient])
        assert ended.exit_code == 0, ended.output
        return json.loads(ended.stdout)

    first = write("--model", "hashing", "--dim", "64")
    assert first["gate"]["max_slice_drop"] == FIRST_GATE.max_slice_drop
    assert write("--dim", "32", "--max-slice-drop", "0.3")["gate"]["max_slice_drop"] == 0.3
    assert write("--dim", "16")["gate"]["max_slice_drop"] == 0.3


def test_a_file_that_does_not_name_slices_demands_nothing_of_them_and_the_next_revision_says_so(served: World) -> None:
    assert Gate().max_slice_drop is None
    ended = CliRunner().invoke(app, ["revision", "-m", "x", "--json", "--project", str(served.root)])
    found = json.loads(ended.stdout)
    assert found["gate"]["max_slice_drop"] is None
    assert found["notes"] == ["no slice of the queries is judged, as before; --max-slice-drop 0.15 does"]
