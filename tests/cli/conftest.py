"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from commands import Cli, Ended

from revector.cli import run
from worlds import World


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: str) -> Ended:
        code = run(words)
        seen = capsys.readouterr()
        return Ended(code, seen.out, seen.err)

    return call


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], World]:
    def go(world: World) -> World:
        monkeypatch.chdir(world.root)
        return world

    return go
