"""A new metadata field on all documents that lack it, a value or an expression over the document, embedding nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from revector.documents.ingesting import BATCH_ROWS
from revector.errors import ConfigError
from revector.interfaces import NoProgress, Progress
from revector.registry.control import add_event
from revector.upkeep import metadata_rows

LONGEST_FIELD = 200
"""Characters of a field's name."""


@dataclass(frozen=True, slots=True)
class FieldReport:
    """What one run did, in documents: ``filled``, and ``without``: those for which nothing could be given.

    ``more``: the limit was reached, the next run goes on.
    """

    collection: str
    field: str
    filled: int
    without: int
    more: bool


def fill_field(
    engine: sa.Engine,
    cid: int,
    collection: str,
    field: str,
    *,
    actor: str,
    value: object = None,
    path: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> FieldReport:
    """Give every document that lacks the metadata ``field`` what ``path`` finds in it, else ``value``.

    ``path`` is a JSONPath of PostgreSQL over ``{"id": …, "text": …, "meta": {…}}``, such as ``$.meta.tags.size()``; its
    first result counts. ``value``: any JSON but null. Each update is a write like a user's: it meets a document as it
    was seen or not at all, and every live index follows; texts stay, so nothing is embedded. What has the field, also
    as null, is left alone. At most ``limit`` documents are filled. A run that was killed is simply repeated. Raises
    ``ConfigError`` for a bad name, path, value or limit; nothing was changed then.
    """
    progress, default = progress or NoProgress(), _checked(engine, field, value, path, limit)
    filled, without, after = 0, 0, ""
    progress.start(f"set {field}")
    while limit is None or filled < limit:
        rows = BATCH_ROWS if limit is None else min(BATCH_ROWS, limit - filled)
        with engine.connect() as connection:
            page = metadata_rows.lacking(connection, cid, field, path=path, value=default, after=after, rows=rows)
        if not page:
            break
        found = [one for one in page if one.value is not None]
        done = metadata_rows.set_field(engine, cid, field, found) if found else 0
        filled += done
        progress.advance(done)
        if done == len(found):  # else someone was faster: the page is looked at again
            after, without = page[-1].doc_id, without + len(page) - len(found)
    else:
        with engine.connect() as connection:
            page = metadata_rows.lacking(connection, cid, field, path=path, value=default, after=after, rows=1)
    progress.done()
    report = FieldReport(collection, field, filled, without, bool(page))
    with engine.begin() as connection:
        facts = {"value": value, "path": path, "filled": filled, "without": without, "more": report.more}
        add_event(connection, cid, actor, "field", None, {"field": field, **facts})
    return report


def _checked(engine: sa.Engine, field: str, value: object, path: str | None, limit: int | None) -> str | None:
    """Return ``value`` as JSON; raise ``ConfigError`` for what cannot be done."""
    if not 0 < len(field) <= LONGEST_FIELD or field != field.strip() or "\0" in field:
        raise ConfigError(
            f"metadata field {field!r}: a name has 1 to {LONGEST_FIELD} characters and no space around it. Nothing was "
            "changed; name another."
        )
    if value is None and not path:
        raise ConfigError(f"metadata field {field!r} needs a value or a path to take it from. Nothing was changed.")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be 1 or more, found {limit}. Nothing was changed.")
    try:
        text = None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)
        (text or "").encode()  # half of a surrogate pair cannot be stored
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the value of metadata field {field!r} is no plain JSON: {error}. Nothing was changed."
        ) from error
    if "\\u0000" in (text or ""):
        raise ConfigError(
            f"the value of metadata field {field!r} holds a NUL character. Nothing was changed; remove it."
        )
    if path:
        with engine.connect() as connection:
            why = metadata_rows.is_path(connection, path)
        if why is not None:
            raise ConfigError(
                f"the path of metadata field {field!r} is no JSONPath: {why}. Nothing was changed; write one over id, "
                "text and meta, such as $.meta.language."
            )
    return text
