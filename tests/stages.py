"""Databases in the middle of a migration, made once and copied for each test that begins there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from copies import Databases
from revector.lifecycle import FORWARD
from worlds import World

STEPS = ("served", *FORWARD[1:])

AtStep = Callable[[str], World]
"""Makes ``served``, with the migration to b200 done up to a step."""


class Stages:
    """Databases to be copied: ``served``, then each step of the migration to b200, made when first asked for."""

    def __init__(self, databases: Databases, template: str, folders: pytest.TempPathFactory) -> None:
        self._databases, self._folders = databases, folders
        self._made = {"served": self._prepare(template, self._serve)}

    @staticmethod
    def _serve(world: World) -> None:
        world.put(120)
        world.upgrade("a100")

    def _prepare(self, template: str, step: Callable[[World], object]) -> str:
        name = self._databases.create(template)
        world = World(self._folders.mktemp("stage"), self._databases.url(name))
        step(world)
        world.engine.dispose()
        return name

    def __getitem__(self, step: str) -> str:
        """The template after ``step`` of the migration to b200; "served" is before it."""
        if step not in self._made:
            before = self[STEPS[STEPS.index(step) - 1]]
            self._made[step] = self._prepare(before, lambda world: world.upgrade("b200", to=step))
        return self._made[step]
