"""Owns the searches of one generation, by number and not by alias: what a pipeline of the application is given."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from revector.registry.collections import Generation
from revector.serving.asked import MinScore
from revector.serving.searcher import Answer, Searcher


class BoundSearcher:
    """Searches one generation of a collection, asked as a ``Searcher`` is.

    ``engine`` finds the tables of the collection named ``collection`` on its search path, also where a rehearsal has
    copied them elsewhere. ``exact``: every search compares all vectors.
    """

    def __init__(self, searcher: Searcher, generation: Generation, *, exact: bool = False) -> None:
        self._searcher, self._exact = searcher, exact
        self.generation, self.revision = generation.gen, generation.revision
        self.engine: sa.Engine = searcher.engine
        self.collection: str = searcher.collection

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: Mapping[str, object] | None = None,
        by: str = "document",
        exact: bool = False,
        min_score: MinScore = None,
    ) -> Answer:
        """Return what ``Searcher.search`` does of this generation. Raises as that."""
        return self._searcher.search(
            query,
            k,
            where=where,
            by=by,
            generation=self.generation,
            exact=exact or self._exact,
            min_score=min_score,
        )
