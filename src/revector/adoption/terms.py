"""Owns what an adoption says: which columns of a table are id, text, metadata and vector, and the SQL they become."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from revector.adoption.nodes import node_text
from revector.errors import ConfigError

Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]

ROW = "revector_row"
"""What a row is called in SQL: a column of that name would be taken for it, so it is none that tables have."""

KEY = "replace(replace(CAST({value} AS text), '%', '%25'), '/', '%2F')"
"""One part of an id of several columns: what separates the parts cannot occur in them, so no two rows share an id."""


class AdoptedTable(BaseModel):
    """The terms of an adoption. Columns are named as the table has them, without quotes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    """Schema and name, as PostgreSQL quotes them: ``public.articles``, ``public."Articles"``.

    Of what is copied, how the place is shown: a file, or a URL without its password and a table.
    """
    id: tuple[Name, ...] = Field(min_length=1)
    """Columns of a unique key. Of one, its value is the document's id; of several, their values joined by ``/``."""
    text: tuple[Name, ...] = Field(min_length=1)
    """Columns whose values, joined by ``separator`` without those that are empty, are the document's text."""
    separator: str = "\n"
    meta: tuple[Name, ...] = ()
    """Columns that become metadata: by their names, and a JSON object by its own keys."""
    where: str | None = None
    """SQL condition; a row that does not meet it is no document."""
    vector: Name | None = None
    """Column of the vectors that are there; None embeds all of the texts."""
    node: Name | None = None
    """JSON column of LlamaIndex's nodes: their metadata stands before the text, as LlamaIndex embeds it."""

    def key(self) -> str:
        """Return the SQL of a document's id, for the row ``ROW``."""
        if len(self.id) == 1:
            return f"CAST({column_of(self.id[0])} AS text)"
        parts = (KEY.format(value=column_of(name)) for name in self.id)
        return f"({' || chr(47) || '.join(parts)})"

    def content(self) -> str:
        """Return the SQL of a document's text: its columns without those that are null or empty."""
        parts = ", ".join(f"nullif(CAST({column_of(name)} AS text), '')" for name in self.text)
        joined = f"concat_ws({literal(self.separator)}, {parts})"
        return joined if self.node is None else node_text(column_of(self.node), joined)

    def metadata(self, json_columns: Sequence[str]) -> str:
        """Return the SQL of a document's metadata; ``json_columns`` are those of type json or jsonb."""
        whole = [f"CAST({column_of(name)} AS jsonb)" for name in self.meta if name in json_columns]
        plain = [f"{literal(name)}, {column_of(name)}" for name in self.meta if name not in json_columns]
        objects = [f"CASE WHEN jsonb_typeof({one}) = 'object' THEN {one} ELSE '{{}}' END" for one in whole]
        if plain:
            objects.append(f"jsonb_build_object({', '.join(plain)})")
        return " || ".join(objects) if objects else "CAST('{}' AS jsonb)"


def column_of(name: str) -> str:
    """Return the SQL of a column of the row ``ROW``."""
    return f"{ROW}.{quoted(name)}"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier. Raises ``ConfigError`` for one that PostgreSQL cannot have."""
    if not name or "\0" in name or ":" in name or len(name.encode()) > 63:
        raise ConfigError(
            f"{name[:80]!r} cannot be used as a name: 1 to 63 bytes without a colon are allowed. Nothing was changed."
        )
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal that no setting of the server reads otherwise."""
    if "\0" in text:
        raise ConfigError(f"{text[:80]!r} holds a NUL character, which PostgreSQL cannot store. Nothing was changed.")
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
    return f" E'{escaped}'" if "\\" in escaped else f"'{escaped}'"


_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')


def parts_of(table: str) -> list[str]:
    """Return the parts of a name such as ``public."My table"``, folded to lower case where they are not quoted.

    Raises ``ConfigError`` for a name in another database, and for one that cannot be read.
    """
    found = _PART.findall(table)
    if ".".join(found) != table.strip() or not 1 <= len(found) <= 2:
        where = "a table of another database" if len(found) > 2 else "no name of a table"
        raise ConfigError(
            f"{table!r} is {where}: NAME or SCHEMA.NAME of the database of this project is allowed, with double quotes "
            "around what has capitals or dots. Nothing was changed; set database_url to the database of the table."
        )
    return [one[1:-1].replace('""', '"') if one.startswith('"') else one.strip().lower() for one in found]
