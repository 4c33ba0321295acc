"""Fixtures of the tests in this folder."""

from __future__ import annotations

import pytest

from worlds import World


@pytest.fixture
def approved(served: World) -> World:
    """Revision b200 measured and approved; only the swap is left."""
    served.upgrade("b200", to="approve")
    return served
