"""An application with SQL of its own, in plain psycopg, whose searches follow a migration of its table and back.

  pip install 'psycopg[binary]'
  export DATABASE_URL=postgresql://…  REVECTOR_URL=http://localhost:8700  REVECTOR_KEY=…   # a key of the scope read

  revector adopt public.articles --text title,body --model MODEL --view public.articles_seen
  revector worker & revector serve &
  python psycopg_app.py view "How do I reset a password?"       # or: function

It holds no model. A question is embedded by revector, with the fingerprint of the model that did it, and both go into
one statement, which the database refuses where the alias was moved in between. Then the application embeds and asks
again. To embed by a library of its own instead, replace ``embed``: it must then have both models at hand from the swap
to the end of the rollback window, and choose by what ``revector.active`` names.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from typing import Any

import psycopg

COLLECTION = "articles"
MOVED = ("RV004", "40001")
"""SQLSTATEs after a swap or rollback: the vector is of the other model; the transaction is older than the move."""

TRIES = 5

STATEMENTS = {
    "view": """
SELECT id, title FROM articles_seen WHERE lang <> 'de' AND revector.expect(%(collection)s, %(encoder_fp)s)
ORDER BY embedding <=> %(vector)s::vector LIMIT %(k)s""",
    "function": """
SELECT a.id, a.title FROM revector.search(%(collection)s, %(vector)s::vector, %(encoder_fp)s, 4 * %(k)s) s
  JOIN articles a ON a.id = s.doc_id::bigint
WHERE a.lang <> 'de' ORDER BY s.score DESC LIMIT %(k)s""",
}
"""The application's own SQL: its columns, its conditions, its joins."""


def embed(question: str) -> dict[str, Any]:
    """Return the vector of a question, and the fingerprint of the model that serves and made it."""
    request = urllib.request.Request(
        f"{os.environ['REVECTOR_URL']}/v1/embeddings",
        json.dumps({"model": f"{COLLECTION}:query", "input": question}).encode(),
        {"Authorization": f"Bearer {os.environ.get('REVECTOR_KEY', '')}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        made = json.load(answer)
    return {"vector": str(made["data"][0]["embedding"]), "encoder_fp": made["encoder_fp"]}


class Search:
    """Questions over one connection; a vector is kept until the database says that another model serves."""

    def __init__(self, connection: psycopg.Connection[tuple[int, str]], way: str) -> None:
        self._connection, self._statement = connection, STATEMENTS[way]
        self._embedded = dict[str, dict[str, Any]]()
        connection.execute("SET hnsw.iterative_scan = strict_order")

    def ask(self, question: str, k: int = 5) -> list[tuple[int, str]]:
        """Return id and title of the nearest rows, by one model. Raises ``psycopg.Error``."""
        for tries in range(TRIES):
            given = self._embedded.get(question) or self._embedded.setdefault(question, embed(question))
            try:
                return self._connection.execute(self._statement, {"collection": COLLECTION, "k": k, **given}).fetchall()
            except psycopg.Error as error:
                if error.sqlstate not in MOVED or tries + 1 == TRIES:
                    raise
                self._embedded.clear()
                time.sleep(0.1 * tries)
        raise AssertionError("not reached")


def main(way: str, *questions: str) -> None:
    """Print what is found for each question."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        search = Search(connection, way)
        for question in questions:
            for number, title in search.ask(question):
                print(number, title)


if __name__ == "__main__":
    main(*sys.argv[1:])
