"""Rules of a store and of what looks after it: requests that arrive, points that are lost, and the collector."""

from __future__ import annotations

from evaluation.reliability.points import lose
from evaluation.reliability.simulated.rules import STORE_RULES, fates, paces, rule
from evaluation.reliability.simulated.rules_processes import HOUR_S, WORKERS, run_worker
from evaluation.reliability.simulated.stage import Fate
from evaluation.reliability.simulated.world import World

from revector.indexing.keeping import StoreKeeper
from revector.registry.collections import read_generation

KEEPERS = ("keeper 1", "keeper 2")
KEEP_FATES = fates("collect.after_doom", "collect.after_remove", "restore.after_page", "outside store put", safe=20)
KEEP_PLACES = paces("collect.after_doom", "collect.after_remove", "restore.after_page", "outside store remove")
PUT_PLACES = ("stage.after_intent", "outside store put", "stage.after_put", "stage.after_put", "worker.after_embed")


@rule(8, KEEPERS, KEEP_PLACES, KEEP_FATES, of=STORE_RULES)
def keep(world: World, name: str, pace: int | str, fate: Fate | None) -> bool:
    """A keeper looks after every live index."""
    stored = list(world.stored())
    if not stored or world.place.stage.place(name):
        return False

    def look() -> None:
        keeper = StoreKeeper(world.place.engine)
        for gen in stored:
            with world.place.engine.connect() as connection:
                generation = read_generation(connection, gen)
            keeper.look(generation)

    world.call(name, look, pace=pace, fate=fate)
    return True


@rule(4, ("active", "active", "standby", "building"), of=STORE_RULES)
def lose_points(world: World, role: str) -> bool:
    """A store loses points that it had acknowledged, the canary among them; a keeper may notice at once."""
    gen = world.seen.slots.get(role)
    index = None if gen is None else world.index(gen)
    if gen is None or index is None or not world.seen.attempts.get(gen):
        return False
    assert world.place.store is not None
    world.place.store.cut()
    lose(index, world.seen.attempts[gen], world.chance)
    world.lost = True
    world.place.tally["losses"] += 1
    return True


@rule(3, (0.3, 1.0), of=STORE_RULES)
def arrive(world: World, share: float) -> bool:
    """Some of the requests that are under way arrive."""
    assert world.place.store is not None
    world.place.store.arrive(share)
    return True


@rule(8, WORKERS, PUT_PLACES, (61.0, 700.0, HOUR_S, HOUR_S, 2 * HOUR_S), (1, 2), of=STORE_RULES)
def race_keeper(world: World, name: str, place: str, seconds: float, looks: int) -> bool:
    """A worker stands near the store, time passes, a keeper looks, perhaps twice, and the worker goes on."""
    if not world.stored() or world.place.stage.place(name) or not run_worker(world, name, place, None):
        return False
    world.judge()
    for _ in range(looks):
        world.place.clock.wait(seconds)
        keep(world, KEEPERS[0], 0, None)
        world.judge()
    if world.place.stage.place(name):
        world.place.stage.resume(name)
    return True


@rule(5, WORKERS, PUT_PLACES, of=STORE_RULES)
def race_loss(world: World, name: str, place: str) -> bool:
    """A worker stands near the store, the store loses points, a keeper notices, and the worker goes on."""
    if world.place.stage.place(name) or not world.stored() or not run_worker(world, name, place, None):
        return False
    world.judge()
    lose_points(world, "active")
    world.judge()
    keep(world, KEEPERS[0], 0, None)
    world.judge()
    if world.place.stage.place(name):
        world.place.stage.resume(name)
    return True
