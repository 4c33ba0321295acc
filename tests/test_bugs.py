"""The seeded bugs: each can be planted, changes what it says, and leaves nothing behind."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from evaluation.reliability.bugs import BUGS, plant
from evaluation.reliability.hunt import hunt_bug

from worlds import World

FUNCTIONS = (
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'revector'::regnamespace AND prokind = 'f' "
    "ORDER BY oid"
)


def functions(world: World) -> list[str]:
    return [row[0] for row in world.sql(FUNCTIONS)]


def test_there_are_the_32_bugs_of_the_catalogue() -> None:
    assert len(BUGS) == 32


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.test])
def test_a_bug_is_named_by_the_fast_test_that_catches_it(
    name: str, server: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVECTOR_TEST_DATABASE_URL", server.render_as_string(hide_password=False))
    assert hunt_bug(name, seed=0, effort=1).caught_by == "test"


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if "L0" not in bug.layers[:1]])
def test_a_planted_bug_leaves_nothing_behind(name: str, served: World) -> None:
    before = functions(served)
    with plant(name, served.engine):
        pass
    assert functions(served) == before
    assert served.value("SELECT count(*) FROM pg_trigger WHERE tgname = 'c_tombstones'") == 1
    served.put(3, start=200)
    served.settle()
    assert served.differences(served.generation()) == []


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.sql and "gate" not in name])
def test_a_rewritten_statement_is_one_that_the_library_executes(name: str, swapped: World) -> None:
    seen: list[str] = []
    sa.event.listen(swapped.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    swapped.put(3)
    swapped.documents.delete("d00001")
    swapped.settle()
    swapped.search("apple1")
    for pattern, _ in BUGS[name].sql:
        assert any(re.search(pattern, statement) for statement in seen), pattern
