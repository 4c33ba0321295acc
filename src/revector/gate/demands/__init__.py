"""Owns the table of what a gate can demand: one file for each demand, found by being here.

Such a file is named as its field of ``spec.Gate`` and holds its row as ``DEMAND``.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules

from revector.gate.demand import Demand
from revector.spec import Gate


def _row(name: str) -> Demand:
    row: Demand = import_module(f"{__name__}.{name}").DEMAND
    return row


_FILES = {module.name for module in iter_modules(__path__)}

DEMANDS: tuple[Demand, ...] = tuple(_row(one.name) for one in fields(Gate) if one.name in _FILES)
"""In the order of the fields of ``Gate``, in which they are judged, said and shown."""
