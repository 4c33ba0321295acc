"""A pytest plugin that plants the seeded bug named by $REVECTOR_PLANT for a whole run: its tests must then fail.

    REVECTOR_PLANT=chunks_reversed python -m pytest -p evaluation.reliability.planted tests/indexing/test_publish.py

Bugs that change functions of the database cannot be planted so, for there is no database yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from evaluation.reliability.bugs import BUGS

from revector.guards import instead


@pytest.fixture(autouse=True)
def _planted() -> Iterator[None]:
    bug = BUGS[os.environ["REVECTOR_PLANT"]]
    if bug.functions or bug.statements or not (bug.patch or bug.guards):
        pytest.fail("a bug of the database's functions, or of the model alone, cannot be planted in tests")
    with instead(bug.guards), bug.patch() if bug.patch else nullcontext():
        yield
