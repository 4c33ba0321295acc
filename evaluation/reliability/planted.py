"""A pytest plugin that plants the seeded bug named by $REVECTOR_PLANT for a whole run: its tests must then fail.

    REVECTOR_PLANT=chunks_reversed python -m pytest -p evaluation.reliability.planted tests/indexing/test_publish.py

With ``REVECTOR_PLANT=own``, each test gets the bug that names it. Bugs that change functions of the database cannot be
planted so, for there is no database yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from evaluation.reliability.bugs import BUGS

from revector.guards import instead

OWN = os.environ["REVECTOR_PLANT"] == "own"

_caught: set[str] = set()
"""Tests, without their parameters, that have failed with their own bug: they need not fail once more."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what has caught its bug."""
    if OWN and report.failed:
        _caught.add(report.nodeid.partition("[")[0])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what has caught its bug, with other parameters."""
    if item.nodeid.partition("[")[0] in _caught:
        pytest.skip("it has caught its bug")


@pytest.fixture(autouse=True)
def _planted(request: pytest.FixtureRequest) -> Iterator[None]:
    name = f"{request.node.path.name}::{request.node.originalname}"
    bug = next(one for one in BUGS.values() if one.test == name) if OWN else BUGS[os.environ["REVECTOR_PLANT"]]
    if bug.functions or bug.statements or not (bug.patch or bug.guards):
        pytest.fail("a bug of the database's functions, or of the model alone, cannot be planted in tests")
    with instead(bug.guards), bug.patch() if bug.patch else nullcontext():
        yield
