"""Promises of shadow reads: they count what both models find, follow the migration, and never reach the user."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from revector.errors import ConfigError
from revector.measure.agreement import AgreementTally, overlap_at_k, rank_biased_overlap
from revector.serving import shadow
from revector.serving.searcher import Answer
from revector.serving.shadow import ShadowReads
from stages import AtStep
from worlds import World

QUERIES = [f"apple{n} pear{n} some words" for n in range(12)]
NEW = "hashing:seed2"


@pytest.fixture
def building(at_step: AtStep) -> World:
    """``served`` with revision b200 indexed, verified and measured, but not swapped in."""
    return at_step("gate")


@contextmanager
def reads_of(world: World, **options: Any) -> Iterator[ShadowReads]:
    made = ShadowReads(world.engine, "docs", world.project.encoders, **{"share": 1.0, **options})
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def reads(building: World) -> Iterator[ShadowReads]:
    """Driven by hand, a turn at a time; it has seen the generation that is being built."""
    with reads_of(building) as made:
        made._turn(0)
        yield made


def ask(world: World, query: str, **options: Any) -> Answer:
    return world.project.searcher("docs").search(query, 10, **options)


def offer(world: World, reads: ShadowReads, *queries: str) -> list[Answer]:
    answers = [ask(world, query) for query in queries]
    for query, answer in zip(queries, answers, strict=True):
        reads.offer(query, answer, k=10)
    return answers


def turn(reads: ShadowReads, times: int) -> None:
    for _ in range(times):
        reads._turn(0)


def tally(reads: ShadowReads) -> AgreementTally:
    found = reads.report().tallies
    assert len(found) <= 1
    return next(iter(found.values()), AgreementTally())


def shadow_connections(world: World) -> int:
    return world.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'revector shadow' "
        "AND datname = current_database()"
    )


def replace_encoding(world: World, encode: Callable[[list[str]], Any]) -> None:
    world.loader[NEW].queries = encode


# What is counted ------------------------------------------------------------------------------------------------------


def test_overlap_and_rbo_are_those_of_the_two_generations_answers(building: World, reads: ShadowReads) -> None:
    old = offer(building, reads, *QUERIES)
    turn(reads, len(QUERIES))
    gen = building.generation("building").gen
    pairs = [
        ([hit.id for hit in answer.hits], building.search(query, generation=gen))
        for query, answer in zip(QUERIES, old, strict=True)
    ]
    found = reads.report().tallies[gen, building.generation().gen]
    assert found.compared == len(QUERIES)
    assert found.overlap_sum == pytest.approx(sum(overlap_at_k(a, b, 10) for a, b in pairs))
    assert found.rbo_sum == pytest.approx(sum(rank_biased_overlap(a, b) for a, b in pairs))
    assert 0 < found.overlap_sum < len(QUERIES)
    assert found.old_ms.sum() == found.new_ms.sum() == len(QUERIES)


def test_a_filtered_query_is_compared_under_its_filter(building: World, reads: ShadowReads) -> None:
    where: dict[str, Any] = {"n": {"lt": 5}}
    reads.offer("some words", ask(building, "some words", where=where), k=10, where=where)
    where["n"] = {"lt": 1}  # the caller's own, and changed by it afterwards
    turn(reads, 1)
    assert tally(reads).overlap_sum == 1.0  # five documents match, and both find them


def test_what_cannot_be_compared_is_counted_as_skipped(building: World, reads: ShadowReads) -> None:
    nothing = {"n": -1}
    reads.offer("some", ask(building, "some", by="chunk"), k=10, by="chunk")
    reads.offer("some", ask(building, "some"), k=3)
    reads.offer("some", ask(building, "some", where=nothing), k=10, where=nothing)
    turn(reads, 3)
    assert (tally(reads).skipped, tally(reads).compared) == (3, 0)


def test_an_answer_of_the_building_generation_itself_is_not_compared(building: World, reads: ShadowReads) -> None:
    reads.offer("some", ask(building, "some", generation=building.generation("building").gen), k=10)
    assert reads.report().queued == 0


def test_the_seed_decides_which_queries_are_sampled(building: World) -> None:
    with reads_of(building, share=0.3, seed=7, keep_queries=True) as reads:
        turn(reads, 1)
        offer(building, reads, *QUERIES)
        turn(reads, len(QUERIES))
        expected = random.Random(7)
        assert [kept.query for kept in reads.report().kept] == [q for q in QUERIES if expected.random() < 0.3]


def test_a_share_of_nothing_samples_nothing(building: World) -> None:
    with reads_of(building, share=0.0) as reads:
        turn(reads, 1)
        offer(building, reads, *QUERIES)
        assert reads.report().queued == 0


def test_the_report_is_plain_json_with_figures(building: World, reads: ShadowReads) -> None:
    offer(building, reads, *QUERIES)
    turn(reads, len(QUERIES))
    data = json.loads(json.dumps(reads.report().as_data(), allow_nan=False))
    (found,) = data["tallies"]
    assert found["compared"] == 12
    assert 0 < found["overlap"]["low"] <= found["overlap"]["mean"] <= found["overlap"]["high"] <= 1
    assert 0 < found["new_latency_ms"]["p50"] <= found["new_latency_ms"]["p99"]


# The text -------------------------------------------------------------------------------------------------------------


def test_text_is_kept_only_where_that_was_asked_for(building: World) -> None:
    for wanted in (False, True):
        rows: list[Any] = []
        with reads_of(building, keep_queries=wanted, save=lambda _, new, to=rows: to.extend(new)) as reads:
            turn(reads, 1)
            offer(building, reads, "apple7 secret")
            turn(reads, 1)
            reads._save_counts()
            assert ("secret" in json.dumps(reads.report().as_data())) is wanted
            assert "secret" not in json.dumps(rows)
            assert [row["compared"] for row in rows] == [1]


def test_an_error_that_quotes_the_query_is_neither_kept_nor_logged(
    building: World, reads: ShadowReads, caplog: pytest.LogCaptureFixture
) -> None:
    def quote(texts: list[str]) -> Any:
        raise ValueError(f"cannot encode {texts}")

    replace_encoding(building, quote)
    with caplog.at_level(logging.DEBUG, "revector"):
        offer(building, reads, *["apple7 secret"] * shadow.FAILURES)
        turn(reads, shadow.FAILURES)
    assert "rest for" in caplog.text
    assert "secret" not in caplog.text + json.dumps(reads.report().as_data())


# The user -------------------------------------------------------------------------------------------------------------


def test_a_hanging_model_changes_no_answer_and_what_it_holds_up_is_shed(building: World) -> None:
    entered, released, encode = threading.Event(), threading.Event(), building.loader[NEW].queries
    before = [building.search(query) for query in QUERIES]

    def hang(texts: list[str]) -> Any:
        entered.set()
        released.wait(60)
        return encode(texts)

    replace_encoding(building, hang)
    with reads_of(building, room=4) as reads:
        turn(reads, 1)
        reads.start()
        try:
            offer(building, reads, QUERIES[0])
            assert entered.wait(60)
            answers = offer(building, reads, *QUERIES)
            assert [[hit.id for hit in answer.hits] for answer in answers] == before
            report = reads.report()
            assert (report.queued, tally(reads).shed, report.state) == (4, 8, "reading")
            assert report.busy_s > 0
            assert not reads.stop(timeout_s=0)
            assert reads.report().queued == 1  # the word to stop; no text waits any longer
        finally:
            released.set()
        assert reads.stop()
        assert (tally(reads).compared, tally(reads).gone) == (0, 4)
    until(lambda: shadow_connections(building) == 0)  # the server takes a moment to see it


def test_a_slow_model_is_asked_by_one_thread_while_users_are_answered(building: World) -> None:
    encode, steps, names = building.loader[NEW].queries, threading.Semaphore(0), set()

    def slowly(texts: list[str]) -> Any:
        names.add(threading.current_thread().name)
        steps.acquire(timeout=60)
        return encode(texts)

    replace_encoding(building, slowly)
    with reads_of(building) as reads:
        turn(reads, 1)
        reads.start()
        for query in QUERIES[:5]:
            assert building.search(query) == [hit.id for hit in offer(building, reads, query)[0].hits]
            steps.release()
        until(lambda: tally(reads).compared == 5)
    assert names == {"shadow-docs"}


def test_the_thread_rests_as_long_as_a_comparison_took(
    building: World, reads: ShadowReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, clock, rests = building.loader[NEW].queries, [1_000.0], []

    def take_seven_seconds(texts: list[str]) -> Any:
        clock[0] += 7
        return encode(texts)

    replace_encoding(building, take_seven_seconds)
    offer(building, reads, QUERIES[0])
    monkeypatch.setattr(shadow.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(reads._stop, "wait", rests.append)
    turn(reads, 1)
    assert rests == [7.0]


def until(met: Callable[[], bool]) -> None:
    """Wait on a promise of another thread; a promise that is not kept fails after a minute."""
    for _ in range(6_000):
        if met():
            return
        threading.Event().wait(0.01)
    pytest.fail("it did not come true within a minute")


def test_a_failing_model_fails_no_query_and_opens_the_circuit(
    building: World, reads: ShadowReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, before = building.loader[NEW].queries, [building.search(query) for query in QUERIES]

    def fail(_: list[str]) -> Any:
        raise RuntimeError("the device is gone")

    replace_encoding(building, fail)
    answers = offer(building, reads, *QUERIES)
    assert [[hit.id for hit in answer.hits] for answer in answers] == before
    turn(reads, len(QUERIES))
    assert reads.report().errors == {"EncoderUnavailable": shadow.FAILURES}
    assert (tally(reads).errors, tally(reads).gone) == (shadow.FAILURES, len(QUERIES) - shadow.FAILURES)
    offer(building, reads, *QUERIES)
    assert reads.report().queued == 0
    assert reads._resting

    monkeypatch.setattr(reads, "_rest_until", 0.0)
    turn(reads, 1)
    offer(building, reads, *QUERIES[:2])
    turn(reads, 1)  # one tries again, fails, and the rest is over for the other, too
    turn(reads, 1)
    assert (reads._follow(), tally(reads).errors, reads.report().queued) == (None, shadow.FAILURES + 1, 0)

    monkeypatch.setattr(reads, "_rest_until", 0.0)
    replace_encoding(building, encode)
    turn(reads, 1)
    offer(building, reads, *QUERIES)
    turn(reads, len(QUERIES))
    assert tally(reads).compared == len(QUERIES)
    assert reads._in_row == 0


@pytest.mark.parametrize("wrong", ["nothing", "narrow", "nan"])
def test_unusable_vectors_are_errors_of_the_shadow_only(building: World, reads: ShadowReads, wrong: str) -> None:
    encode = building.loader[NEW].queries
    spoil = {"nothing": lambda v: None, "narrow": lambda v: v[:, :5], "nan": lambda v: v * float("nan")}[wrong]
    replace_encoding(building, lambda texts: spoil(encode(texts)))
    offer(building, reads, QUERIES[0])
    turn(reads, 1)
    assert (tally(reads).errors, tally(reads).compared) == (1, 0)


def test_an_offer_never_raises_whatever_it_is_given(building: World, reads: ShadowReads) -> None:
    answer = ask(building, "some")
    for query, given, options in (
        (None, None, {"k": 10}),
        ("some", answer, {"k": None}),
        ("some", answer, {"k": 10, "where": 3}),
        (object(), answer, {"k": 10, "by": None}),
        (None, answer, {"k": 10}),
        ("some", answer, {"k": 10, "where": {"": object()}}),
    ):
        reads.offer(query, given, **options)  # type: ignore[arg-type]
    reads.offer("some", replace(answer, encode_ms=float("nan")), k=10)
    turn(reads, 7)
    assert tally(reads).compared == 0
    assert reads.report().errors == {"ConfigError": 1, "EncoderUnavailable": 1, "LabelError": 1}


def test_the_users_connections_are_never_used(building: World, reads: ShadowReads) -> None:
    offer(building, reads, *QUERIES)
    taken: list[Any] = []
    sa.event.listen(building.engine, "checkout", lambda *_: taken.append(1))
    turn(reads, len(QUERIES))
    assert tally(reads).compared == len(QUERIES)
    assert taken == []
    assert shadow_connections(building) == 1


def test_a_search_that_takes_too_long_is_ended_by_the_database(building: World, reads: ShadowReads) -> None:
    with reads._engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "5s"


def test_offers_of_many_threads_are_all_accounted_for(building: World) -> None:
    with reads_of(building, room=10) as reads:
        turn(reads, 1)
        answer = ask(building, "some words")
        threads = [
            threading.Thread(target=lambda: [reads.offer("some words", answer, k=10) for _ in range(200)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (reads.report().queued, tally(reads).shed) == (10, 790)


# The migration --------------------------------------------------------------------------------------------------------


def test_nothing_is_done_while_nothing_is_being_built(served: World) -> None:
    with reads_of(served) as reads:
        turn(reads, 1)
        offer(served, reads, *QUERIES)
        assert reads.report().generation is None
        assert (reads.report().queued, reads.report().tallies) == (0, {})


def test_a_generation_is_read_only_once_its_index_is_built(served: World) -> None:
    with reads_of(served) as reads:
        for step, reading in (("provision", False), ("backfill", False), ("index", True), ("verify", True)):
            served.upgrade("b200", to=step)
            turn(reads, 1)
            assert (reads.report().generation is not None) is reading, step


def test_a_swap_ends_the_reads_and_the_next_migration_is_followed(building: World, reads: ShadowReads) -> None:
    offer(building, reads, *QUERIES[:3])
    building.upgrade("b200")
    turn(reads, 1)
    assert reads.report().generation is None
    assert (tally(reads).gone, tally(reads).compared, reads.report().queued) == (3, 0, 0)
    building.migrator.retire(reason="test", now=True)
    building.revision("c300", "b200", f"model = ModelSpec(name={NEW!r}, dim=64)\nindex = IndexSpec(kind='exact')")
    building.upgrade("c300", to="index")
    turn(reads, 1)
    offer(building, reads, *QUERIES[:2])
    turn(reads, 2)
    pair = building.generation("building").gen, building.generation().gen
    assert reads.report().tallies[pair].compared == 2


def test_an_abort_under_a_query_is_no_error(building: World, reads: ShadowReads) -> None:
    encode = building.loader[NEW].queries

    def abort_first(texts: list[str]) -> Any:
        building.migrator.abort(reason="test")
        return encode(texts)

    replace_encoding(building, abort_first)
    offer(building, reads, *QUERIES[:2])
    turn(reads, 2)
    assert (tally(reads).gone, tally(reads).errors) == (2, 0)
    assert reads.report().generation is None


def test_what_waited_for_an_aborted_generation_is_not_asked_of_the_next(building: World, reads: ShadowReads) -> None:
    offer(building, reads, *QUERIES[:2])
    building.migrator.abort(reason="test")
    building.upgrade("b200", to="index")
    turn(reads, 2)
    assert (tally(reads).gone, tally(reads).compared) == (2, 0)
    assert reads.report().generation == building.generation("building").gen


# Saving, and the end --------------------------------------------------------------------------------------------------


def test_what_could_not_be_saved_is_handed_over_again_with_the_rest(building: World) -> None:
    calls: list[Any] = []

    def save(connection: sa.Connection, rows: Any) -> None:
        calls.append((connection.scalar(sa.text("SHOW application_name")), rows))
        if len(calls) == 1:
            raise OSError("disk full")

    with reads_of(building, save=save) as reads:
        turn(reads, 1)
        offer(building, reads, *QUERIES[:2])
        turn(reads, 2)
        reads._save_counts()
        offer(building, reads, QUERIES[2])
        turn(reads, 1)
        reads._save_counts()
        reads._save_counts()
        assert tally(reads).compared == 3
        assert reads.report().errors == {"OSError": 1}
    assert [(name, rows[0]["compared"], rows[0]["k"]) for name, rows in calls] == [
        ("revector shadow", 2, 10),
        ("revector shadow", 3, 10),
    ]
    pair = building.generation("building").gen, building.generation().gen
    assert (calls[1][1][0]["gen"], calls[1][1][0]["against"]) == pair


def test_counts_are_saved_while_reading_when_it_is_time(building: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []
    with reads_of(building, save=lambda _, new: rows.extend(new)) as reads:
        turn(reads, 1)
        offer(building, reads, *QUERIES[:2])
        turn(reads, 2)
        assert rows == []
        monkeypatch.setattr(reads, "_saved_at", float("-inf"))
        turn(reads, 2)
        assert [row["compared"] for row in rows] == [2]


def test_nothing_outlives_the_stop_and_what_was_counted_is_saved(building: World) -> None:
    rows: list[Any] = []
    with reads_of(building, save=lambda _, new: rows.extend(new)) as reads:
        turn(reads, 1)
        reads.start()
        offer(building, reads, *QUERIES)
        until(lambda: tally(reads).compared == len(QUERIES))
        assert reads.stop()
    assert [row["compared"] for row in rows] == [len(QUERIES)]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("shadow")] == []
    until(lambda: shadow_connections(building) == 0)  # the server takes a moment to see it
    offer(building, reads, *QUERIES)
    assert (reads.report().state, reads.report().queued) == ("stopped", 1)  # the word to stop


def test_a_database_that_is_down_is_waited_for(building: World) -> None:
    nowhere = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with ShadowReads(nowhere, "docs", building.project.encoders, share=1.0) as reads:
        until(lambda: reads.report().errors != {})
        assert reads.report().state == "idle"
        offer(building, reads, *QUERIES)
        assert reads.report().queued == 0
    assert reads.report().state == "stopped"


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"share": float("nan")}, {"k": 0}, {"room": 0}])
def test_settings_that_make_no_sense_are_refused(served: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Nothing was started"):
        ShadowReads(served.engine, "docs", served.project.encoders, **wrong)
