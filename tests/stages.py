"""Databases in the middle of a migration, made once and copied for each test that begins there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from copies import Databases
from revector.lifecycle import FORWARD
from worlds import World

STEPS = ("new", "served", *FORWARD[1:])

AtStep = Callable[[str], World]
"""Makes a world that stands at one of ``STEPS``."""


class Stages:
    """Databases to copy, made when first asked for: a new world, ``served``, each step of the migration to b200."""

    def __init__(self, databases: Databases, template: str, folders: pytest.TempPathFactory) -> None:
        self._databases, self._template, self._folders = databases, template, folders
        self._made: dict[str, str] = {}

    def __getitem__(self, step: str) -> str:
        """The template after ``step`` of the migration to b200; "served" is before it, "new" before any document."""
        if step not in self._made:
            number = STEPS.index(step)
            name = self._databases.create(self[STEPS[number - 1]] if number else self._template)
            world = World(self._folders.mktemp("stage"), self._databases.url(name), init=step == "new")
            if step == "served":
                world.put(120)
                world.upgrade("a100")
            elif step != "new":
                world.upgrade("b200", to=step)
            world.engine.dispose()
            self._made[step] = name
        return self._made[step]
