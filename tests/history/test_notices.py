"""The webhook hears what happens to a collection, no matter who did it: in order, and normally once."""

from __future__ import annotations

from typing import Any

import pytest

from revector.errors import GateFailed
from stages import AtStep
from worlds import World, document


@pytest.fixture
def told(served: World, webhook: Any) -> tuple[World, list[Any]]:
    """A project with a webhook that has heard what happened before; and what it hears from now on."""
    url, heard = webhook
    served.project.settings.alerts.webhook = url
    served.project.tell("docs")
    heard.clear()
    return served, heard


def test_a_migration_and_the_way_back_are_told_in_order(told: Any) -> None:
    world, heard = told
    world.upgrade("b200", approval=False)
    world.migrator.rollback("answers were odd")
    texts = [one["text"] for one in heard]
    assert [one["event"]["kind"] for one in heard] == ["gate", "swap", "rollback"]
    assert texts[0].startswith("docs: the gate of revision b200 passed, recall@10 1.0000 (now served: 1.0000)")
    assert "searches are answered by revision b200 now, by tester; the way back is open until 20" in texts[1]
    assert texts[2] == "docs: searches are answered by revision a100 again, by tester (answers were odd)."
    assert heard[1]["event"]["detail"]["to"] == world.generation("standby").gen


def test_an_approval_is_asked_for_and_told(told: Any) -> None:
    world, heard = told
    world.upgrade("b200", to="gate", approval=True)
    assert heard[-1]["text"].endswith("; a person must approve the swap.")
    world.migrator.approve("read 20 answers", by="olga")
    assert heard[-1]["text"] == "docs: the swap to revision b200 was approved, by olga."


def test_a_gate_that_fails_is_told_with_its_reasons(told: Any) -> None:
    world, heard = told
    world.labels((f"d{n:05d}", f"nothing at all {n}") for n in range(60))
    world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', "gate = Gate(min_recall=0.9)")
    with pytest.raises(GateFailed):
        world.upgrade("b200")
    assert "the gate of revision b200 did not pass: " in heard[-1]["text"]


def test_what_the_webhook_refuses_is_told_by_the_next_call_and_then_never_again(told: Any, webhook: Any) -> None:
    world, heard = told
    world.project.settings.alerts.webhook = f"{webhook[0]}/refuse"
    world.upgrade("b200")
    assert {one["event"]["kind"] for one in heard} == {"gate"}
    heard.clear()
    world.project.settings.alerts.webhook = webhook[0]
    assert world.project.tell("docs") == 2
    assert [one["event"]["kind"] for one in heard] == ["gate", "swap"]
    assert world.project.tell("docs") == 0
    assert world.events("notice")[0]["detail"]["sent"] == 2


def test_a_window_that_is_about_to_close_is_told_once(told: Any) -> None:
    world, heard = told
    world.upgrade("b200")
    heard.clear()
    assert world.project.tell("docs") == 0
    world.sql("UPDATE collection SET rollback_deadline = clock_timestamp() + interval '5 hours'")
    assert (world.project.tell("docs"), world.project.tell("docs")) == (1, 0)
    assert "the rollback window closes at 20" in heard[0]["text"]


def test_dead_letters_are_told_when_there_are_more_and_anew_after_a_cure(told: Any) -> None:
    world, heard = told
    world.documents.put_many([document(1, again=1), document(2, again=1)])
    world.sql("UPDATE pending SET state = 'dead'")
    assert (world.project.tell("docs"), world.project.tell("docs")) == (1, 0)
    assert heard[0]["text"] == "docs: 2 documents could not be embedded; see `revector dlq list`."
    world.sql("UPDATE pending SET state = 'due' WHERE doc_id = 'd00001'")
    assert world.project.tell("docs") == 0
    world.sql("UPDATE pending SET state = 'dead'")
    assert world.project.tell("docs") == 1


def test_an_index_that_is_wrong_is_told_and_a_sound_one_is_not(told: Any) -> None:
    world, heard = told
    world.project.verify("docs", reembed=0)
    assert heard == []
    world.sql(f"DELETE FROM {world.generation().physical_name} WHERE doc_id = 'd00003'")
    world.project.verify("docs", reembed=0)
    assert "does not equal the documents" in heard[0]["text"]


def test_nobody_is_told_of_what_is_older_than_a_day_or_while_another_process_tells(told: Any) -> None:
    world, heard = told
    world.unguarded("UPDATE event SET at = at - interval '2 days'")
    world.unguarded("DELETE FROM event WHERE kind = 'notice'")
    assert world.project.tell("docs") == 0
    world.upgrade("b200", to="verify")
    from revector.history.news import only_teller

    with only_teller(world.engine, world.collection.cid) as first:
        assert first is not None
        world.upgrade("b200")
        assert heard == []
    assert world.project.tell("docs") == 2


def test_a_move_does_not_fail_because_nobody_can_be_told_and_without_a_webhook_nothing_is_kept(at_step: AtStep) -> None:
    served = at_step("gate")
    assert served.events("notice") == []
    served.project.settings.alerts.webhook = "http://127.0.0.1:1/nobody"
    assert served.upgrade("b200")[-1].changed
    assert served.events("notice") == []
