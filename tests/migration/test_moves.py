"""Slots and the swap on a real PostgreSQL: what is refused, and that refusing changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from moving import B200, bare_swap, kill, refuses

from revector.documents import deadletters
from revector.errors import (
    EvidenceStale,
    GateBusy,
    MigrationOpen,
    NotCaughtUp,
    RevectorError,
    RollbackUnavailable,
    StaleRun,
    StateError,
    WindowOpen,
)
from revector.gate.evidence import Evidence
from revector.lifecycle import Phase
from revector.registry import moves, sharding
from revector.registry.control import control
from stages import AtStep
from worlds import World

# Slots ----------------------------------------------------------------------------------------------------------------


def test_a_second_migration_while_one_is_open_is_refused(served: World) -> None:
    served.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    served.upgrade("b200", to="provision")
    refuses(served, MigrationOpen, lambda: served.upgrade("c300"), "b200.*revector abort")


def test_of_two_registrations_at_once_one_wins(served: World) -> None:
    migrators = [served.migrator, served.migrator]

    def provision(n: int) -> object:
        try:
            return migrators[n].run("provision", "b200").changed
        except (StaleRun, MigrationOpen) as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(provision, range(2)))
    assert outcomes.count(True) == 1
    assert served.value("SELECT count(*) FROM generation") == 2


def test_a_revision_that_was_passed_while_it_was_being_registered_is_not_built(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    slow, ranges = served.migrator, sharding.plan_ranges

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(sharding, "plan_ranges", ranges)
        served.migrator.upgrade("c300")
        return ranges(*args)

    monkeypatch.setattr(sharding, "plan_ranges", overtaken)
    with pytest.raises(StateError, match=r"b200.*at c300, which comes after it\. Nothing was changed"):
        slow.run("provision", "b200")
    assert served.generation().revision == "c300"
    assert served.collection.building_gen is None


def test_a_retirement_while_a_revision_is_being_registered_does_not_hinder_it(
    swapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    slow, ranges = swapped.migrator, sharding.plan_ranges

    def retired(*args: Any) -> Any:
        swapped.migrator.retire("no way back is wanted", now=True)
        return ranges(*args)

    monkeypatch.setattr(sharding, "plan_ranges", retired)
    assert slow.run("provision", "c300").changed
    assert swapped.collection.standby_gen is None


@pytest.mark.parametrize(
    "slots",
    [
        "standby_gen = active_gen, rollback_deadline = now()",
        "building_gen = active_gen",
        "building_gen = standby_gen",
        "active_gen = NULL",
        "standby_gen = NULL",
        "rollback_deadline = NULL",
    ],
)
def test_the_tables_themselves_refuse_impossible_slots(swapped: World, slots: str) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        swapped.sql(f"UPDATE collection SET {slots}")


def test_a_slot_takes_no_generation_of_another_collection(swapped: World) -> None:
    swapped.sql("INSERT INTO collection (name) VALUES ('other')")
    with pytest.raises(sa.exc.IntegrityError):
        swapped.sql("UPDATE collection SET building_gen = (SELECT min(gen) FROM generation) WHERE name = 'other'")


def test_active_takes_no_generation_that_is_not_complete(at_step: AtStep) -> None:
    served = at_step("provision")
    with pytest.raises(sa.exc.DBAPIError, match="not live and complete"):
        served.sql("UPDATE collection SET active_gen = building_gen, building_gen = NULL")


@pytest.mark.parametrize(
    "change",
    ["encoder_fp = 'x'", "config_hash = 'x'", "physical_name = 'x'", "spec = '{}'", "seeded = false", "revision = 'x'"],
)
def test_a_registered_generation_never_changes_what_it_is(served: World, change: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="immutable"):
        served.sql(f"UPDATE generation SET {change}")


def test_an_ended_generation_never_comes_back(swapped: World) -> None:
    swapped.migrator.retire("enough", now=True)
    with pytest.raises(sa.exc.DBAPIError):
        swapped.sql("UPDATE generation SET live = true, dropped = false, phase = 'live' WHERE phase = 'retired'")


# Swap -----------------------------------------------------------------------------------------------------------------


def test_a_swap_with_an_item_waiting_is_refused(approved: World) -> None:
    approved.documents.put("d00001", "melon kiwi")
    refuses(approved, NotCaughtUp, lambda: bare_swap(approved), "found 1 due and 0 dead")


def test_the_migrator_applies_what_waits_and_then_swaps(approved: World) -> None:
    approved.documents.put("d00001", "melon kiwi")
    approved.documents.delete("d00002")
    approved.upgrade("b200")
    assert approved.generation().revision == "b200"
    assert approved.differences(approved.generation()) == []


@pytest.mark.parametrize("lane", ["live", "bulk"])
def test_a_swap_is_refused_while_work_waits_in_either_lane(approved: World, lane: str) -> None:
    building = approved.generation("building")
    approved.sql(
        "INSERT INTO pending (gen, doc_id, version, lane) SELECT :gen, doc_id, version, :lane FROM document "
        "WHERE doc_id = 'd00001'",
        gen=building.gen,
        lane=lane,
    )
    with (
        pytest.raises(NotCaughtUp, match="found 1 due and 0 dead"),
        control(approved.engine, approved.collection.cid, actor="tester") as held,
    ):
        moves.swap(held, building)
    assert approved.generation().revision == "a100"


def test_a_swap_with_a_dead_letter_is_refused_at_once(approved: World) -> None:
    kill(approved, "d00001")
    refuses(approved, NotCaughtUp, lambda: approved.upgrade("b200"), "1 dead not waived.*dlq list")


def test_a_waived_dead_letter_lets_the_swap_pass(approved: World) -> None:
    kill(approved, "d00001")
    with approved.engine.begin() as connection:
        deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why="not needed")
    approved.upgrade("b200")
    assert approved.generation().revision == "b200"
    assert approved.sql("SELECT * FROM i13_unwaived") == []
    assert approved.events("dlq_waive")[0]["detail"] == {"documents": 1, "doc_ids": ["d00001"], "why": "not needed"}


def test_a_new_version_voids_the_waiver(approved: World) -> None:
    kill(approved, "d00001")
    with approved.engine.begin() as connection:
        deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why="not needed")
    kill(approved, "d00001")
    refuses(approved, NotCaughtUp, lambda: approved.upgrade("b200"), "1 dead not waived")


def test_a_waiver_needs_a_reason_and_a_dead_letter(approved: World) -> None:
    with approved.engine.begin() as connection:
        with pytest.raises(RevectorError, match="reason"):
            deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why=" ")
        with pytest.raises(StateError, match="no dead letter"):
            deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why="because")


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (
            "UPDATE gate_result SET at = at - interval '25 hours' WHERE kind = 'recall'",
            EvidenceStale,
            "older than 24 h",
        ),
        (
            "UPDATE gate_result SET at = at - interval '25 hours' WHERE kind = 'verify'",
            EvidenceStale,
            "older than",
        ),
        ("UPDATE gate_result SET config_hash = 'other' WHERE kind = 'recall'", EvidenceStale, "no recall result"),
        ("UPDATE gate_result SET passed = false, verdict = 'fail' WHERE kind = 'recall'", EvidenceStale, "a failure"),
        ("DELETE FROM gate_result WHERE kind = 'verify'", EvidenceStale, "no verify result"),
    ],
)
def test_a_swap_needs_current_evidence(approved: World, spoil: str, error: type[RevectorError], match: str) -> None:
    approved.unguarded(spoil)
    refuses(approved, error, lambda: bare_swap(approved), match)
    approved.upgrade("b200")
    assert approved.generation().revision == "b200", "the migrator measures again what has aged"


def test_evidence_ages_with_the_corpus(approved: World) -> None:
    approved.put(11, start=200)
    approved.settle()
    refuses(approved, EvidenceStale, lambda: bare_swap(approved), "more than 10 documents changed")
    approved.upgrade("b200")
    assert approved.events("gate_again")


def writing_while_measured(world: World, monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Each measurement of the gate meets ``count`` new documents; the numbers of those that were written."""
    measure, written = Evidence.gate, list[int]()

    def gate(evidence: Evidence, *args: Any) -> Any:
        found = measure(evidence, *args)
        world.put(count, start=1_000 + sum(written))
        written.append(count)
        return found

    monkeypatch.setattr(Evidence, "gate", gate)
    world.put(11, start=200)
    world.settle()
    return written


def test_a_swap_comes_although_more_changes_while_the_gate_is_measured_than_evidence_may_age(
    approved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = writing_while_measured(approved, monkeypatch, 25)  # allowed are 10, then 20, then 40
    approved.migrator.run("swap", "b200")
    assert len(written) == 3
    assert approved.generation().revision == "b200"
    detail = "SELECT detail->'changes_allowed_times' FROM event WHERE kind = 'swap' ORDER BY seq DESC LIMIT 1"
    assert approved.value(detail) == 4


def test_a_corpus_that_is_replaced_while_its_gate_is_measured_is_not_swapped(
    approved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = writing_while_measured(approved, monkeypatch, 170)  # allowed are at most 160
    with pytest.raises(EvidenceStale, match="more than 160 documents changed since its recall result"):
        approved.migrator.run("swap", "b200")
    assert len(written) == 5
    assert approved.generation().revision == "a100"


def test_a_gate_tightened_after_it_passed_is_judged_again_at_the_swap(approved: World) -> None:
    approved.revision("b200", "a100", B200, "gate = Gate(max_drop=0.0, min_queries=61)")
    with pytest.raises(RevectorError, match="61"):
        approved.upgrade("b200")
    assert approved.generation().revision == "a100"


def test_a_swap_while_the_standby_is_kept_is_refused(swapped: World) -> None:
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    swapped.upgrade("c300", to="approve")
    refuses(swapped, WindowOpen, lambda: swapped.upgrade("c300"), "retire --now")
    swapped.migrator.retire("give it up", now=True)
    swapped.upgrade("c300")
    assert swapped.generation().revision == "c300"


def test_the_first_swap_leaves_nothing_to_go_back_to(served: World) -> None:
    assert served.generation().phase == Phase.COMPLETED
    refuses(served, RollbackUnavailable, lambda: served.migrator.rollback("no"), "nothing to go back to")


def test_a_swap_that_cannot_have_the_gate_gives_up_soon_and_changes_nothing(approved: World) -> None:
    with approved.engine.connect() as forgotten:
        forgotten.execute(sa.text("UPDATE document SET meta = '{}' WHERE doc_id = 'd00001'"))
        refuses(approved, GateBusy, lambda: bare_swap(approved), "gate was not free")
