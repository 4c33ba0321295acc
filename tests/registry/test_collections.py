"""A collection has a name that an index can carry, and is of this protocol or not touched."""

from __future__ import annotations

import pytest

from revector.errors import ConfigError
from revector.registry.collections import PROTOCOL_VERSION, ensure_collection, read_collection
from worlds import World


def test_a_name_that_cannot_be_one_is_refused(world: World) -> None:
    with world.engine.begin() as connection:
        for name in ("a", "a" * 31, "a_1", "docs2", "a_"):
            assert ensure_collection(connection, name).name == name
        for name in ("", "1a", "_a", "A", "aB", "a-b", "a b", "a" * 32, "é", "aé", "a²"):
            with pytest.raises(ConfigError, match="a name is 1 to 31 of"):
                ensure_collection(connection, name)


@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
def test_a_collection_of_another_protocol_is_refused(world: World, version: int) -> None:
    world.sql(f"UPDATE collection SET protocol_version = {version}")
    with world.engine.connect() as connection, pytest.raises(ConfigError, match=f"follows protocol {version}"):
        read_collection(connection, "docs")
