"""Topics that a tiny model is to learn: a word of the queries stands for a word of one document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

TOPICS = 60
ASKING = ("how", "what", "when", "where")
WORDS = [f"{letter}{n}" for letter in ("ask", "say") for n in range(TOPICS)] + [*ASKING]


def query(topic: int, way: int = 0) -> str:
    """A query: its topic is one word, which no document has."""
    return f"{ASKING[way]} ask{topic}"


def text(topic: int) -> str:
    """The text of a document: its topic is one word, which no query has, and one word is a query's."""
    return f"say{topic} {ASKING[topic % len(ASKING)]}"


class Documents:
    """Documents in memory."""

    def __init__(self) -> None:
        self.kept = {f"d{topic:03d}": text(topic) for topic in range(TOPICS)}

    def each(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self.kept.items()))

    def count(self) -> int:
        return len(self.kept)


def write_pairs(folder: Path) -> None:
    """Write ``pairs.jsonl``: four queries a document."""
    lines = [{"query": query(topic, way), "doc_id": f"d{topic:03d}"} for topic in range(TOPICS) for way in range(4)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
