"""Owns the text that LlamaIndex embeds of a node: its metadata, by its own templates, and then its text.

A node's row has the text in one column; what is embedded is ``node.get_content(MetadataMode.EMBED)``, of which the rest
is in ``_node_content``, the node as JSON. The SQL of it needs PostgreSQL 16, which can ask whether a text is JSON: an
application's write must not fail by what it writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress

NODE = "_node_content"
"""The field of a node's metadata that holds the node as JSON."""

MIN_SERVER = 160000
"""``server_version_num`` from which ``node_text`` works."""

_BLANK = "E' \\t\\n\\r\\f\\v'"
# OFFSET 0 keeps the planner from computing the cast of a constant before the question whether it can be cast.
_TEXT = """(
SELECT CASE WHEN m.said = '' THEN c.text ELSE
  btrim(replace(replace(replace(t.whole, '{content}', chr(1)), '{metadata_str}', m.said), chr(1), c.text), <blank>) END
FROM (SELECT <text> AS text) c,
  LATERAL (SELECT <column> ->> '_node_content' AS said OFFSET 0) j,
  LATERAL (SELECT CASE WHEN j.said IS JSON OBJECT THEN CAST(j.said AS json) ELSE '{}' END AS node) n,
  LATERAL (SELECT coalesce(n.node ->> 'text_template', E'{metadata_str}\\n\\n{content}') AS whole,
    coalesce(n.node ->> 'metadata_template', '{key}: {value}') AS one,
    coalesce(n.node ->> 'metadata_separator', n.node ->> 'metadata_seperator', E'\\n') AS separator) t,
  LATERAL (SELECT btrim(coalesce(string_agg(
      replace(replace(replace(t.one, '{value}', chr(1)), '{key}', e.key), chr(1), <value>), t.separator ORDER BY e.n
    ), ''), <blank>) AS said
    FROM json_each(CASE json_typeof(n.node -> 'metadata') WHEN 'object' THEN n.node -> 'metadata' ELSE '{}' END)
      WITH ORDINALITY e(key, value, n)
    WHERE e.key NOT IN (SELECT json_array_elements_text(CASE json_typeof(n.node -> 'excluded_embed_metadata_keys')
      WHEN 'array' THEN n.node -> 'excluded_embed_metadata_keys' ELSE '[]' END))) m
)"""
_VALUE = """CASE json_typeof(e.value) WHEN 'string' THEN e.value #>> '{}' WHEN 'null' THEN 'None'
      WHEN 'boolean' THEN initcap(CAST(e.value AS text)) ELSE replace(CAST(e.value AS text), '"', '\'\'') END"""
"""As Python's ``str`` writes a value of JSON, of lists only those of numbers and of plain strings."""


def node_text(column: str, text: str) -> str:
    """Return the SQL of what is embedded of a node: ``column`` is its metadata's, ``text`` that of its text."""
    parts = {"<value>": _VALUE, "<blank>": _BLANK, "<column>": column, "<text>": text}
    made = _TEXT
    for name, sql in parts.items():
        made = made.replace(name, sql)
    return made


def embedded_text(said: object, beside: object) -> str | None:
    """Return what is embedded of a node: ``said`` is its JSON, ``beside`` its text, where that is not in the JSON.

    What is no node has its plain text; None where there is none either.
    """
    node: Mapping[str, object] = {}
    with suppress(ValueError, TypeError):
        node = found if isinstance(found := json.loads(said), dict) else {}  # type: ignore[arg-type]
    text = beside or node.get("text")
    if not isinstance(text, str) or not (head := _metadata_text(node)):
        return text if isinstance(text, str) else None
    return _filled(
        node, {"metadata_str": head, "content": text}, "{metadata_str}\n\n{content}", "text_template"
    ).strip()


def _metadata_text(node: Mapping[str, object]) -> str:
    metadata, left_out = node.get("metadata"), node.get("excluded_embed_metadata_keys")
    if not isinstance(metadata, dict):
        return ""
    kept = [name for name in metadata if not isinstance(left_out, list) or name not in left_out]
    one = "{key}: {value}"
    lines = [_filled(node, {"key": name, "value": str(metadata[name])}, one, "metadata_template") for name in kept]
    return _own(node, "\n", "metadata_separator", "metadata_seperator").join(lines).strip()


def _own(node: Mapping[str, object], default: str, *names: str) -> str:
    return next((str(node[name]) for name in names if node.get(name) is not None), default)


def _filled(node: Mapping[str, object], values: Mapping[str, str], default: str, name: str) -> str:
    """Fill in a template once: what is filled in is no template, and no stored template reaches into Python."""
    return re.sub(rf"\{{({'|'.join(values)})\}}", lambda found: values[found[1]], _own(node, default, name))
