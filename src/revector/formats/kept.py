"""Owns data that is kept, shown and sent as JSON: models that keep what they were given, and frozen objects as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Kept(BaseModel):
    """Data that keeps what it was given, also what this version does not know; what was not given is not sent."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_data(self) -> dict[str, object]:
        """Return what was given as plain JSON data."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: plain(value) for name, value in (given | (self.model_extra or {})).items()}


def plain(value: object) -> object:
    """Return frozen data as JSON knows it: objects by field name, tuples as lists, words of an enumeration as text."""
    if isinstance(value, Kept):
        return value.as_data()
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value
