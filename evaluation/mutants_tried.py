"""The half of ``mutants`` that runs inside pytest, as its plugin: the tests first as they are, then with each mistake.

Everything is imported and every template of a database made by then, so a mistake costs a fork and the tests that run
its statement, the quickest first. In the fork, the functions of the file get the code of the changed text. What only an
import runs, such as a decorator, cannot be changed so; ``mutants`` tries that in a process of its own.

The files are changed for it, in a copy, so that each statement of a function says that it runs.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import sqlalchemy as sa
from _pytest.runner import runtestprotocol

ASKED = "REVECTOR_TEST_MUTANTS"
"""The variable that names the file of what is asked: see ``mutants.Asked``."""

HANGS_S = 60.0
"""A mutant with which the tests take so many seconds more than three times what they took without it counts as seen."""

seen: set[str] = set()
"""``file:line`` of the statements that the present test has run."""

_ran: dict[str, tuple[float, frozenset[str]]] = {}
_passed: set[str] = set()


def telling(text: str, file: str) -> str:
    """Return the text of a module whose functions add ``file:line`` of a statement to ``seen`` before they run it."""
    tree = ast.parse(text)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        for node in list(ast.walk(function)):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if isinstance(block, list) and not any(_tells(one) for one in block):
                    told = [(ast.parse(f"_seen.add({f'{file}:{one.lineno}'!r})").body[0], one) for one in block]
                    setattr(node, name, [one for pair in told for one in pair])
    at = next(n for n, one in enumerate(tree.body) if isinstance(one, ast.ImportFrom)) + 1  # after `__future__`
    tree.body.insert(at, ast.parse("from evaluation.mutants_tried import seen as _seen").body[0])
    return ast.unparse(tree)


def _tells(statement: ast.stmt) -> bool:
    return ast.unparse(statement).startswith("_seen.add(")


def change(file: str, text: str) -> None:
    """Give the functions of a loaded file the code of another text."""
    path = str(Path(file).resolve())
    made, left = dict[str, CodeType](), [compile(text, path, "exec")]
    while left:
        code = left.pop()
        made[code.co_qualname] = code
        left += [one for one in code.co_consts if isinstance(one, CodeType)]
    for one in [found for found in gc.get_objects() if isinstance(found, FunctionType)]:
        if one.__code__.co_filename == path and one.__code__.co_qualname in made:
            one.__code__ = made[one.__code__.co_qualname]


class Onward:
    """Stands for a test that comes after the last one: what the session holds is kept for it."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[Any]:
        """Return what it needs to be set up."""
        return [self._session]


def fails_with(file: str, text: str, items: Sequence[pytest.Item], timeout_s: float, onward: Any) -> bool:
    """Whether a test fails with a text in the place of a file, in a fork of this process; one that hangs does."""
    child = os.fork()
    if child == 0:
        failed = True
        try:
            os.setsid()
            for engine in [one for one in gc.get_objects() if isinstance(one, sa.Engine)]:
                engine.dispose(close=False)  # its connections are the parent's
            change(file, text)
            failed = any(
                report.failed for item in items for report in runtestprotocol(item, log=False, nextitem=onward)
            )
        finally:
            os._exit(int(failed))
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run the tests without a mistake; if they pass, write down how long they took, and try each mistake."""
    asked, onward = json.loads(Path(os.environ[ASKED]).read_text()), Onward(session)
    ends = tuple(f"[{one}]" for one in asked["without"])
    items = [item for item in session.items if not item.name.endswith(ends)]
    for item, following in zip(items, [*items[1:], onward], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
    with Path(asked["journal"]).open("a", buffering=1) as journal:
        for name, (took_s, lines) in _ran.items():
            if name in _passed:
                journal.write(json.dumps({"test": name, "took_s": took_s, "lines": sorted(lines)}) + "\n")
        for mutant in asked["mutants"]:
            judges = sorted((item for item in items if _runs(item, mutant)), key=lambda item: _ran[item.nodeid][0])
            timeout_s = HANGS_S + 3 * sum(_ran[item.nodeid][0] for item in judges)
            killed = bool(judges) and fails_with(mutant["file"], mutant["text"], judges, timeout_s, onward)
            journal.write(json.dumps({"key": mutant["key"], "killed": killed, "tests": len(judges)}) + "\n")
    session._setupstate.teardown_exact(None)
    return True


def _runs(item: pytest.Item, mutant: dict[str, Any]) -> bool:
    return item.nodeid in _passed and f"{mutant['file']}:{mutant['line']}" in _ran[item.nodeid][1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note what runs for a test, its fixtures with it."""
    seen.clear()
    started = time.monotonic()
    result = yield
    _ran[item.nodeid] = (round(time.monotonic() - started, 3), frozenset(seen))
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell tests that passed from those that are skipped here."""
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid)
