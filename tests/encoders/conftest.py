"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from providers import HASHING, FakeClock, Made

from revector.encoders.api.fake import (
    FakeServer,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    HASHING.tokenizer.save(str(file))
    return file


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def made(fake: FakeServer, clock: FakeClock, tokenizer: Path) -> Made:
    return Made(fake, clock, tokenizer)
