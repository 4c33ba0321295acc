"""The checker of histories: a move that breaks a promise is named, and what only looks so is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation.reliability import checker
from evaluation.reliability.checker import PROMISES, check, sound_history
from evaluation.reliability.history import save
from stories import BROKEN, SOUND, Story, Teller, broken, hit, sound

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


def test_saved_histories_are_checked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    save(good, told(SOUND["swap rollback and forward again"]).records)
    save(bad, told(BROKEN["a query serves what was deleted"][1]).records)
    assert checker.main([str(good)]) == 0
    assert checker.main([str(good), str(bad)]) == 1
    assert "resurrected" in capsys.readouterr().out
