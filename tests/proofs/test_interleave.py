"""Interleavings on a real PostgreSQL, statement by statement: chosen ones by name, random ones by seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from evaluation.reliability import bugs
from evaluation.reliability.interleave import LAYER, run_interleavings
from evaluation.reliability.stepping import Actor, Killed, Stage, stage

from revector.errors import GateBusy, NotCaughtUp, StateError
from revector.indexing import rearm
from revector.indexing.keeping import StoreKeeper
from revector.registry import control as controls
from revector.registry import moves
from revector.registry.lanes import lane_of
from revector.stores.opening import MEMORY
from stages import AtStep
from worlds import World

RUNS = 15


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(world: World) -> Iterator[Stage]:
    """A stage with a table of two counters, ``a`` and ``b``, both 0."""
    world.sql("CREATE TABLE counter (name text PRIMARY KEY, n int NOT NULL)")
    world.sql("INSERT INTO counter VALUES ('a', 0), ('b', 0)")
    with stage(world.engine) as made:
        yield made


def adding(steps: Stage, names: str, *, lock: str = "") -> Callable[[], None]:
    """A careless application: reads a counter and writes one more, in one transaction for each of ``names``."""

    def run() -> None:
        with steps.engine.begin() as connection:
            for name in names:
                n = connection.scalar(sa.text(f"SELECT n FROM counter WHERE name = :name {lock}"), {"name": name})
                connection.execute(sa.text("UPDATE counter SET n = :n WHERE name = :name"), {"n": n + 1, "name": name})

    return run


def counter(steps: Stage, name: str = "a") -> int:
    with steps.engine.connect() as connection:
        return int(connection.scalar(sa.text("SELECT n FROM counter WHERE name = :name"), {"name": name}))


def at_random(steps: Stage, seed: int, body: Callable[[], None]) -> list[str]:
    """Let two actors run ``body`` in an order of the seed; return the schedule."""
    steps.restart()
    draw = random.Random(seed)
    actors = [steps.enter(f"actor{n}", body) for n in range(2)]
    while ready := [actor for actor in actors if actor.state == "ready"]:
        steps.step(draw.choice(ready))
    assert [actor.error for actor in actors] == [None, None]
    return steps.trace


def test_an_actor_stands_before_every_statement_and_commit(steps: Stage) -> None:
    one = steps.enter("one", adding(steps, "a"))
    assert steps.finish(one)
    assert [line.partition(": ")[2][:6] for line in steps.trace] == ["start", "SELECT", "UPDATE", "commit"]
    assert counter(steps) == 1


def test_a_statement_that_waits_for_a_lock_is_seen_and_goes_on_when_the_lock_is_free(steps: Stage) -> None:
    one, two = (steps.enter(name, adding(steps, "a", lock="FOR UPDATE")) for name in ("one", "two"))
    assert steps.until(one, "UPDATE counter")
    assert not steps.finish(two)
    assert two.state == "blocked"
    assert steps.until(one, "commit")
    assert two.state == "blocked"
    steps.step(one)
    assert (one.state, two.state, two.at[:6]) == ("done", "ready", "UPDATE")
    assert steps.finish(two)
    assert counter(steps) == 2


@pytest.mark.parametrize(("at", "left"), [("commit", 0), ("UPDATE counter", 0)])
def test_what_a_killed_actor_had_not_committed_is_gone(steps: Stage, at: str, left: int) -> None:
    one = steps.enter("one", adding(steps, "a"))
    steps.until(one, at)
    steps.kill(one)
    assert isinstance(one.error, Killed)
    assert counter(steps) == left


def test_a_deadlock_ends_before_anybody_else_advances_with_one_victim(steps: Stage) -> None:
    locking = [adding(steps, names, lock="FOR UPDATE") for names in ("ab", "ba")]
    actors = [steps.enter(f"actor{n}", body) for n, body in enumerate(locking)]
    for actor in actors:
        steps.until(actor, "UPDATE")
        steps.step(actor)
    assert not steps.finish(actors[0])
    steps.finish(actors[1])
    steps.finish(actors[0])
    states = [getattr(getattr(actor.error, "orig", None), "sqlstate", None) for actor in actors]
    assert sorted(states, key=str) == ["40P01", None]
    assert (counter(steps, "a"), counter(steps, "b")) == (1, 1)


def test_random_schedules_find_a_lost_update_and_none_where_the_row_is_locked(steps: Stage) -> None:
    def lost(lock: str) -> int:
        before, runs = counter(steps), 20
        for seed in range(runs):
            at_random(steps, seed, adding(steps, "a", lock=lock))
        return before + 2 * runs - counter(steps)

    assert lost("") > 0
    assert lost("FOR UPDATE") == 0


def test_the_same_seed_gives_the_same_schedule(steps: Stage) -> None:
    schedules = [at_random(steps, seed, adding(steps, "ab", lock="FOR UPDATE")) for seed in (1, 2, 1)]
    assert schedules[0] == schedules[2] != schedules[1]


# Chosen interleavings, by their number in the catalogue ---------------------------------------------------------------


def lost(world: World) -> list[str]:
    return [row.doc_id for row in world.sql("SELECT doc_id FROM i1_lost")]


def bare_swap(world: World) -> Callable[[], Any]:
    """The alias's move alone: without the last drain, as the swap's own test must hold without it."""
    generation = world.generation("building")

    def swap() -> Any:
        with controls.control(world.engine, generation.cid, actor="controller") as held:
            return moves.swap(held, generation)

    return swap


def updating(world: World, doc_id: str) -> Callable[[], None]:
    """An application that changes a document by SQL of its own, without taking the gate first."""

    def update() -> None:
        with world.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE document SET content = 'by hand' WHERE doc_id = :doc_id"), {"doc_id": doc_id}
            )

    return update


def old_snapshot_across_a_migration(world: World, steps: Stage) -> Actor:
    """R05: a REPEATABLE READ transaction begins, a generation is registered and seeded, then it writes."""

    def write() -> None:
        repeatable = world.engine.execution_options(isolation_level="REPEATABLE READ")
        with repeatable.begin() as connection:
            connection.execute(sa.text("SELECT count(*) FROM document"))
            connection.execute(sa.text("UPDATE document SET content = 'by hand' WHERE doc_id = 'd00000'"))

    application = steps.enter("application", write)
    assert steps.until(application, "UPDATE document")
    world.upgrade("b200", to="backfill")
    assert steps.finish(application)
    return application


def test_r05_a_writer_with_a_snapshot_from_before_a_registration_is_told_to_repeat(served: World) -> None:
    with stage(served.engine) as steps:
        application = old_snapshot_across_a_migration(served, steps)
    assert getattr(getattr(application.error, "orig", None), "sqlstate", None) == "40001"
    assert lost(served) == []


def test_r05_with_the_advisory_lock_alone_its_change_is_lost(served: World) -> None:
    with bugs.plant("advisory_gate_only", served.engine), stage(served.engine) as steps:
        application = old_snapshot_across_a_migration(served, steps)
    assert application.error is None
    assert lost(served) == ["d00000"]


def swap_meets_a_write(world: World, steps: Stage) -> Actor:
    """R36: a swap waits for the gate that a writer holds; the writer commits, the swap goes on."""
    documents = world.documents
    writer = steps.enter("writer", lambda: documents.put("a", "melon kiwi"))
    assert steps.until(writer, "commit")
    controller = steps.enter("controller", bare_swap(world))
    assert not steps.finish(controller)
    assert steps.finish(writer)
    assert steps.finish(controller)
    return controller


def test_r36_a_swap_sees_what_was_committed_while_it_waited_for_the_gate(approved: World) -> None:
    with stage(approved.engine) as steps:
        controller = swap_meets_a_write(approved, steps)
    assert isinstance(controller.error, NotCaughtUp)


def test_r36_in_a_snapshot_older_than_its_lock_it_swaps_with_a_write_missing(approved: World) -> None:
    with bugs.plant("test_in_lock_statement", approved.engine), stage(approved.engine) as steps:
        controller = swap_meets_a_write(approved, steps)
    assert controller.error is None
    waiting = "SELECT doc_id FROM pending WHERE gen = (SELECT active_gen FROM collection)"
    assert [row.doc_id for row in approved.sql(waiting)] == ["a"]


def writer_meets_a_waiting_swap(world: World, steps: Stage) -> bool:
    """R37: a writer holds the gate, a swap waits for it, and another writer comes; return whether it overtakes."""
    first, second = (steps.enter(one, partial(world.documents.put, one, "melon kiwi")) for one in "ab")
    controller = steps.enter("controller", bare_swap(world))
    assert steps.until(first, "commit")
    assert not steps.finish(controller)
    overtakes = steps.finish(second)
    assert [steps.finish(actor) for actor in (first, controller, second)] == [True] * 3
    return overtakes


def test_r37_a_writer_that_comes_after_a_swap_waits_behind_it(approved: World) -> None:
    with stage(approved.engine) as steps:
        assert not writer_meets_a_waiting_swap(approved, steps)


def test_r37_with_the_row_lock_alone_writers_overtake_a_swap_that_waits(approved: World) -> None:
    with bugs.plant("row_gate_only", approved.engine), stage(approved.engine) as steps:
        assert writer_meets_a_waiting_swap(approved, steps)


def test_r38_with_an_applications_transaction_open_a_swap_gives_up_and_writers_go_on(approved: World) -> None:
    with stage(approved.engine) as steps:
        application = steps.enter("application", updating(approved, "d00000"))
        assert steps.until(application, "commit")
        controller = steps.enter("controller", bare_swap(approved))
        assert not steps.finish(controller)
        writer = steps.enter("writer", lambda: approved.documents.put("a", "melon kiwi"))
        steps.finish(writer)
        steps.come_back(controller)
        assert steps.finish(controller)
        assert isinstance(controller.error, GateBusy)
        assert steps.finish(writer)
        assert (writer.error, application.at) == (None, "commit")
        assert steps.finish(application)
    approved.upgrade("b200")
    assert approved.differences(approved.generation()) == []


def update_meets_the_last_drain(world: World, steps: Stage) -> tuple[Actor, Actor]:
    """R39: a swap has the gate; an UPDATE locks its row and waits for the gate; the last drain wants that row."""
    controller = steps.enter("controller", lambda: world.migrator.run("swap", "b200"))
    assert steps.until(controller, "pg_advisory_xact_lock")
    world.documents.put("d00000", "melon kiwi")
    assert steps.until(controller, "control.after_gate")
    application = steps.enter("application", updating(world, "d00000"))
    assert not steps.finish(application)
    while (controller.state, application.state) == ("ready", "blocked"):
        steps.step(controller)
    return controller, application


def test_r39_a_row_that_a_writer_at_the_gate_has_locked_does_not_hold_up_the_drain(approved: World) -> None:
    with stage(approved.engine) as steps:
        controller, application = update_meets_the_last_drain(approved, steps)
        assert (controller.state, application.state) == ("ready", "ready"), "the swap gave the gate back"
        assert steps.finish(application)
        assert steps.finish(controller)
        assert (controller.error, application.error) == (None, None)
    assert approved.generation().revision == "b200"
    assert approved.differences(approved.generation()) == []


def test_r39_a_drain_that_waits_for_locked_rows_stands_still_with_the_writer(approved: World) -> None:
    def wait(_connection, _cursor, statement, parameters, *_):
        return statement.replace(" SKIP LOCKED", ""), parameters

    sa.event.listen(approved.engine, "before_cursor_execute", wait, retval=True)
    with stage(approved.engine) as steps:
        controller, application = update_meets_the_last_drain(approved, steps)
        assert (controller.state, application.state) == ("blocked", "blocked")


def test_an_index_that_is_dropped_while_a_control_step_ends_is_no_deadlock(swapped: World) -> None:
    """Both write an event: its hash chain and its foreign key are two locks, which must be had in one order."""
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    ended = swapped.generation("standby")
    with controls.control(swapped.engine, ended.cid, actor="tester") as held:
        moves.retire(held, reason="test", now=True)
    with stage(swapped.engine) as steps:
        controller = steps.enter("controller", lambda: swapped.migrator.run("provision", "c300"))
        dropper = steps.enter("dropper", lambda: moves.drop(swapped.engine, ended, actor="dropper"))
        assert steps.until(controller, "INSERT INTO event")
        for actor in (dropper, controller, dropper):
            steps.finish(actor)
        assert (controller.error, dropper.error) == (None, None)


@pytest.mark.parametrize("at", ["seed.after_commit", "INSERT INTO part", "shard.after_manifest"])
def test_a_shard_whose_generation_is_dropped_meanwhile_ends_and_leaves_nothing(at_step: AtStep, at: str) -> None:
    served = at_step("provision")
    gen = served.generation("building").gen
    task, ending = served.migrator, served.migrator
    task._forward._settings = replace(task._settings, overlap=False)  # all statements from the actor's thread
    with stage(served.engine) as steps:
        shard = steps.enter("shard", lambda: task.embed_shard("b200", 0))
        assert steps.until(shard, at)
        controller = steps.enter("controller", lambda: ending.abort("test"))
        for actor in (controller, shard, controller, shard):
            steps.finish(actor)
        assert (controller.state, controller.error) == ("done", None)
        assert (shard.state, isinstance(shard.error, StateError)) == ("done", True)
    for table in ("pending", "ledger", "part", "shard"):
        assert served.value(f"SELECT count(*) FROM {table} WHERE gen = {gen}") == 0


def test_a_migration_whose_last_document_goes_while_it_is_planned_is_not_stuck(served: World) -> None:
    migrator = served.migrator
    with stage(served.engine) as steps:
        controller = steps.enter("controller", lambda: migrator.run("provision", "b200"))
        assert steps.until(controller, "WITH numbered")
        served.documents.delete_many([f"d{n:05d}" for n in range(120)])
        assert steps.finish(controller)
    assert served.collection.building_gen is None or served.migrator.run("backfill", "b200").changed


@pytest.fixture
def in_store(world: World) -> World:
    """A migration into a store has been opened, and one document is due there; nothing is shown yet."""
    body = 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(kind="exact", store="memory")'
    world.revision("a100", None, *body, "gate = Gate(max_drop=1.0, min_overlap=None, min_queries=1)")
    world.put(12)
    world.upgrade("a100", to="provision")
    world.put(1, start=20)
    return world


def test_what_is_shown_while_a_loss_of_its_store_is_noticed_becomes_due_again(in_store: World) -> None:
    worker, keeper = in_store.project.worker(), StoreKeeper(in_store.engine)
    building = in_store.generation("building")
    index = lane_of(building).index
    with stage(in_store.engine) as steps:
        publishing = steps.enter("worker", worker.drain)
        assert steps.until(publishing, "reveal.after_cas")
        index.drop()
        noticing = steps.enter("keeper", lambda: keeper.look(building))
        assert not steps.finish(noticing), "it waits for who publishes"
        assert steps.finish(publishing)
        assert steps.finish(noticing)
        assert (publishing.error, noticing.error) == (None, None)
    shown = in_store.sql("SELECT doc_id FROM ledger WHERE attempt IS NOT NULL")
    assert [row.doc_id for row in shown] == ["d00020"]
    assert in_store.value("SELECT count(*) FROM pending WHERE doc_id = 'd00020' AND state = 'due'") == 1
    in_store.upgrade("a100")
    assert in_store.project.verify("docs").passed


def test_a_loss_that_is_noticed_while_a_document_is_held_does_not_end_the_worker(in_store: World) -> None:
    worker, building = in_store.project.worker(), in_store.generation("building")
    assert worker.drain() == 1
    lane_of(building).index.drop()
    with in_store.engine.connect() as application, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rearm, "LOCK_BUDGET_MS", 50)
        application.execute(sa.text("SELECT 1 FROM document WHERE doc_id = 'd00020' FOR UPDATE"))
        assert in_store.project.worker().drain() == 0
    in_store.upgrade("a100")
    assert in_store.project.verify("docs").passed


# Random interleavings -------------------------------------------------------------------------------------------------


def test_random_interleavings_keep_every_promise(database_url: str) -> None:
    done = run_interleavings(database_url, range(RUNS), stop_at_first=False)
    assert done.findings == []
    for what in ("lock waits", "crashes", "swap", "rollback", "retire", "queries", "refused moves"):
        assert done.tally[what], what
    piece = {"runs": RUNS, "tally": done.tally, "broken": 0, "seconds": 1.0}
    held = {figure.name: figure.holds for figure in LAYER.figures([piece])}
    assert held["interleavings in which a promise broke"]


@pytest.mark.slow
def test_random_interleavings_of_indexes_in_a_store_keep_every_promise(database_url: str) -> None:
    done = run_interleavings(database_url, range(RUNS), stop_at_first=False, store=MEMORY)
    assert done.findings == []
    for what in ("lock waits", "crashes", "queries", "losses"):
        assert done.tally[what], what


@pytest.mark.parametrize("bug", ["no_version_check", "standby_not_fed", "item_deleted_by_id"])
def test_random_interleavings_find_a_seeded_bug(database_url: str, bug: str) -> None:
    done = run_interleavings(database_url, range(1_000, 1_020), plant=partial(bugs.plant, bug))
    assert {says.partition(":")[0] for _, says in done.findings} & {"lost", "stale", "resurrected", "phantom", "window"}
