"""Swaps and rollbacks while an application reads an adopted table in SQL of its own, and which model answered it.

The application is a process with psycopg and its own copies of two models of equal width, so that a vector that meets
the wrong index raises nothing by itself. Four ways at once: the function `revector.search`; the view with
`revector.expect`; the view and a write of the table in one transaction; the view in a REPEATABLE READ transaction that
has read `revector.active`. Where it is refused because the alias was moved (RV004, 40001), it embeds and asks again,
within its own question. Each answer is judged by the application: the best row that nobody writes must have the score,
and in the view the vector, that the model makes which it asked by.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bench.common import Figure, environment, machine, parser, revision, temporary_project, write
from evaluation.bench.load import Record, read, run_steps

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    import psycopg

    from revector.config import Project

COLLECTION, VIEW = "articles", "public.articles_seen"
WIDTH, K, TRIES = 96, 25, 10
MODELS = {"a000": "hashing", "b111": "hashing:seed2"}
KEPT, HOT = 400, 20
"""Rows with lower numbers than ``KEPT`` are asked for; the ``HOT`` ones after them are written: under 1 % of all,
and fewer than ``K``, so that every answer has a row that can be judged."""

MOVED = ("RV004", "40001")
TOLERANCE = 0.001
ACTIVE = "SELECT model, encoder_fp FROM revector.active('articles')"
BY_FUNCTION = """
SELECT a.id, a.title, a.body, s.score, NULL FROM revector.search('articles', %(vector)s::vector, %(fp)s, %(k)s) s
  JOIN public.articles a ON a.id = s.doc_id::bigint ORDER BY s.score DESC"""
BY_VIEW = f"""
SELECT id, title, body, 1 - (embedding <=> %(vector)s::vector), embedding::text FROM {VIEW}
WHERE revector.expect('articles', %(fp)s) ORDER BY embedding <=> %(vector)s::vector LIMIT %(k)s"""
WRITE = "UPDATE public.articles SET body = %(body)s WHERE id = %(id)s"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the moves; return 1 if a count is not as promised."""
    options = parser("evaluation.bench.sql_swaps", __doc__)
    options.add_argument("--rows", type=int, default=5_000, metavar="N", help="rows of the table")
    options.add_argument("--swaps", type=int, default=10, metavar="N", help="swaps in all, rollbacks between")
    options.add_argument("--per-s", type=float, default=40.0, metavar="N", help="questions a second, of all four ways")
    chosen = options.parse_args(argv)
    before, moves = machine(), list[Mapping[str, Any]]()
    with temporary_project(f'drain_s = 2\n[collections.{COLLECTION}]\nqrels = "labels"\n') as root:
        project = _prepare(root, chosen.rows)
        try:
            with _load(project, chosen.per_s):
                moves += _move_about(project, chosen.swaps)
            answers, seen = read(root / "answers.jsonl"), _mix_ups_seen()
        finally:
            project.engine.dispose()
    command = (
        f"python -m evaluation.bench.sql_swaps --rows {chosen.rows} --swaps {chosen.swaps} --per-s {chosen.per_s:g}"
    )
    return write(chosen.output, command, before, _figures(moves, answers, seen, chosen.swaps))


def _text(n: int) -> tuple[str, str]:
    return f"apple{n}", f"pear{n} some words here number {n}"


def _prepare(root: Path, rows: int) -> Project:
    """Make the application's table, adopt it with a view, and have the second model approved."""
    import sqlalchemy as sa

    from revector.adoption.presets import AdoptionRequest
    from revector.config import load_project

    labels = root / "labels"
    (labels / "qrels").mkdir(parents=True)
    (labels / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) + "\n" for n in range(60))
    )
    judged = "".join(f"q{n}\t{n}\t1\n" for n in range(60))
    (labels / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    for name, parent in (("a000", None), ("b111", "a000")):
        body = f'model = ModelSpec(name="{MODELS[name]}", dim={WIDTH})\n'
        revision(root, COLLECTION, name, parent, f"{body}gate = Gate(max_drop=1.0, min_overlap=None)")
    project = load_project(root)
    project.init()
    with project.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE public.articles (id bigint PRIMARY KEY, title text, body text)")
        insert = "INSERT INTO public.articles VALUES (:id, :title, :body)"
        given = [dict(zip(("id", "title", "body"), (n, *_text(n)), strict=True)) for n in range(rows)]
        connection.execute(sa.text(insert), given)
    adopter = project.adopter(COLLECTION)
    request = AdoptionRequest(
        table="public.articles", model=MODELS["a000"], text=("title", "body"), vectors=False, view=VIEW
    )
    adopter.begin(adopter.plan(request))
    _copy(project)
    project.migrator(COLLECTION).upgrade("b111", to="approve")
    return project


def _copy(project: Project) -> None:
    """Copy the rows and build the first index, of the revision that is there."""
    from revector.adoption.adoptions import read_adoption
    from revector.adoption.copying import Copy
    from revector.interfaces import NoProgress

    with project.engine.connect() as connection:
        adoption = read_adoption(connection, 1)
    assert adoption is not None
    Copy(project.engine, adoption, first=True).run(NoProgress())
    project.migrator(COLLECTION, labels=None).upgrade("a000")


@contextmanager
def _load(project: Project, per_s: float) -> Iterator[None]:
    """Run a worker and the application, each in a process of its own; both end with the block."""
    context = multiprocessing.get_context("spawn")
    ending, ready = context.Event(), context.Event()
    url = project.raw_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with ExitStack() as stack:
        log = stack.enter_context((project.root / "worker.log").open("wb"))
        words = [sys.executable, "-m", "revector", "worker"]
        worker = subprocess.Popen(words, cwd=project.root, env=environment(project.root), stderr=log)
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
        process = context.Process(target=application, args=(project.root, url, per_s, ready, ending))
        process.start()
        stack.callback(process.join)
        stack.callback(ending.set)
        if not ready.wait(120):
            raise RuntimeError("the application did not start within two minutes")
        yield
        if not process.is_alive() or worker.poll() is not None:
            raise RuntimeError("the application or the worker ended early")


def _move_about(project: Project, swaps: int) -> Iterator[Mapping[str, Any]]:
    """Swap and roll back in turn; yield what each move says of itself."""
    migrator = project.migrator(COLLECTION, actor="bench")
    for turn in range(swaps):
        time.sleep(1)
        if turn:
            yield {"kind": "rollback", **migrator.run("rollback", reason="bench").facts}
            time.sleep(1)
        yield {"kind": "swap", **migrator.run("swap", "b111").facts}
    time.sleep(1)


# The application ------------------------------------------------------------------------------------------------------


def application(root: Path, url: str, per_s: float, ready: Event, ending: Event) -> None:
    """Ask in four ways until ``ending``, and note each answer with its time."""
    import psycopg

    with (root / "answers.jsonl").open("w", encoding="utf-8") as file:
        record = Record(file)
        ways = {
            "function": _by(BY_FUNCTION),
            "view": _by(BY_VIEW),
            "write": _by_view_and_write,
            "snapshot": _by_snapshot,
        }
        steps = [_asker(way, ask, psycopg.connect(url, autocommit=True), record) for way, ask in ways.items()]
        run_steps(steps, per_s, ready, ending)


Rows = list[tuple[int, str, str, float, str | None]]
Ask = Callable[["psycopg.Connection[Any]", "OwnModels", str], tuple[str, Rows]]
"""Asks once: the name of the model that was asked by, and the rows that came back."""


class OwnModels:
    """The application's copies of both models, by name."""

    def __init__(self) -> None:
        from revector.encoders.hashing import HashingEncoder
        from revector.spec import ModelSpec

        seeds = dict(zip(MODELS.values(), (0, 2), strict=True))
        self._models = {name: HashingEncoder(ModelSpec(name=name, dim=WIDTH), seed=n) for name, n in seeds.items()}
        self.active: tuple[str, str] | None = None
        """Name and fingerprint of what serves, as last heard."""

    def vector(self, model: str, side: Any, text: str) -> Any:
        """Return the vector of a text, ``(WIDTH,)`` of length 1."""
        from revector.interfaces import whole_texts

        return self._models[model].encode(side, whole_texts([text]))[0]


def _given(models: OwnModels, model: str, fp: str, text: str) -> dict[str, object]:
    return {"vector": str(models.vector(model, "query", text).tolist()), "fp": fp, "k": K}


def _by(statement: str) -> Ask:
    def ask(connection: psycopg.Connection[Any], models: OwnModels, text: str) -> tuple[str, Rows]:
        if models.active is None:
            models.active = connection.execute(ACTIVE).fetchone()
        model, fp = models.active or ("", "")
        return model, connection.execute(statement, _given(models, model, fp, text)).fetchall()

    return ask


_ask_view = _by(BY_VIEW)
_turns = itertools.count()


def _by_view_and_write(connection: psycopg.Connection[Any], models: OwnModels, text: str) -> tuple[str, Rows]:
    with connection.transaction():
        answer = _ask_view(connection, models, text)
        turn = next(_turns)
        connection.execute(WRITE, {"id": KEPT + turn % HOT, "body": f"plum{turn} written beside an answer"})
    return answer


def _by_snapshot(connection: psycopg.Connection[Any], models: OwnModels, text: str) -> tuple[str, Rows]:
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        models.active = connection.execute(ACTIVE).fetchone()
        time.sleep(0.05)
        return _ask_view(connection, models, text)


def _asker(way: str, ask: Ask, connection: psycopg.Connection[Any], record: Record) -> Callable[[], None]:
    import psycopg

    models, numbers = OwnModels(), random.Random(way)
    connection.execute("SET hnsw.iterative_scan = strict_order")

    def step() -> None:
        n, started = numbers.randrange(KEPT), time.perf_counter()
        text = f"apple{n} pear{n}"
        line: dict[str, Any] = {"way": way, "ok": False, "again": 0}
        while not line["ok"] and "error" not in line:
            try:
                model, rows = ask(connection, models, text)
                line |= {"ok": True, "model": model, "right": _is_right(models, model, text, rows)}
            except psycopg.Error as error:
                models.active = None
                line["again"] += 1
                if error.sqlstate not in MOVED or line["again"] == TRIES:
                    line["error"] = f"{error.sqlstate}: {error}"
        record.add(**line, ms=round((time.perf_counter() - started) * 1_000, 3))

    return step


def _is_right(models: OwnModels, model: str, text: str, rows: Rows) -> bool:
    """Whether the best row that nobody writes has score and vector by ``model``; an empty answer is wrong."""
    asked = models.vector(model, "query", text)
    for number, title, body, score, stored in rows:
        if not KEPT <= number < KEPT + HOT:
            own = models.vector(model, "document", f"{title}\n{body}")
            near = stored is None or float(np.asarray(json.loads(stored)) @ own) > 1 - TOLERANCE
            return near and abs(float(asked @ own) - score) < TOLERANCE
    return False


def _mix_ups_seen() -> float:
    """Return in how many of a hundred questions ``_is_right`` would see an answer of the other model."""
    models, seen = OwnModels(), 0
    (first, second), count = MODELS.values(), 100
    for n in range(count):
        title, body = _text(n)
        text = f"{title} pear{n}"
        score = float(models.vector(first, "query", text) @ models.vector(second, "document", f"{title}\n{body}"))
        seen += not _is_right(models, first, text, [(n, title, body, score, None)])
    return 100 * seen / count


# Figures --------------------------------------------------------------------------------------------------------------


def _figures(
    moves: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], seen: float, swaps: int
) -> list[Figure]:
    made = {kind: sum(move["kind"] == kind for move in moves) for kind in ("swap", "rollback")}
    failed = [line for line in answers if not line["ok"]]
    wrong = [line for line in answers if line["ok"] and not line["right"]]
    for line in [*failed, *wrong][:5]:
        print(f"  {line}", file=sys.stderr)
    models = {line["model"] for line in answers if line["ok"]}
    found = [
        Figure("swaps", made["swap"], "swaps", str(swaps), made["swap"] == swaps),
        Figure("rollbacks", made["rollback"], "rollbacks"),
        Figure("questions", len(answers), "questions"),
        Figure("questions that failed", len(failed), "questions", "0", not failed),
        Figure("questions answered by another model", len(wrong), "questions", "0", not wrong),
        Figure("answers of another model that this check would see", round(seen, 1), "%", "at least 95", seen >= 95),
        Figure("models that answered", len(models), "models", "2", len(models) == 2),
        Figure("gate held by a move, p50", round(statistics.median(move["pause_ms"] for move in moves), 1), "ms"),
        Figure("gate held by a move, most", round(max(move["pause_ms"] for move in moves), 1), "ms"),
    ]
    for way in dict.fromkeys(line["way"] for line in answers):
        own = [line for line in answers if line["way"] == way]
        again = sum(line["again"] for line in own)
        found += [
            Figure(f"{way}: questions", len(own), "questions"),
            Figure(f"{way}: asked again, for the alias was moved", again, "times"),
            Figure(f"{way}: p50", round(statistics.median(line["ms"] for line in own), 1), "ms"),
            Figure(f"{way}: slowest", round(max(line["ms"] for line in own), 1), "ms"),
        ]
    return found


if __name__ == "__main__":
    sys.exit(main())
