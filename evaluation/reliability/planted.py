"""A pytest plugin that plants the seeded bug named by $REVECTOR_PLANT for a whole run: its tests must then fail.

    REVECTOR_PLANT=chunks_reversed python -m pytest -p evaluation.reliability.planted tests/indexing/test_publish.py

Only bugs that are Python can be planted so, for there is no database yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from evaluation.reliability.bugs import BUGS


@pytest.fixture(autouse=True)
def _planted() -> Iterator[None]:
    patch = BUGS[os.environ["REVECTOR_PLANT"]].patch
    if patch is None:
        pytest.fail("only a bug that is a patch of Python can be planted in tests")
    with patch():
        yield
