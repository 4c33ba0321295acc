"""Metadata filters: a small mapping, compiled to SQL over ``document.meta``, and why one found nothing.

Conditions are JSONPath in lax mode: where a list stands, each of its elements is looked at, also on the way of a dotted
path, and values of another type than the wanted one never match. Equality is answered by the GIN index on ``meta``.
Texts are compared by code point; those that name a moment (``revector.values``), as moments, whatever their spelling.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from revector.errors import ConfigError
from revector.formats.values import DATE, NAIVE, ZONED, castable, days_around, is_date, is_moment, plain

_RANGE = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

LOOKED_AT = 20_000
"""Documents looked at, times paths, to say why a filter found nothing: a tenth of a second."""

MANY = 64
"""Values of one condition that the index answers; more are looked up row by row."""

_TYPES = {"string": "text", "number": "numbers", "boolean": "true or false", "null": "null"}
_HELD = {**_TYPES, "object": "objects", "array": "empty lists"}

_TEXT = "(e.value #>> '{}')"
_MOMENT = (
    f"CASE WHEN {_TEXT} ~ :zoned THEN CAST({_TEXT} AS timestamptz) "
    f"WHEN {_TEXT} ~ :naive THEN CAST({_TEXT} || 'Z' AS timestamptz) END"
)
_DAY = f"CASE WHEN {_TEXT} ~ :date THEN CAST({_TEXT} || 'T00:00Z' AS timestamptz) END"
_PATTERNS = {"zoned": f"^{ZONED}$", "naive": f"^{NAIVE}$", "date": f"^{DATE}$"}


def compile_filter(where: Mapping[str, object] | None) -> tuple[str, dict[str, object]]:
    """Return SQL (over ``d.meta``) and its parameters for conditions that must all hold.

    ``{"lang": "en"}`` is equality, ``{"lang": ["en", "de"]}`` one of, ``{"year": {"gte": 2020, "lt": 2024}}`` a range
    over numbers or text. A field is a key as it stands or, with dots, a path into objects; where it holds a list, one
    element must meet the condition. Raises ``ConfigError`` for anything else.
    """
    clauses: list[str] = []
    params = _Params()
    for name, wanted in _fields(where):
        clauses.append(_range(name, wanted, params) if isinstance(wanted, Mapping) else _one_of(name, wanted, params))
    return " AND ".join(clauses), params.values


def why_nothing(connection: sa.Connection, cid: int, where: Mapping[str, object] | None) -> tuple[str, ...]:
    """Return a sentence for each field of a filter that no document has, or has only with values of other types.

    Looks at few enough documents to stay quick, and says at how many where those are not all.
    """
    asked = dict(_fields(where))
    paths = [(name, path) for name in asked for path in _paths(name)]
    if not paths:
        return ()
    rows = connection.execute(
        sa.text(
            "WITH looked AS MATERIALIZED (SELECT d.meta FROM document d WHERE d.cid = :cid AND NOT d.deleted LIMIT :n) "
            "SELECT (SELECT count(*) FROM looked) AS documents, CAST(NULL AS bigint) AS place, '' AS type UNION ALL "
            "SELECT DISTINCT 0, p.place, jsonb_typeof(v.value) FROM looked l, "
            "unnest(CAST(:paths AS text[])) WITH ORDINALITY p(path, place), "
            "LATERAL (SELECT jsonb_path_query(l.meta, CAST(p.path AS jsonpath)) AS value "
            "UNION ALL SELECT jsonb_path_query(l.meta, CAST(p.path || '[*]' AS jsonpath))) v"
        ),
        {"cid": cid, "n": LOOKED_AT // len(paths), "paths": [path for _, path in paths]},
    ).all()
    looked = next(row.documents for row in rows if row.place is None)
    if not looked:
        return ()
    held: dict[str, set[str]] = {name: set() for name in asked}
    for row in rows:
        if row.place is not None:
            held[paths[row.place - 1][0]].add(row.type)
    whole = "no document" if looked < LOOKED_AT // len(paths) else f"none of {looked:,} documents that were looked at"
    said = (_complaint(name, _wanted_types(asked[name]), held[name], whole) for name in asked)
    return tuple(sentence for sentence in said if sentence)


def _complaint(name: str, wanted: set[str], held: set[str], whole: str) -> str | None:
    if not held:
        return f"filter {name!r}: {whole} has this field."
    found = held - {"array"} or held
    if wanted & found or not wanted:
        return None
    asked = " or ".join(_TYPES[one] for one in sorted(wanted))
    inner = f"; reach into objects with a dot, such as {name + '.name'!r}" if "object" in found else ""
    there = " and ".join(_HELD[one] for one in sorted(found))
    return f"filter {name!r}: the field holds {there}, and the filter asks for {asked}{inner}."


def _wanted_types(wanted: object) -> set[str]:
    values = wanted.values() if isinstance(wanted, Mapping) else _listed(wanted)
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}
    types = {kinds.get(type(plain(value)), "") for value in values}
    return set() if "" in types else types


@dataclass(slots=True)
class _Params:
    """Parameters of one filter, named as they come."""

    values: dict[str, object] = field(default_factory=dict)

    def add(self, value: object, kind: str) -> str:
        """Return SQL for ``value`` as a parameter of the type ``kind``."""
        name = f"w{len(self.values)}"
        self.values[name] = value
        return f"CAST(:{name} AS {kind})"

    def patterns(self, sql: str) -> str:
        """Return ``sql``, whose patterns of moments become parameters."""
        self.values |= {name: pattern for name, pattern in _PATTERNS.items() if f":{name}" in sql}
        return sql


def _fields(where: Mapping[str, object] | None) -> Iterable[tuple[str, object]]:
    if where is not None and not isinstance(where, Mapping):
        raise ConfigError(f"a filter is a mapping of metadata fields, found {where!r}. Nothing was searched.")
    for name, wanted in (where or {}).items():
        if not name or not isinstance(name, str):
            raise ConfigError(f"a filter names metadata fields, found {name!r}. Nothing was searched.")
        _json(name, name)
        yield name, wanted


def _ways(name: str) -> list[list[str]]:
    """Return the keys that lead to a field: it as a key of its own and, with dots, the way through objects."""
    parts = name.split(".")
    return [[name], parts] if len(parts) > 1 and all(parts) else [[name]]


def _path(way: Sequence[str]) -> str:
    return "$" + "".join(f".{json.dumps(key)}" for key in way)


def _paths(name: str) -> list[str]:
    return [_path(way) for way in _ways(name)]


def _one_of(name: str, wanted: object, params: _Params) -> str:
    values = [_checked(name, value) for value in _listed(wanted)]
    if not values:
        raise ConfigError(
            f"filter {name!r}: 'one of' needs at least one value, found an empty list. Nothing was searched."
        )
    paths, clauses = _paths(name), []
    single = [_json(name, value) for value in values if not isinstance(value, dict | list)]
    if len(single) > MANY:
        clauses += [_one_of_many(way, single, params) for way in _ways(name)]
    elif single:
        path = " || ".join(f"{path} == {value}" for path in paths for value in single)
        clauses.append(f"d.meta @@ {params.add(path, 'jsonpath')}")
    inside = [_json(name, {name: value}) for value in values if isinstance(value, dict | list)]
    clauses += [f"d.meta @> {params.add(value, 'jsonb')}" for value in inside]
    if moments := [value for value in values if is_moment(value)]:
        clauses += [_same_moment(path, moments, params) for path in paths]
    return f"({' OR '.join(clauses)})"


def _one_of_many(way: Sequence[str], values: list[str], params: _Params) -> str:
    """Return SQL that looks values up in a hash table: the index would compare each row with each of them."""
    wanted = params.add(_array(values), "jsonb[]")
    found = f"d.meta #> {params.add(list(way), 'text[]')} = ANY({wanted})"
    below = f"jsonb_typeof(d.meta -> {params.add(way[0], 'text')}) IN ('array', 'object')"
    return f"{found} OR {below} AND {_element(_path(way) + '[*]', f'e.value = ANY({wanted})', params)}"


def _array(values: Sequence[str]) -> str:
    """Return a PostgreSQL array of texts, which psycopg would write thirty times as slowly, in Python."""
    return "{" + ",".join('"' + one.replace("\\", r"\\").replace('"', r"\"") + '"' for one in values) + "}"


def _same_moment(path: str, moments: Sequence[str], params: _Params) -> str:
    before, after = zip(*map(days_around, moments), strict=True)
    near = f"{path} ? (@ >= {json.dumps(min(before))} && @ < {json.dumps(max(after))})"
    bounds = params.add([castable(moment) for moment in moments], "timestamptz[]")
    return _element(near, params.patterns(f"{_MOMENT} = ANY({bounds})"), params)


def _range(name: str, bounds: Mapping[str, object], params: _Params) -> str:
    found = {op: _checked(name, bound) for op, bound in bounds.items()}
    wrong = {op: bound for op, bound in found.items() if op not in _RANGE or not _orders(bound)}
    if wrong or not found:
        raise ConfigError(
            f"filter {name!r}: a range takes {', '.join(_RANGE)} with a number or text, found {wrong or found!r}. "
            "Nothing was searched; reach a field inside an object with a dot."
        )
    clauses = []
    for path in _paths(name):
        exact, possible, certain = [], [], []
        for op, bound in found.items():
            sign = _RANGE[op]
            if not (is_moment(bound) or is_date(bound)):
                possible.append(f"@ {sign} {_json(name, bound)}")
                certain.append(possible[-1])
                continue
            before, after = days_around(bound)
            possible.append(f"@ {sign} {json.dumps(before if sign[0] == '>' else after)}")
            certain.append(f"@ {sign} {json.dumps(after if sign[0] == '>' else before)}")
            moment = f"coalesce({_MOMENT}, {_DAY}) {sign} {params.add(castable(bound), 'timestamptz')}"
            exact.append(f"""coalesce({moment}, {_TEXT} COLLATE "C" {sign} {params.add(bound, "text")})""")
        within = "d.meta @? " + params.add(f"{path} ? ({' && '.join(certain)})", "jsonpath")
        if exact:
            condition = params.patterns(" AND ".join(exact))
            near = f"{path} ? ({' && '.join(possible)})"
            within += f" OR {_element(near, condition, params)}"
        clauses.append(within)
    return f"({' OR '.join(clauses)})"


def _element(path: str, condition: str, params: _Params) -> str:
    """Return SQL: whether one of the values at ``path`` meets a condition over ``e.value``."""
    at = params.add(path, "jsonpath")
    return f"d.meta @? {at} AND EXISTS (SELECT FROM jsonb_path_query(d.meta, {at}) AS e(value) WHERE {condition})"


def _listed(wanted: object) -> Sequence[object]:
    return wanted if isinstance(wanted, list | tuple) else [wanted]


def _orders(bound: object) -> bool:
    return isinstance(bound, int | float | str) and not isinstance(bound, bool)


def _checked(name: str, value: object) -> Any:
    """Return ``value`` as JSON data. Raises ``ConfigError`` for what PostgreSQL cannot hold."""
    try:
        found = plain(value)
    except ValueError as error:
        raise ConfigError(f"filter {name!r}: a value {error}. Nothing was searched.") from error
    _json(name, found)
    return found


def _json(name: str, value: object) -> str:
    """Return ``value`` as JSON that PostgreSQL takes. Raises ``ConfigError`` for what it cannot hold."""
    try:
        found = json.dumps(value, allow_nan=False, ensure_ascii=False)
        found.encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"filter {name!r}: values must be plain JSON: {error}. Nothing was searched.") from error
    if "\\u0000" in found:
        raise ConfigError(f"filter {name!r}: no metadata holds a NUL character. Nothing was searched.")
    return found
