"""Libraries of our extras in tests: imported when a test first uses them, so that collecting the tests stays quick."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


def needs(*libraries: str) -> None:
    """Skip the module that calls this where a library is not installed."""
    for name in libraries:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)


class Lazy:
    """A module that is imported at the first look at one of its names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name == "is_hypothesis_test" or name.startswith("_"):  # asked of everything in a file of tests
            raise AttributeError(name)
        return getattr(import_module(self._name), name)
