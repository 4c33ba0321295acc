"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from copies import Databases
from stages import Stages
from worlds import World


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory, databases: Databases, stages: Stages) -> Iterator[World]:
    """One system for all kinds of damage: each is fixed before the next, or it fails."""
    name = databases.create(stages["served"])
    made = World(tmp_path_factory.mktemp("fixed"), databases.url(name))
    yield made
    made.engine.dispose()
    databases.drop(name)
