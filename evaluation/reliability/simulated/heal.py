"""What must be true once faults are gone and time has passed: nothing waits, and every index equals the documents."""

from __future__ import annotations

from evaluation.reliability.beginnings import Unmeasured
from evaluation.reliability.points import garbage
from evaluation.reliability.simulated.encoders import POISON, VENOM
from evaluation.reliability.simulated.look import Broken, Key, Waiting, demand
from evaluation.reliability.simulated.oracle import Query, check_vectors
from evaluation.reliability.simulated.world import World

from revector.documents import deadletters
from revector.errors import RevectorError
from revector.indexing.keeping import StoreKeeper
from revector.lifecycle import Phase
from revector.migration.catch_up import LANES
from revector.registry.collections import read_generation

LONG_S = 120 * 3_600.0
ROUNDS = 30


def heal(world: World, *, finish: bool) -> None:
    """Fix everything, let all work end, and compare; with ``finish``, an open migration must come to its end too."""
    place = world.place
    if place.store is not None:
        place.store.calm = True
        place.store.arrive(1.0)
    place.models.faults.clear()
    place.models.replaced.clear()
    Unmeasured.passes = True
    for name in place.stage.standing:
        place.stage.resume(name)
        world.judge()
    world.restart_all()
    place.clock.jump(world.latest_s - place.clock.now_s())
    place.clock.wait(LONG_S)
    if any(item.state == "dead" for item in world.seen.pending.values()):
        with place.engine.begin() as connection:
            deadletters.retry_dead(connection, world.cid, None, "healer")
    world.judge()
    building = world.seen.slots.get("building")
    if finish and building is not None and not world.seen.generations[building]["seeded"]:
        revision = world.revision(building).revision
        _must(world, "backfill", lambda: world.process("healer").migrator().run("backfill", revision))
    _drain(world)
    _compare(world)
    if finish:
        _finish(world)
        _ended_are_dropped(world)
        _compare(world)


def _must(world: World, what: str, call: object) -> None:
    """Run a call that nothing hinders any more."""

    def refused(error: BaseException) -> None:
        raise Broken("not finished", f"{what}: {type(error).__name__}: {error}") from error

    world.call("healer", call, refused=refused)  # type: ignore[arg-type]
    world.judge()


def _drain(world: World) -> None:
    for turn in range(ROUNDS):
        if (turn or not world.stored()) and not any(item.state == "due" for item in _waiting(world).values()):
            break
        _must(world, "work", lambda: _work(world))
        world.place.clock.wait(700.0)
    for (gen, doc_id), item in _waiting(world).items():
        content = world.oracle.documents[doc_id].content or ""
        guilty = item.state == "dead" and (POISON in content or VENOM in content)
        demand(guilty, "not finished", "after healing there waits", gen, repr(doc_id), item, content)


def _waiting(world: World) -> dict[Key, Waiting]:
    """Return the work of generations that are live and complete."""
    live = {gen for gen in world.seen.slots.values() if world.seen.generations[gen]["seeded"]}
    return {key: item for key, item in world.seen.pending.items() if key[0] in live}


def _work(world: World) -> None:
    """One round of a worker; what a backfill left in its lane is done as a swap would do it."""
    worker = world.process("healer").worker
    worker.drain(collections=[world.name])
    building = world.seen.slots.get("building")
    if building is not None and world.seen.generations[building]["seeded"]:
        with world.place.engine.connect() as connection:
            generation = read_generation(connection, building)
        worker.apply_some(generation, lanes=LANES)


def _compare(world: World) -> None:
    _collect(world)
    for gen in world.seen.slots.values():
        check_vectors(world.oracle, world.seen, gen, world.revision(gen), world.rows(gen))
    if world.seen.active is not None:
        world.query("reader 1", Query("w1x0", 100, "chunk", None), None)


def _collect(world: World) -> None:
    """Let a keeper remove what nobody sees, and once more what arrived late: the store then holds what is shown."""
    for _ in range(3 if world.stored() else 0):
        world.place.clock.wait(LONG_S)
        _must(world, "collect", lambda: _keep(world))
    for gen, index in world.stored().items():
        for found in garbage(index, world.seen.attempts.get(gen, ())):
            raise Broken(found.promise, f"generation {gen}: {found.detail}")


def _keep(world: World) -> None:
    for gen in world.stored():
        with world.place.engine.connect() as connection:
            generation = read_generation(connection, gen)
        StoreKeeper(world.place.engine).look(generation)


def _finish(world: World) -> None:
    """What a killed run left open is finished by the next one."""
    building = world.seen.slots.get("building")
    if building is None:
        return
    revision, migrator = world.revision(building).revision, world.process("healer").migrator()
    waiting = world.seen.pending.items()
    for doc_id in sorted({doc_id for (gen, doc_id), item in waiting if gen == building and not item.waived}):
        with world.place.engine.begin() as connection:
            deadletters.waive(connection, world.cid, [doc_id], actor="healer", why="to finish")
    if "standby" in world.seen.slots:
        _must(world, "retire", lambda: migrator.retire("to finish", now=True))
    if world.seen.generations[building]["phase"] != Phase.APPROVED:
        _must(world, "gate", lambda: migrator.upgrade(revision, to="gate"))
        _must(world, "approve", lambda: migrator.approve("to finish", revision=revision))
    _must(world, "swap", lambda: migrator.run("swap", revision))
    demand(world.seen.active == building, "not finished", "the alias names", world.seen.active, "and not", building)


def _ended_are_dropped(world: World) -> None:
    """Nothing is left of generations that left their slots."""

    def retire() -> None:
        try:
            world.process("healer").migrator().retire_due()
        except RevectorError as error:  # a clock that jumped
            demand("clock jumped" in str(error), "not finished", str(error))

    world.call("healer", retire)
    world.judge()
    for gen, generation in world.seen.generations.items():
        if not generation["live"]:
            left = [key for key in (*world.seen.ledger, *world.seen.pending) if key[0] == gen]
            demand(generation["dropped"] and not left, "not finished", generation, "is not dropped, or leaves", left)
            row = world.place.database.execute("SELECT to_regclass(%s)", (generation["table"],)).fetchone()
            demand(row == (None,), "not finished", "the table of", generation, "is still there")
            index = world.index(gen)
            gone = index is None or index.describe() is None
            demand(gone, "not finished", "the index of", generation, "is still in the store")
