"""Histories of an index in a store at its worst: writes, moves, kills and losses, and every answer judged.

    python -m evaluation.reliability.stores [--seed N] [--count N] [--processes N] [--bug NAME] [--results PATH]

Each history draws from its seed what happens next, over the real code and a real PostgreSQL. The store delays, repeats
and drops requests (``late``), and now and then it loses points that it acknowledged. The truth is a dictionary of what
was written; it knows nothing of revector.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import sqlalchemy as sa
from evaluation.reliability.arena import database
from evaluation.reliability.bugs import plant
from evaluation.reliability.late import LateStore
from evaluation.reliability.observer import rows, slots, value
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.site import NEW, OLD, Shape, Site

from revector import crash
from revector.errors import IndexGone, RevectorError, StateError, StoreUnavailable
from revector.indexing.keeping import StoreKeeper
from revector.registry import intents
from revector.registry.collections import Generation
from revector.registry.lanes import lane_of
from revector.stores.opening import added

DOCUMENTS, STEPS, TRIES = 24, 40, 400
COUNTED = {
    "put": "writes",
    "delete": "deletes",
    "work": "batches of a worker",
    "kill": "batches of a worker under a kill",
    "kills": "kills that struck",
    "keep": "looks of the keeper, half of them under a kill",
    "lose": "losses of points that were acknowledged",
    "arrive": "moments at which everything under way arrived",
    "move": "moves of migrations",
    "search": "answers judged, hit by hit",
}
SHAPE = Shape(documents=DOCUMENTS, labelled=6, index='IndexSpec(kind="exact", store="late")')
KILLS = ("stage.after_intent", "stage.after_put", "reveal.after_cas", "publish.after_ledger", "publish.after_commit")
KILLS_OF_KEEPER = ("collect.after_doom", "collect.after_remove", "restore.after_page")


class BrokenPromise(AssertionError):
    """A promise did not hold; the message says which, and the history's seed repeats it."""


class Killed(BaseException):
    """Ends what passes a crash point, as SIGKILL would: nothing of the library catches it."""


class StoreHistory:
    """One history: a project whose indexes are in ``store``, and the truth beside it; labelled documents stay."""

    def __init__(self, site: Site, store: LateStore, seed: int) -> None:
        self._project, self._store, self._kept = site.project, store, site.ids
        self._random = random.Random(seed)
        self._truth: dict[str, str] = {}
        self._turn = 0
        self.tally: Counter[str] = Counter()

    def run(self) -> None:
        """Serve documents, do what is drawn ``STEPS`` times, and prove the end. Raises ``BrokenPromise``."""
        self._project.init()
        for doc_id in self._kept:
            self._write(doc_id)
        self._insist(lambda: self._project.migrator("docs", actor="history").upgrade(OLD))
        acts = {
            self._put: 8,
            self._delete: 3,
            self._work: 6,
            self._kill: 3,
            self._keep: 3,
            self._search: 8,
            self._move: 4,
        }
        acts |= {self._lose: 1, self._arrive: 2}
        for act in self._random.choices(list(acts), list(acts.values()), k=STEPS):
            with suppress(StoreUnavailable, IndexGone):
                act()
            self.tally[act.__name__.strip("_")] += 1
        self._finish()

    # What happens -----------------------------------------------------------------------------------------------------

    def _put(self) -> None:
        self._write(f"n{self._random.randrange(DOCUMENTS):03d}")

    def _write(self, doc_id: str) -> None:
        self._turn += 1
        self._truth[doc_id] = " ".join(f"turn{self._turn}x{n}" for n in range(self._random.choice((3, 20))))
        self._project.documents("docs").put(doc_id, self._truth[doc_id])

    def _delete(self) -> None:
        if others := sorted(self._truth.keys() - self._kept):
            doc_id = self._random.choice(others)
            del self._truth[doc_id]
            self._project.documents("docs").delete(doc_id)

    def _work(self) -> None:
        self._project.worker().drain()

    def _kill(self) -> None:
        with self._killed_at(self._random.choice(KILLS)):
            self._work()
        self._expire_leases()

    def _keep(self) -> None:
        with self._killed_at(self._random.choice((*KILLS_OF_KEEPER, "", "", ""))):
            self._keep_all()

    def _lose(self) -> None:
        index = lane_of(self._active()).index  # type: ignore[attr-defined]
        if self._random.random() < 0.5:
            index.drop()
        else:
            named = "SELECT attempt, n_chunks, doc_id FROM intent WHERE gen = :gen"
            for row in rows(self._project.engine, named, gen=self._active().gen):
                ids = intents.point_ids([(row.attempt, row.n_chunks)])
                index._inner.remove([one for one in ids if not row.doc_id or self._random.random() < 0.5])
        self._keep_all()

    def _arrive(self) -> None:
        self._store.arrive(1.0)

    def _move(self) -> None:
        migrator, move = self._project.migrator("docs", actor="history"), self._random.randrange(4)
        with suppress(StateError):
            if move == 0:
                migrator.rollback("drawn")
            elif move == 1 and self._random.random() < 0.3:
                migrator.run("retire", reason="drawn", now=True)
            else:
                migrator.upgrade(
                    self._random.choice((OLD, NEW)), to=self._random.choice(("provision", "backfill", "swap"))
                )

    # What is judged ---------------------------------------------------------------------------------------------------

    def _search(self, generation: Generation | None = None, *, whole: bool = False) -> None:
        """Ask for everything: what is shown is written and current, and whole where nothing waits."""
        served = self._active() if generation is None else generation
        searcher = self._project.searcher("docs")
        answer = searcher.search("turn1x0 turn2x0", 1_000, generation=None if generation is None else generation.gen)
        self._demand(answer.encoder_fp == served.encoder_fp, "a query was answered by another model", answer.generation)
        for hit in answer.hits:
            self._demand(hit.id in self._truth, "a deleted document was shown", hit)
            self._demand(hit.text in self._truth[hit.id], "a text was shown that is not the document's", hit)
        if whole:
            shown = {hit.id for hit in answer.hits}
            self._demand(shown == set(self._truth), "lost", sorted(set(self._truth) ^ shown))

    def _finish(self) -> None:
        """Let everything arrive and be done: then each live index is the documents, and its store holds no more."""
        self._insist(self._settle, self._nothing_waits)
        for view in ("i1_lost", "i2_ahead", "i5_slots", "i9_intent"):
            broken = rows(self._project.engine, f"SELECT * FROM {view}")
            self._demand(not broken, f"{view} is not empty", broken)
        for generation in self._live():
            self._search(generation, whole=generation.seeded)
        with patch.object(intents, "LATE_S", 0.0):
            self._arrive()
            for _ in range(3):
                self._insist(self._keep_all)
        for generation in self._live():
            self._search(generation, whole=generation.seeded)
            self._check_points(generation)

    def _check_points(self, generation: Generation) -> None:
        named = (
            "SELECT attempt, n_chunks FROM ledger WHERE gen = :gen AND attempt IS NOT NULL UNION ALL SELECT attempt, "
            "n_chunks FROM intent WHERE gen = :gen AND doc_id = '' AND state = 'published'"
        )
        found = rows(self._project.engine, named, gen=generation.gen)
        wanted = intents.point_ids([(row.attempt, row.n_chunks) for row in found])
        index = lane_of(generation).index  # type: ignore[attr-defined]
        there, of_ours = index.describe().points, len(index.read(wanted).ids)
        self._demand(
            there == of_ours == len(wanted), "points that nobody names, or missing ones", there, of_ours, len(wanted)
        )

    def _demand(self, holds: bool, *says: object) -> None:
        if not holds:
            raise BrokenPromise(" ".join(map(str, says)))

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._expire_leases()
        self._keep_all()
        self._project.worker().drain()

    def _keep_all(self) -> None:
        for generation in self._live():
            StoreKeeper(self._project.engine).look(generation)

    def _expire_leases(self) -> None:
        rows(self._project.engine, "UPDATE pending SET lease_until = NULL, attempts = 0 WHERE state = 'due'")

    def _nothing_waits(self) -> bool:
        seeded = all(one.seeded for one in self._live())
        waits = "SELECT count(*) FROM pending WHERE lane = 'live' OR :seeded"
        return not value(self._project.engine, waits, seeded=seeded)

    def _insist(self, act: Callable[[], object], until: Callable[[], bool] = lambda: True) -> None:
        for _ in range(TRIES):
            with suppress(StoreUnavailable, IndexGone):
                act()
                if until():
                    return
        raise BrokenPromise(f"{TRIES} tries did not come to an end")

    def _active(self) -> Generation:
        collection, live = slots(self._project.engine, "docs")
        return live[int(collection.active_gen or 0)]

    def _live(self) -> list[Generation]:
        return list(slots(self._project.engine, "docs")[1].values())

    @contextmanager
    def _killed_at(self, point: str) -> Iterator[None]:
        def watch(passed: str) -> None:
            if passed == point:
                crash.watcher = None
                self.tally["kills"] += 1
                raise Killed

        crash.watcher = watch
        try:
            yield
        except BaseException as error:
            if not _was_killed(error):
                raise
        finally:
            crash.watcher = None


def _was_killed(error: BaseException | None) -> bool:
    """Whether a kill is behind an error: what cleans up after it may raise another one."""
    while error is not None and not isinstance(error, Killed):
        error = error.__cause__ or error.__context__
    return error is not None


def run_history(url: str, seed: int, bug: str | None = None) -> tuple[Counter[str], str | None]:
    """Run the history of a seed in an empty database; return what it did, and the promise that it broke."""
    with TemporaryDirectory(prefix="revector-stores-") as folder, ExitStack() as stack:
        store = stack.enter_context(added("late", LateStore(seed=seed)))
        for name in ("QUERY_S", "OPEN_S"):  # nothing runs beside a look of the keeper here
            stack.enter_context(patch.object(intents, name, 0.0))
        site = Site(Path(folder) / "site", url, SHAPE)
        history = StoreHistory(site, store, seed)
        if bug is not None:
            site.project.init()
            stack.enter_context(plant(bug, site.project.engine))
        try:
            history.run()
        except (BrokenPromise, RevectorError, sa.exc.SQLAlchemyError) as error:
            return history.tally, f"{type(error).__name__}: {error}"
        finally:
            site.project.engine.dispose()
        return history.tally, None


def run(url: str, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Run some histories, each in a database of its own."""
    done, own = Drawn(), sa.make_url(url)
    for seed in seeds:
        with database(own) as fresh:
            did, broken = run_history(fresh, seed, given.bug)
        done.tally += did
        done.findings += [(seed, broken)] if broken else []
    return done


LAYER = Layer(
    "evaluation.reliability.stores",
    __doc__,
    "stores",
    "histories of an index in a store at its worst",
    run,
    COUNTED,
    20,
)

if __name__ == "__main__":
    raise SystemExit(LAYER.main(LAYER.options(seed=0, count=400).parse_args()))
