"""The checker of histories names exactly the promise that a hand-broken history breaks, and is silent on sound ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation.reliability import checker
from evaluation.reliability.checker import PROMISES, check, lag, sound_history
from evaluation.reliability.history import Hit, Recorder, save


class Story(Recorder):
    """A history told call by call: every record is one tick later."""

    def __init__(self) -> None:
        super().__init__(clock=itertools.count().__next__)

    def put(self, content: str, version: int | None, doc_id: str = "d") -> None:
        call = self.invoke("put", "w", doc_id=doc_id, content=content)
        self.ok(call, "put", "w", version=version)

    def delete(self, version: int | None, doc_id: str = "d") -> None:
        call = self.invoke("delete", "w", doc_id=doc_id)
        self.ok(call, "delete", "w", version=version)

    def query(self, *hits: Hit, gen: int = 1, process: str = "r", **facts: Any) -> None:
        call = self.invoke("query", process)
        self.answer(call, *hits, gen=gen, process=process, **facts)

    def answer(self, call: int, *hits: Hit, gen: int = 1, process: str = "r", **facts: Any) -> None:
        self.ok(call, "query", process, **{"gen": gen, "encoder": "e", "index_encoder": "e", "hits": hits, **facts})

    def move(self, op: str, gen: int, epoch: int, **detail: Any) -> None:
        call = self.invoke(op, "m", gen=gen)
        self.moved(call, op, gen, epoch, **detail)

    def moved(self, call: int, op: str, gen: int, epoch: int, **detail: Any) -> None:
        proof = {"verified": True, "recalled": True, "waiting": 0, "waived": 0} if op == "swap" else {}
        self.ok(call, op, "m", gen=gen, epoch=epoch, detail={**proof, **detail})

    def heal(self, *table: Hit, **indexes: tuple[Hit, ...]) -> None:
        """The document table and indexes by name: ``g1`` is that of generation 1; without any, g1 equals the table."""
        self.ok(self.invoke("documents", "h"), "documents", "h", hits=table)
        for name, hits in (indexes or {"g1": table}).items():
            self.ok(self.invoke("index", "h"), "index", "h", gen=int(name[1:]), hits=hits)


def hit(content: str, version: int, chunk: int = 0, chunks: int | None = None, doc_id: str = "d") -> Hit:
    return Hit(doc_id, content, version, chunk, chunks)


Teller = Callable[[Story], None]
BROKEN: dict[str, tuple[str, Teller]] = {}
SOUND: dict[str, Teller] = {}


def broken(promise: str) -> Callable[[Teller], Teller]:
    def keep(tell: Teller) -> Teller:
        BROKEN[tell.__name__.replace("_", " ")] = promise, tell
        return tell

    return keep


def sound(tell: Teller) -> Teller:
    SOUND[tell.__name__.replace("_", " ")] = tell
    return tell


# Lost, stale, half ----------------------------------------------------------------------------------------------------


@broken("lost")
def an_acknowledged_put_is_nowhere(story: Story) -> None:
    story.put("c1", 1)
    story.heal()


@broken("lost")
def an_index_lacks_an_acknowledged_put(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1), g1=(hit("c1", 1),), g2=())


@broken("lost")
def an_older_version_replaced_a_newer_one(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.heal(hit("c1", 1))


@broken("lost")
def a_put_is_lost_though_another_document_is_open(story: Story) -> None:
    story.invoke("delete", "w", doc_id="other")
    story.put("c1", 1)
    story.heal()


@broken("stale")
def an_index_shows_the_content_before_the_last(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.heal(hit("c2", 2), g1=(hit("c1", 1),))


@broken("stale")
def an_index_alone_is_behind_what_was_acknowledged(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.ok(story.invoke("index", "h"), "index", "h", gen=1, hits=(hit("c1", 1),))


@broken("half")
def an_unanswered_put_is_in_the_table_and_not_in_the_index(story: Story) -> None:
    story.put("c1", 1)
    story.info(story.invoke("put", "w", doc_id="d", content="c2"), "put", "w")
    story.heal(hit("c2", 2), g1=(hit("c1", 1),))


@broken("half")
def an_unanswered_put_is_in_the_index_only(story: Story) -> None:
    story.put("c1", 1)
    story.invoke("put", "w", doc_id="d", content="c2")
    story.heal(hit("c1", 1), g1=(hit("c2", 2),))


@broken("half")
def an_unanswered_first_put_is_in_one_of_two_indexes(story: Story) -> None:
    story.invoke("put", "w", doc_id="d", content="c1")
    story.heal(hit("c1", 1), g1=(hit("c1", 1),), g2=())


# Resurrected ----------------------------------------------------------------------------------------------------------


@broken("resurrected")
def a_query_serves_what_was_deleted(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.query(hit("c1", 1))


@broken("resurrected")
def text_from_before_a_delete_is_served_after_the_document_was_created_anew(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.put("c2", 3)
    story.query(hit("c1", 1))


@broken("resurrected")
def a_late_put_is_shown_with_the_version_of_the_delete(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.query(hit("c1", 2))


@broken("resurrected")
def an_old_content_is_served_under_a_new_version(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.query(hit("c1", 3))


@broken("resurrected")
def a_deleted_document_is_in_the_table_after_heal(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.heal(hit("c1", 1))


@broken("resurrected")
def a_deleted_document_is_in_an_index_after_heal(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.heal(g1=(hit("c1", 1),))


# What sessions see ----------------------------------------------------------------------------------------------------


@broken("went back")
def a_session_sees_an_older_version_after_a_newer_one(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c2", 2))
    story.query(hit("c1", 1))


@broken("went back")
def a_rollback_takes_a_session_back_in_time(story: Story) -> None:
    story.put("c1", 1)
    story.move("swap", 2, 5, old=1)
    story.put("c2", 2)
    story.query(hit("c2", 2), gen=2)
    story.move("rollback", 1, 6, old=2, forced=True)
    story.query(hit("c1", 1), gen=1)


@broken("wrong model")
def a_query_meets_an_index_of_another_model(story: Story) -> None:
    story.query(encoder="e1", index_encoder="e2")


@broken("mixed chunks")
def an_answer_has_chunks_of_two_contents(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c1", 1), hit("c2", 2, 1))


@broken("mixed chunks")
def an_answer_has_a_chunk_that_its_content_lacks(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c1", 1, chunk=2, chunks=2))


@broken("mixed chunks")
def an_index_lacks_a_chunk_after_heal(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1), g1=(hit("c1", 1, 0, 2),))


@broken("mixed chunks")
def an_index_keeps_a_chunk_of_the_longer_version_before(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.heal(hit("c2", 2), g1=(hit("c2", 2, 0, 1), hit("c1", 1, 1, 2)))


@broken("mixed chunks")
def an_index_has_one_chunk_twice(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1), g1=(hit("c1", 1), hit("c1", 1)))


@broken("phantom")
def a_content_that_nobody_put(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c9", 2))


@broken("phantom")
def a_content_is_shown_before_its_put_begins(story: Story) -> None:
    story.query(hit("c1", 1))
    story.put("c1", 1)


@broken("phantom")
def a_content_of_another_document(story: Story) -> None:
    story.put("c1", 1, doc_id="other")
    story.put("c2", 2)
    story.query(hit("c1", 1))


@broken("phantom")
def a_version_with_the_content_of_another(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c1", 2))


@broken("phantom")
def a_put_that_failed_is_shown(story: Story) -> None:
    story.fail(story.invoke("put", "w", doc_id="d", content="c1"), "put", "w")
    story.query(hit("c1", 1))


@broken("phantom")
def a_put_is_shown_with_a_version_it_was_not_told(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c1", 3))


# Moves ----------------------------------------------------------------------------------------------------------------


@broken("swap history")
def an_epoch_is_missing(story: Story) -> None:
    story.move("register", 2, 5)
    story.move("swap", 2, 7, old=1)


@broken("swap history")
def a_swap_leaves_another_generation_than_the_active(story: Story) -> None:
    story.move("swap", 2, 5, old=1)
    story.move("swap", 3, 6, old=1)


@broken("swap history")
def a_generation_answers_after_it_was_left(story: Story) -> None:
    story.move("swap", 2, 5, old=1)
    story.query(gen=1)


@broken("swap history")
def a_generation_answers_before_its_swap_begins(story: Story) -> None:
    story.query(gen=1)
    story.query(gen=2)
    story.move("swap", 2, 5, old=1)


@broken("swap history")
def two_generations_answer_without_any_move(story: Story) -> None:
    story.query(gen=1)
    story.query(gen=2)


@broken("swap history")
def an_answer_names_an_epoch_of_another_generation(story: Story) -> None:
    story.move("swap", 2, 5, old=1)
    story.move("register", 3, 6)
    call = story.invoke("query", "r")
    story.move("swap", 3, 7, old=2)
    story.answer(call, gen=3, epoch=6)


@broken("swap history")
def a_swap_without_a_measured_recall(story: Story) -> None:
    story.move("swap", 2, 5, old=1, recalled=False)


@broken("swap history")
def a_swap_while_items_wait(story: Story) -> None:
    story.move("swap", 2, 5, old=1, waiting=3, waived=2)


@broken("swap history")
def the_active_generation_is_retired(story: Story) -> None:
    story.move("swap", 2, 5, old=1)
    story.move("retire", 2, 6, deadline_passed=True)


@broken("window")
def the_standby_lacks_a_document(story: Story) -> None:
    story.ok(story.invoke("standby", "s"), "standby", "s", gen=1, detail={"missing": 1})


@broken("window")
def a_retirement_before_the_deadline(story: Story) -> None:
    story.move("retire", 1, 5, deadline_passed=False, given_up=False)


@broken("window")
def a_rollback_after_the_retirement(story: Story) -> None:
    story.move("swap", 2, 5, old=1)
    story.move("retire", 1, 6, deadline_passed=True)
    story.move("rollback", 1, 7, old=2)


@broken("double effect")
def one_call_succeeds_twice(story: Story) -> None:
    call = story.invoke("put", "w", doc_id="d", content="c1")
    story.ok(call, "put", "w", version=1)
    story.ok(call, "put", "w", version=2)


@broken("double effect")
def two_moves_make_one_epoch(story: Story) -> None:
    story.move("swap", 2, 5, old=1)
    story.move("swap", 2, 5, old=1)


@broken("double effect")
def an_unanswered_put_takes_effect_twice(story: Story) -> None:
    story.invoke("put", "w", doc_id="d", content="c1")
    story.query(hit("c1", 1))
    story.put("c2", 2)
    story.query(hit("c1", 3), process="other")


# Sound, though it may not look so -------------------------------------------------------------------------------------


@sound
def a_query_that_overlaps_a_write_shows_the_old_content(story: Story) -> None:
    story.put("c1", 1)
    query = story.invoke("query", "r")
    story.put("c2", 2)
    story.answer(query, hit("c1", 1))


@sound
def a_query_shows_a_put_that_has_not_answered_yet(story: Story) -> None:
    put = story.invoke("put", "w", doc_id="d", content="c1")
    story.query(hit("c1", 1))
    story.ok(put, "put", "w", version=1)
    story.heal(hit("c1", 1))


@sound
def a_query_that_overlaps_a_delete_serves_the_document(story: Story) -> None:
    story.put("c1", 1)
    query = story.invoke("query", "r")
    story.delete(2)
    story.answer(query, hit("c1", 1))
    story.heal()


@sound
def an_index_that_lags_serves_an_older_version(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c1", 1))
    story.query(hit("c2", 2))


@sound
def two_sessions_see_versions_in_another_order(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c2", 2), process="a")
    story.query(hit("c1", 1), process="b")


@sound
def overlapping_queries_of_one_session_answer_in_any_order(story: Story) -> None:
    story.put("c1", 1)
    old = story.invoke("query", "r")
    story.put("c2", 2)
    story.query(hit("c2", 2))
    story.answer(old, hit("c1", 1))


@sound
def an_unanswered_put_never_happened(story: Story) -> None:
    story.put("c1", 1)
    story.info(story.invoke("put", "w", doc_id="d", content="c2"), "put", "w")
    story.heal(hit("c1", 1))


@sound
def an_unanswered_put_happened_everywhere(story: Story) -> None:
    story.put("c1", 1)
    story.invoke("put", "w", doc_id="d", content="c2")
    story.heal(hit("c2", 2))


@sound
def an_unanswered_put_takes_effect_after_a_later_one(story: Story) -> None:
    story.invoke("put", "w", doc_id="d", content="c1")
    story.put("c2", 1)
    story.query(hit("c2", 1))
    story.query(hit("c1", 2))
    story.heal(hit("c1", 2))


@sound
def an_unanswered_put_takes_effect_after_a_delete(story: Story) -> None:
    story.invoke("put", "w", doc_id="d", content="c1")
    story.delete(1)
    story.query(hit("c1", 2))
    story.heal(hit("c1", 2))


@sound
def an_unanswered_delete_happened(story: Story) -> None:
    story.put("c1", 1)
    story.info(story.invoke("delete", "w", doc_id="d"), "delete", "w")
    story.heal()


@sound
def an_unanswered_delete_never_happened(story: Story) -> None:
    story.put("c1", 1)
    story.info(story.invoke("delete", "w", doc_id="d"), "delete", "w")
    story.query(hit("c1", 1))
    story.heal(hit("c1", 1))


@sound
def a_document_is_created_anew_after_a_delete(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.put("c2", 3)
    story.query(hit("c2", 3))
    story.heal(hit("c2", 3))


@sound
def the_same_content_is_put_again_after_a_delete(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.put("c1", 3)
    story.query(hit("c1", 3))
    story.heal(hit("c1", 3))


@sound
def a_put_that_changes_nothing(story: Story) -> None:
    story.put("c1", 1)
    story.put("c1", None)
    story.delete(None, doc_id="never")
    story.heal(hit("c1", 1))


@sound
def a_retry_of_an_unanswered_put_finds_it_done(story: Story) -> None:
    story.info(story.invoke("put", "w", doc_id="d", content="c1"), "put", "w")
    story.put("c1", None)
    story.heal(hit("c1", 1))


@sound
def only_the_metadata_changed_and_an_index_keeps_its_row(story: Story) -> None:
    story.put("c1", 1)
    story.put("c1", 2)
    story.query(hit("c1", 2))
    story.heal(hit("c1", 2), g1=(hit("c1", 1),))


@sound
def two_writers_answer_in_the_reverse_order_of_their_versions(story: Story) -> None:
    one, two = (story.invoke("put", "w", doc_id="d", content=content) for content in ("c1", "c2"))
    story.ok(two, "put", "w", version=2)
    story.ok(one, "put", "w", version=1)
    story.heal(hit("c2", 2))


@sound
def writes_go_on_after_a_heal(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1))
    story.delete(2)
    story.heal()
    story.put("c3", 3)
    story.heal(hit("c3", 3))


@sound
def all_chunks_of_a_long_document(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c1", 1, 1, 2), hit("c1", 1, 0, 2))
    story.heal(hit("c1", 1), g1=(hit("c1", 1, 0, 2), hit("c1", 1, 1, 2)))


@sound
def swap_rollback_and_forward_again(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c1", 1), gen=1)
    story.move("register", 2, 5)
    story.move("swap", 2, 6, old=1)
    story.query(hit("c1", 1), gen=2, epoch=6)
    story.move("rollback", 1, 7, old=2, forced=False)
    story.query(hit("c1", 1), gen=1)
    story.move("swap", 2, 8, old=1, waiting=2, waived=2)
    story.move("retire", 1, 9, deadline_passed=False, given_up=True)
    story.query(hit("c1", 1), gen=2, epoch=9)


@sound
def a_forced_rollback_to_an_index_that_lags(story: Story) -> None:
    story.put("c1", 1)
    story.move("swap", 2, 5, old=1)
    story.put("c2", 2)
    story.move("rollback", 1, 6, old=2, forced=True)
    story.query(hit("c1", 1), gen=1)
    story.query(hit("c2", 2), gen=1)


@sound
def queries_during_a_swap_are_answered_by_either(story: Story) -> None:
    early, late = story.invoke("query", "a"), story.invoke("query", "b")
    swap = story.invoke("swap", "m", gen=2)
    story.answer(early, gen=2, process="a")
    story.moved(swap, "swap", 2, 5, old=1)
    story.answer(late, gen=1, process="b")


@sound
def a_swap_without_an_answer_happened(story: Story) -> None:
    story.move("register", 2, 5)
    story.query(gen=1)
    story.info(story.invoke("swap", "m", gen=2), "swap", "m")
    story.query(gen=2)
    story.move("rollback", 1, 7, old=2)
    story.query(gen=1)


@sound
def a_swap_without_an_answer_did_not_happen(story: Story) -> None:
    story.move("register", 2, 5)
    story.invoke("swap", "m", gen=2)
    story.query(gen=1)
    story.move("swap", 2, 6, old=1)
    story.query(gen=2)


@sound
def a_refused_swap_and_one_that_was_done_already(story: Story) -> None:
    story.fail(story.invoke("swap", "m", gen=2), "swap", "m")
    story.move("swap", 2, 5, old=1)
    story.ok(story.invoke("rollback", "m"), "rollback", "m", detail={"already": True})
    story.query(gen=2)


@sound
def moves_answer_in_the_reverse_order_of_their_epochs(story: Story) -> None:
    swap, rollback = story.invoke("swap", "m", gen=2), story.invoke("rollback", "m", gen=1)
    story.moved(rollback, "rollback", 1, 6, old=2)
    story.moved(swap, "swap", 2, 5, old=1)
    story.query(gen=1)


@sound
def an_abort_and_a_new_registration(story: Story) -> None:
    story.move("register", 2, 5)
    story.move("abort", 2, 6)
    story.move("register", 3, 7)
    story.move("swap", 3, 8, old=1)
    story.query(gen=3)


def told(tell: Teller) -> Story:
    story = Story()
    tell(story)
    return story


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_named_by_the_promise_that_broke(name: str) -> None:
    promise, tell = BROKEN[name]
    found = check(told(tell).records)
    assert {one.promise for one in found} == {promise}, found


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_is_no_finding(name: str) -> None:
    assert check(told(SOUND[name]).records) == []


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {promise for promise, _ in BROKEN.values()} == set(PROMISES)


def test_a_long_history_without_a_fault_is_no_finding() -> None:
    assert check(sound_history(20_000, seed=3)) == []


def test_a_history_out_of_order_is_refused() -> None:
    records = told(SOUND["a put that changes nothing"]).records
    with pytest.raises(ValueError, match="sort the history by time"):
        check(reversed(records))


def test_lag_is_counted_from_the_answer_to_the_first_that_shows_the_write_or_a_newer_one() -> None:
    story = Story()
    story.put("c1", 1)  # answered at 1
    story.put("c2", 2)  # answered at 3
    story.query(hit("c2", 2))  # answered at 5
    story.put("c3", 3, doc_id="never shown")
    assert sorted(lag(story.records)) == [2, 4]


def test_saved_histories_are_checked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    save(good, told(SOUND["swap rollback and forward again"]).records)
    save(bad, told(BROKEN["a query serves what was deleted"][1]).records)
    assert checker.main([str(good)]) == 0
    assert checker.main([str(good), str(bad)]) == 1
    assert "resurrected" in capsys.readouterr().out
