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
    clauses: list[str] = []
    params: dict[str, Any] = {}
    for field, wanted in (where or {}).items():
        if not field or not isinstance(field, str):
            raise ConfigError(f"a filter names metadata fields, found {field!r}. Nothing was searched.")
        if isinstance(wanted, Mapping):
            for name, bound in wanted.items():
                if name not in _RANGE or not isinstance(bound, int | float | str) or isinstance(bound, bool):
                    raise ConfigError(
                        f"filter {field!r}: a range takes {', '.join(_RANGE)} with a number or string, found {name!r}: {bound!r}. Nothing was searched."
                    )
                key, path = f"w{len(params)}", f"w{len(params)}_field"
                params |= {key: json.dumps(bound), path: field}
                value = f"d.meta -> CAST(:{path} AS text)"
                clauses.append(
                    f"(jsonb_typeof({value}) = jsonb_typeof(CAST(:{key} AS jsonb)) AND {value} {_RANGE[name]} CAST(:{key} AS jsonb))"
                )
        elif isinstance(wanted, list | tuple):
            if not wanted:
                raise ConfigError(
                    f"filter {field!r}: 'one of' needs at least one value, found an empty list. Nothing was searched."
                )
            key = f"w{len(params)}"
            params[key] = [json.dumps({field: value}) for value in wanted]
            clauses.append(f"d.meta @> ANY(CAST(:{key} AS jsonb[]))")
        else:
            key = f"w{len(params)}"
            params[key] = json.dumps({field: wanted})
            clauses.append(f"d.meta @> CAST(:{key} AS jsonb)")
    return " AND ".join(clauses), params
