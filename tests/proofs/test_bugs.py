"""The seeded bugs: each can be planted, changes what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa
from evaluation.reliability.bugs import BUGS, plant

from revector import guards
from revector.documents import writing
from revector.indexing.keeping import StoreKeeper
from revector.registry.collections import window_is_over
from worlds import World

TESTS = Path(__file__).parents[1]
FUNCTIONS = (
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'revector'::regnamespace AND prokind = 'f' "
    "ORDER BY oid"
)


def functions(world: World) -> list[str]:
    return [row[0] for row in world.sql(FUNCTIONS)]


def test_there_are_the_35_bugs_of_the_catalogue() -> None:
    assert len(BUGS) == 35


@pytest.mark.slow
def test_a_bug_is_named_by_the_fast_test_that_catches_it(server: sa.URL, tmp_path: Path) -> None:
    """Without the bug they pass: they are tests of this suite."""
    named = {bug.test: name for name, bug in BUGS.items() if bug.test}
    given = {"REVECTOR_TEST_DATABASE_URL": server.render_as_string(hide_password=False), "REVECTOR_PLANT": "own"}
    options = ["-q", "-p", "no:cacheprovider", "-p", "evaluation.reliability.planted", f"--junit-xml={tmp_path}/said"]
    tests = [f"{next(TESTS.rglob(file))}::{function}" for file, _, function in (one.partition("::") for one in named)]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=TESTS.parent, env=os.environ | given, stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    failed = set()
    for case in ET.parse(tmp_path / "said").iter("testcase"):
        assert case.find("error") is None, ET.tostring(case, "unicode")
        if case.find("failure") is not None:
            failed.add(case.get("name", "").partition("[")[0])
    assert {named[one] for one in named if one.partition("::")[2] in failed} == set(named.values())


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


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.functions])
def test_a_bug_of_the_database_replaces_a_function_and_keeps_all_but_its_guard(name: str, served: World) -> None:
    before = functions(served)
    with plant(name, served.engine):
        changed = [(sound, now) for sound, now in zip(before, functions(served), strict=True) if sound != now]
        assert len(changed) == 1
    [(sound, now)] = changed
    kept = [line for line in now.splitlines() if line.strip() in map(str.strip, sound.splitlines())]
    assert len(kept) >= len(now.splitlines()) - 9


def test_a_bug_whose_function_has_changed_is_refused(served: World) -> None:
    [body] = [one for one in functions(served) if "FUNCTION revector.document_before" in one]
    with served.engine.begin() as connection:
        connection.exec_driver_sql(body.replace("BEGIN", "BEGIN -- changed", 1).replace("%", "%%"))
    with (
        pytest.raises(LookupError, match=r"document_before.* is not what mistakes\.sql replaces"),
        plant("no_gate", served.engine),
    ):
        pass


class _Marked(dict[str, str]):
    """Stands for what proofs put in the place of guards: keeps each clause, and marks it in the statement."""

    def get(self, name: str, clause: str) -> str:
        return f"{clause} /* {name} */"


def test_every_guard_is_in_statements_that_the_library_executes(
    swapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "_instead", _Marked())
    seen: list[str] = []
    sa.event.listen(swapped.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    swapped.put(3)
    swapped.documents.delete("d00001")
    with swapped.engine.begin() as connection:
        writing.hold_shared(connection, swapped.collection.cid)
        window_is_over(connection, swapped.collection.cid)
    swapped.settle()
    swapped.search("apple1")
    swapped.migrator.run("retire", reason="to make room", now=True)
    body = 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(kind="exact", store="memory")'
    swapped.revision("c300", "b200", *body, "gate = Gate(max_drop=1.0, min_overlap=None)")
    swapped.upgrade("c300")
    swapped.search("apple1")
    StoreKeeper(swapped.engine).look(swapped.generation())
    assert {name for statement in seen for name in re.findall(r"/\* ([a-z_.]+) \*/", statement)} == set(guards.GUARDS)


def test_a_guard_that_is_in_no_code_cannot_be_taken_away() -> None:
    with pytest.raises(KeyError, match=r"no guard is called publish\.nothing; there are write\.gate"):
        guards.instead({"publish.nothing": "true"}).__enter__()


def test_every_guard_is_taken_away_by_a_bug() -> None:
    assert {name for bug in BUGS.values() for name in bug.guards} == set(guards.GUARDS)
