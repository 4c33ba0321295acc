"""Metadata filters: a small mapping, compiled to SQL over ``document.meta``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from revector.errors import ConfigError

_RANGE = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def compile_filter(where: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return SQL (over ``d.meta``) and its parameters for conditions that must all hold.

    ``{"lang": "en"}`` is equality, ``{"lang": ["en", "de"]}`` one of, ``{"year": {"gte": 2020, "lt": 2024}}`` a range
    over numbers or strings (ISO dates order as strings). Raises ``ConfigError`` for anything else.
    """
    if where is not None and not isinstance(where, Mapping):
        raise ConfigError(f"a filter is a mapping of metadata fields, found {where!r}. Nothing was searched.")
    clauses: list[str] = []
    params: dict[str, Any] = {}
    for field, wanted in (where or {}).items():
        if not field or not isinstance(field, str):
            raise ConfigError(f"a filter names metadata fields, found {field!r}. Nothing was searched.")
        if isinstance(wanted, Mapping):
            clauses += _range(field, wanted, params)
            continue
        key = f"w{len(params)}"
        if isinstance(wanted, list | tuple):
            if not wanted:
                raise ConfigError(
                    f"filter {field!r}: 'one of' needs at least one value, found an empty list. Nothing was searched."
                )
            params[key] = [_json(field, {field: value}) for value in wanted]
            clauses.append(f"d.meta @> ANY(CAST(:{key} AS jsonb[]))")
        else:
            params[key] = _json(field, {field: wanted})
            clauses.append(f"d.meta @> CAST(:{key} AS jsonb)")
    return " AND ".join(clauses), params


def _range(field: str, bounds: Mapping[str, Any], params: dict[str, Any]) -> list[str]:
    wrong = {name: bound for name, bound in bounds.items() if name not in _RANGE or not _orders(bound)}
    if wrong or not bounds:
        raise ConfigError(
            f"filter {field!r}: a range takes {', '.join(_RANGE)} with a number or string, found {wrong or bounds!r}. "
            "Nothing was searched."
        )
    clauses = []
    for name, bound in bounds.items():
        key, path = f"w{len(params)}", f"w{len(params)}_field"
        _json(field, field)
        params |= {key: _json(field, bound), path: field}
        value = f"d.meta -> CAST(:{path} AS text)"
        same_type = f"jsonb_typeof({value}) = jsonb_typeof(CAST(:{key} AS jsonb))"
        clauses.append(f"({same_type} AND {value} {_RANGE[name]} CAST(:{key} AS jsonb))")
    return clauses


def _orders(bound: object) -> bool:
    return isinstance(bound, int | float | str) and not isinstance(bound, bool)


def _json(field: str, value: object) -> str:
    """Return ``value`` as JSON that PostgreSQL takes. Raises ``ConfigError`` for what it cannot hold."""
    try:
        found = json.dumps(value, allow_nan=False, ensure_ascii=False)
        found.encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"filter {field!r}: values must be plain JSON: {error}. Nothing was searched.") from error
    if "\\u0000" in found:
        raise ConfigError(f"filter {field!r}: no metadata holds a NUL character. Nothing was searched.")
    return found
