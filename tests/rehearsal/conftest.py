"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from revector import crash


@pytest.fixture
def watched() -> Iterator[Callable[[Callable[[str], None]], None]]:
    def watch(look: Callable[[str], None]) -> None:
        crash.watcher = look

    yield watch
    crash.watcher = None
