"""Owns the project's own way from a query to ranked documents, where revector.toml names one: what users see.

A pipeline is a function ``answer(query, searcher, k)`` that returns ids of documents, best first. It is given searches
of one generation (``BoundSearcher``) and does the rest itself: fusion, reranking, filters, cut-offs.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import cast

import sqlalchemy as sa

from revector.errors import ConfigError, PipelineError, QueryRefused, RevectorError
from revector.gate.asking import AskedQueries, all_texts
from revector.gate.query_set import QuerySet
from revector.interfaces import Progress
from revector.registry import work
from revector.registry.collections import Generation
from revector.serving.one_generation import BoundSearcher
from revector.serving.searcher import Searcher

Answering = Callable[[str, BoundSearcher, int], Iterable[str]]

_NEXT = "Nothing was judged, and everything serves as before; correct the code, or take `pipeline` out of revector.toml"


class Pipeline:
    """The function ``module:name`` below ``root``, imported when it is first asked.

    ``limit_s``: how long it may take for one query.
    """

    def __init__(self, name: str, root: Path, *, limit_s: float) -> None:
        self.name, self._root, self._limit_s = name, root, limit_s

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file that holds the function, as it is when it is imported; of nothing else that it imports."""
        return self._loaded[1]

    def load(self) -> Answering:
        """Return the function. Raises ``PipelineError`` where it cannot be imported."""
        return self._loaded[0]

    @property
    def identity(self) -> str:
        """What evidence is of: name and fingerprint."""
        return f"{self.name} {self.fingerprint[:12]}"

    @cached_property
    def _loaded(self) -> tuple[Answering, str]:
        module, _, attribute = self.name.partition(":")
        try:
            with _importable(self._root):
                function = getattr(importlib.import_module(module), attribute)
            source = Path(inspect.getfile(function)).read_bytes()
        except Exception as error:
            raise PipelineError(
                f"pipeline {self.name} cannot be imported from {self._root}: {type(error).__name__}: {error}. {_NEXT}."
            ) from error
        return cast("Answering", function), hashlib.sha256(source).hexdigest()

    def refuse(self, queries: QuerySet) -> None:
        """Raise ``ConfigError`` where these queries cannot be measured through it, and what ``fingerprint`` raises."""
        if queries.labels.spans:
            raise ConfigError(
                f"pipeline {self.name} returns documents, and {queries.labels.name} judges passages of them. Nothing "
                "was measured; judge documents, or take `pipeline` out of revector.toml."
            )
        _ = self.fingerprint

    def ask(
        self,
        searcher: Searcher,
        generation: Generation,
        queries: QuerySet,
        k: int,
        progress: Progress,
        *,
        exact: bool = False,
    ) -> AskedQueries:
        """Ask each query for ``k`` documents; one may find fewer, and none where a search refuses it.

        Raises ``PipelineError`` where it fails, takes longer than its limit, or returns what is no list of different
        documents of the collection; ``RevectorError`` of a search as it is, ``ConfigError`` as ``refuse``.
        """
        self.refuse(queries)
        bound, texts = BoundSearcher(searcher, generation, exact=exact), all_texts(queries)
        with searcher.engine.connect() as connection:
            newest = work.newest_version(connection)
        found = AskedQueries({query: [] for query in texts})
        for query, text in texts.items():
            own = queries.own.get(query, frozenset())
            started = time.perf_counter()
            try:
                ids = self.answer(text, bound, k + len(own))
            except QueryRefused as error:
                found.refused[query] = str(error)
                continue
            found.milliseconds.append((time.perf_counter() - started) * 1_000)
            found.run[query] = [doc_id for doc_id in ids if doc_id not in own][:k]
            progress.advance()
        self._refuse_unknown(searcher.engine, generation, found.run, newest)
        return found

    def answer(self, text: str, bound: BoundSearcher, k: int) -> list[str]:
        """Return what it answers to one query. Raises as ``ask``, but for documents that there are not."""
        box: list[list[str] | BaseException] = []

        def work_on() -> None:
            try:
                box.append(list(self.load()(text, bound, k)))
            except BaseException as error:  # noqa: BLE001 - told by the thread that waits
                box.append(error)

        worker = Thread(target=work_on, daemon=True)  # one that hangs must not keep the process
        worker.start()
        worker.join(self._limit_s)
        if not box:
            raise self._wrong(bound, text, f"took longer than {self._limit_s:g} s (`search.timeout_s`)")
        found = box[0]
        if isinstance(found, RevectorError):
            raise found
        if isinstance(found, BaseException):
            raise self._wrong(bound, text, f"failed with {type(found).__name__}: {found}") from found
        if strange := [one for one in found if not isinstance(one, str)]:
            raise self._wrong(bound, text, f"returned {strange[0]!r:.80}, which is no id of a document")
        if len(set(found)) < len(found):
            twice = next(one for n, one in enumerate(found) if one in found[:n])
            raise self._wrong(bound, text, f"returned document {twice!r:.80} twice")
        return found

    def _wrong(self, bound: BoundSearcher, text: str, what: str) -> PipelineError:
        return PipelineError(f"pipeline {self.name}, asked {text!r:.80} of revision {bound.revision}, {what}. {_NEXT}.")

    def _refuse_unknown(
        self, engine: sa.Engine, generation: Generation, run: Mapping[str, Sequence[str]], newest: int
    ) -> None:
        """Raise ``PipelineError`` for documents that were not there when it was asked first."""
        ids = sorted(set().union(*run.values()))
        with engine.connect() as connection:
            known = set(
                connection.scalars(
                    sa.text(
                        "SELECT doc_id FROM document WHERE cid = :cid AND doc_id = ANY (CAST(:ids AS text[])) AND (NOT "
                        "deleted OR version > :newest)"
                    ),
                    {"cid": generation.cid, "ids": ids, "newest": newest},
                )
            )
        for query, found in run.items():
            if unknown := [doc_id for doc_id in found if doc_id not in known]:
                raise PipelineError(
                    f"pipeline {self.name} returned document {unknown[0]!r:.80} to query {query} of revision "
                    f"{generation.revision}, and the collection has none of that id. {_NEXT}."
                )


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Let modules below ``root`` be imported, as Python itself does beside a script."""
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
