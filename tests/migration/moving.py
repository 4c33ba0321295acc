"""What the tests of `test_moves` and its neighbours share."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from revector.errors import (
    RevectorError,
)
from revector.registry import moves
from revector.registry.control import Control, control, take_lease
from worlds import World

B200 = 'model = ModelSpec(name="hashing:seed2", dim=64)'
HOT = 10
_number = itertools.count()


def refuses(world: World, error: type[RevectorError], what: Callable[[], object], match: str) -> None:
    """The call is refused and leaves every table as it was."""
    before = world.state()
    with pytest.raises(error, match=match):
        what()
    assert world.state() == before


def in_control(world: World, move: Callable[[Control], object]) -> object:
    """Run one bare move of the registry, without what the migrator does before it."""
    token = take_lease(world.engine, world.collection.cid, "tester")
    with control(world.engine, world.collection.cid, actor="tester", token=token) as held:
        return move(held)


def bare_swap(world: World, role: str = "building") -> object:
    generation = world.generation(role)
    return in_control(world, lambda held: moves.swap(held, generation))


def kill(world: World, doc_id: str, role: str = "building") -> None:
    """Change a document, and let its item die in one generation."""
    world.documents.put(doc_id, f"{doc_id} changed {next(_number)}")
    generation = world.generation(role)
    world.settle_without(doc_id)
    world.sql(
        "UPDATE pending SET state = 'dead', last_error = 'poison' WHERE gen = :gen AND doc_id = :doc_id",
        gen=generation.gen,
        doc_id=doc_id,
    )
    world.settle()


def tables(world: World) -> set[str]:
    return {row.tablename for row in world.sql("SELECT tablename FROM pg_tables WHERE tablename LIKE 'idx_%'")}
