"""Rules of workers, migrations, people and the world around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.reliability.beginnings import Unmeasured
from evaluation.reliability.simulated.encoders import FAULTS
from evaluation.reliability.simulated.look import demand
from evaluation.reliability.simulated.place import PARTS
from evaluation.reliability.simulated.rules import fates, paces, rule
from evaluation.reliability.simulated.rules_documents import DOCS, IDS, SESSIONS, delete, put, query
from evaluation.reliability.simulated.stage import Fate
from evaluation.reliability.simulated.world import World

from revector.documents import deadletters
from revector.indexing.worker import BACK_OFF_S, DATABASE_ERRORS
from revector.lifecycle import FORWARD, Outcome, Phase, remaining
from revector.migration.migrator import Migrator
from revector.registry.collections import read_generation

WORK_FATES = fates("worker.after_claim", "worker.after_embed", "publish.after_rows", "publish.after_commit")
WORK_PLACES = paces("worker.after_claim", "worker.after_read", "worker.after_embed", "worker.after_embed")
SHARD_PLACES = paces("shard.after_count", "shard.after_rename", "shard.after_manifest", "publish.after_commit")
SHARD_FATES = (
    *fates("seed.after_items", "seed.after_cursor", "shard.after_count", "publish.after_commit", safe=20),
    *(Fate("lost", "seed.after_items"),) * 3,
    Fate("kill", "shard.after_manifest"),
)
STEP_FATES = fates(
    "lease.after_commit", "control.after_gate", "control.after_move", "control.before_commit", "control.after_commit"
)
STEP_PLACES = paces(
    "lease.after_commit", "lease.after_commit", "evidence.after_measure", "outside sleep", "seed.after_commit"
)
WORKERS = ("worker 1", "worker 2", "worker 3")
CONTROLLERS = ("controller 1", "controller 2")
HOUR_S = 3_600.0
NEW = ("b200", "b200", "b200", "c300", "c300", "d400")
BACK = ("rollback", "force", "retire", "now")
STEPS = (*("next",) * 16, *FORWARD[1:], "swap", "rollback", "rollback", *BACK, *BACK, "due", "abort", "all")

MOVES = ("next", "next", "swap", "all", *BACK, *BACK, "abort")


# Workers --------------------------------------------------------------------------------------------------------------


@rule(16, WORKERS, WORK_PLACES, WORK_FATES)
def run_worker(world: World, name: str, pace: int | str, fate: Fate | None) -> bool:
    """One look of a worker, and one batch of each live generation; a database that is gone is waited for."""
    if world.place.stage.place(name):
        return False
    worker = world.process(name).worker

    def look() -> None:
        try:
            worker._watch.clock()
            worker._watch.load()
            worker.drain(collections=[world.name])
        except DATABASE_ERRORS:
            world.place.clock.sleep(BACK_OFF_S)

    world.call(name, look, pace=pace, fate=fate)
    return True


@rule(5, WORKERS, DOCS, ("active", "standby", "building"), WORK_PLACES, WORK_FATES)
def apply_unasked(world: World, name: str, doc_id: str, role: str, pace: int | str, fate: Fate | None) -> bool:
    """A worker brings a document up to date that it has no lease for, or no longer."""
    if world.place.stage.place(name) or role not in world.seen.slots:
        return False
    gen = world.seen.slots[role]

    def apply() -> None:
        with world.place.engine.connect() as connection:
            generation = read_generation(connection, gen)
        world.process(name).worker.applier(generation).apply([doc_id])

    world.call(name, apply, pace=pace, fate=fate)
    return True


@rule(10, WORKERS, (0, 1), SHARD_PLACES, SHARD_FATES)
def run_shard(world: World, name: str, shard: int, pace: int | str, fate: Fate | None) -> bool:
    """A task embeds one shard of the open migration; several may be at the same one."""
    building = world.seen.slots.get("building")
    if (
        building is None
        or world.seen.generations[building]["phase"] != Phase.PROVISIONED
        or world.place.stage.place(name)
    ):
        return False
    revision = world.revision(building).revision
    world.call(name, lambda: world.process(name).migrator().embed_shard(revision, shard), pace=pace, fate=fate)
    return True


@rule(6, DOCS, (3, 12), (False, True), range(1, 13))
def race_workers(world: World, doc_id: str, words: int, deletes: bool, pace: int) -> bool:
    """A worker stands somewhere, the document changes, another worker begins on it, and the first goes on."""
    one, other = WORKERS[:2]
    if world.place.stage.place(one) or not run_worker(world, one, pace, None):
        return False
    world.judge()
    delete(world, doc_id, None) if deletes else put(world, doc_id, words, "en", "", None)
    world.judge()
    run_worker(world, other, "worker.after_claim", None)
    world.judge()
    if world.place.stage.place(one):
        world.place.stage.resume(one)
    return True


# Migrations -----------------------------------------------------------------------------------------------------------


@rule(14, CONTROLLERS, STEPS, NEW, (False, False, False, True), STEP_PLACES, STEP_FATES)
def run_step(world: World, name: str, what: str, new: str, approval: bool, pace: int | str, fate: Fate | None) -> bool:
    """A run takes a step of the migration, or a person does."""
    if world.place.stage.place(name) or (what in BACK and "standby" not in world.seen.slots):
        return False
    revision, step = _what_next(world, new) if what == "next" else (_revision(world, new), what)
    target = world.place.revisions[revision]
    if step in ("provision", "all") and world.place.models.is_untold(target.model.name):
        return False
    if target.index.kind == "hnsw":
        if world.place.stage.place("foreign"):  # a concurrent build waits for all older snapshots
            return False
        world.builds_hnsw = True
    options = {"approval": approval} if step == "provision" else {"reason": "seen"} if step == "approve" else {}

    def call() -> Any:
        return _call(world.process(name).migrator(), step, revision, options)

    def done(outcome: Outcome) -> None:
        kind = "rollback" if step == "force" else step
        if kind in ("provision", "swap", "rollback") and outcome.changed:
            world.acknowledged(kind, name)

    world.call(name, call, done, pace=pace, fate=fate, may_raise=(RuntimeError,))
    return True


def _call(migrator: Migrator, step: str, revision: str, options: dict[str, Any]) -> Any:
    match step:
        case "rollback" | "force":
            return migrator.rollback("a rule says so", force=step == "force")
        case "retire" | "now":
            return migrator.retire("a rule says so", now=step == "now")
        case "due":
            return migrator.retire_due()
        case "abort":
            return migrator.abort("a rule says so")
        case "all":
            return migrator.upgrade(revision)[-1]
    return migrator.run(step, revision, **options)


def _revision(world: World, new: str) -> str:
    building = world.seen.slots.get("building")
    return new if building is None else str(world.revision(building).revision)


def _what_next(world: World, new: str) -> tuple[str, str]:
    building, active = world.seen.slots.get("building"), world.seen.active
    if building is not None:
        left = remaining(Phase(world.seen.generations[building]["phase"]))
        return world.revision(building).revision, left[0].name
    if active is None:
        return "a100", "provision"
    standby = world.seen.slots.get("standby")
    if standby is not None and world.seen.generations[standby]["phase"] == Phase.ROLLED_BACK:
        return world.revision(standby).revision, "swap"
    later = [one for one in PARTS if one > world.revision(active).revision]
    return (new if new in later else later[0] if later else new), "provision"


@rule(8, MOVES, MOVES, NEW, range(1, 9))
def race_steps(world: World, first: str, second: str, new: str, pace: int) -> bool:
    """A run stands somewhere in a step, another one takes a step, and the first goes on."""
    one, other = CONTROLLERS
    if world.place.stage.place(one) or not run_step(world, one, first, new, False, pace, None):
        return False
    world.judge()
    run_step(world, other, second, new, False, 0, None)
    world.judge()
    if world.place.stage.place(one):
        world.place.stage.resume(one)
    return True


@rule(5, SESSIONS, ("next", *BACK, "swap"), NEW, DOCS)
def race_query(world: World, session: str, step: str, new: str, about: str) -> bool:
    """A query is being encoded, a run takes a step, and the query goes on."""
    if world.place.stage.place(session) or world.seen.active is None:
        return False
    query(world, session, None, "chunk", 100, None, about, "outside encode query")
    world.judge()
    run_step(world, CONTROLLERS[0], step, new, False, 0, None)
    world.judge()
    if world.place.stage.place(session):
        world.place.stage.resume(session)
    return True


@rule(1, CONTROLLERS, FORWARD)
def run_edited(world: World, name: str, step: str) -> bool:
    """Someone runs a step of a migration whose file was edited since: refused, and nothing changes."""
    building = world.seen.slots.get("building")
    if building is None or world.place.stage.place(name):
        return False
    revision = world.revision(building).revision

    def call() -> Outcome:
        edited = world.place.migrator(world.name, name, world.process(name).encoders, edited=True)
        return edited.run(step, revision)

    def done(outcome: Outcome) -> None:
        demand(False, "identity", step, "of an edited file was taken:", outcome)

    world.call(name, call, done)
    return True


# People ---------------------------------------------------------------------------------------------------------------


@rule(8, (None, None, *IDS))
def retry_dead(world: World, doc_id: str | None) -> bool:
    """A person asks for dead letters to be tried again."""
    if not any(item.state == "dead" for item in world.seen.pending.values()):
        return False

    def retry() -> int:
        with world.place.engine.begin() as connection:
            return deadletters.retry_dead(connection, world.cid, None if doc_id is None else [doc_id], "a person")

    world.call("person", retry)
    return True


@rule(12, IDS)
def waive(world: World, doc_id: str) -> bool:
    """A person accepts a dead letter."""
    if not any(key[1] == doc_id and item.state == "dead" for key, item in world.seen.pending.items()):
        return False

    def accept() -> deadletters.WaivedLetters:
        with world.place.engine.begin() as connection:
            return deadletters.waive(connection, world.cid, [doc_id], actor="a person", why="a rule says so")

    world.call("person", accept)
    return True


# The world around -----------------------------------------------------------------------------------------------------


@rule(16, (0, 1, 2, 3), paces(), WORK_FATES)
def go_on(world: World, which: int, pace: int | str, fate: Fate | None) -> bool:
    """A call that stands somewhere goes on."""
    standing = world.place.stage.standing
    if not standing:
        return False
    world.place.stage.resume(standing[which % len(standing)], pace, fate)
    return True


@rule(2, (0, 1, 2, 3))
def kill(world: World, which: int) -> bool:
    """A process is killed where it stands."""
    standing = world.place.stage.standing
    if not standing:
        return False
    world.place.stage.kill(standing[which % len(standing)])
    return True


@rule(4, (61.0, 700.0, HOUR_S, 23 * HOUR_S, 49 * HOUR_S))
def wait(world: World, seconds: float) -> bool:
    """Time passes: leases, back-offs, evidence and windows end."""
    world.place.clock.wait(seconds)
    return True


@rule(2, (HOUR_S, -HOUR_S, 72 * HOUR_S, -72 * HOUR_S))
def jump_clock(world: World, seconds: float) -> bool:
    """The database's clock jumps."""
    world.place.clock.jump(seconds)
    world.turned_back |= seconds < 0
    return True


@rule(6, ("active", "building", "standby", "b200", "c300"), (*FAULTS, None, None))
def break_encoder(world: World, of: str, fault: str | None) -> bool:
    """The model server of a live generation, or of a revision to come, begins to fail or is fixed."""
    revision = world.place.revisions.get(of)
    if revision is None:
        if of not in world.seen.slots:
            return False
        revision = world.revision(world.seen.slots[of])
    faults, model = world.place.models.faults, revision.model.name
    if faults.get(model) == fault or (of in world.place.revisions and fault == "reversed"):
        return False
    faults.pop(model, None)
    if fault is not None:
        faults[model] = fault
    return True


@rule(1, tuple(PARTS)[:3])
def replace_model(world: World, revision: str) -> bool:
    """Another model lies under a model's name, or the old one again; all processes start again with what is there."""
    world.place.models.replaced ^= {world.place.revisions[revision].model.name}
    world.restart_all()
    return True


@rule(1, (False, True))
def set_gate(_: World, passes: bool) -> bool:
    """The gate would be passed, or failed, from now on."""
    changes = Unmeasured.passes != passes
    Unmeasured.passes = passes
    return changes


@rule(5, (0, 1), ("changed", "changed", "short", "gone"))
def damage_part(world: World, shard: int, how: str) -> bool:
    """A sealed part that nobody has published yet, for its task was killed, is changed, torn or lost."""
    import h5py

    if not world.sealed_parts():
        run_shard(world, WORKERS[2], shard, 0, Fate("kill", "shard.after_manifest"))
        world.judge()
    paths = [path for path in map(Path, world.sealed_parts()) if path.exists()]
    if not paths:
        return False
    if how == "changed":
        try:
            with h5py.File(paths[0], "r+") as file:
                file["embeddings"][0, 0] += 1.0
        except OSError:  # torn already
            return False
    elif how == "short":
        paths[0].write_bytes(paths[0].read_bytes()[:-100])
    else:
        paths[0].unlink()
    return True
