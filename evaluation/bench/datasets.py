"""The same migrations on labelled sets, by the command line alone and by the DAG alone.

Each way has a project of its own with an embedded PostgreSQL. Revision 1 is latent semantic analysis trained on the
set, revision 2 all-MiniLM-L6-v2 with one truncated chunk of 256 tokens a document and exact search, which must give the
recall@10 of the set's README; revision 3 (command line only) is the same model with default chunking and HNSW.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.bench.common import ROOT, Figure, machine, parser, revector, revision, temporary_project, write
from evaluation.bench.sets import MINILM, TOLERANCE, TRUNCATED, K, published, refuse_absent, take_folder

if TYPE_CHECKING:
    from revector.gate.gate import GateMeasurement
    from revector.local.airflow_client import AirflowClient

SETS = ("cranfield", "cosqa")
LSA, CUT, DEFAULT = "a000", "b111", "c222"
DAG = "revector_migrate"
DAG_LIMIT_S = 45 * 60.0
WAITS = ("awaiting_input", "deferred")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the migrations; return 1 if a figure misses its goal, 2 if the sets are not there."""
    options = parser("evaluation.bench.datasets", __doc__)
    take_folder(options)
    options.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME", help="default: cranfield cosqa")
    options.add_argument("--by", nargs="+", choices=["cli", "dag"], default=["cli", "dag"])
    options.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads of the encoder")
    chosen = options.parse_args(argv)
    refuse_absent(options, chosen.folder, chosen.sets)
    os.environ |= {"REVECTOR_ENCODER__THREADS": str(chosen.threads), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    before, figures = machine(), list[Figure]()
    folder, ways = chosen.folder.resolve(), {"cli": _by_command_line, "dag": _by_dag}
    try:
        for way in chosen.by:
            with temporary_project(_settings(folder, chosen.sets)) as root:
                revector(root, "init")
                for one in ways[way](root, folder, chosen.sets):
                    figures.append(one)
                    print(f"  {one.name}: {one.value} {one.unit}", file=sys.stderr)
    except Exception as error:
        # What was measured is kept, and the failure with it.
        figures.append(Figure("ended early", f"{type(error).__name__}: {error}"[:1_000], "text", "not", holds=False))
        raise
    finally:
        command = (
            f"python -m evaluation.bench.datasets --sets {' '.join(chosen.sets)} --by {' '.join(chosen.by)} "
            f"--threads {chosen.threads}"
        )
        status = write(chosen.output, command, before, figures)
    return status


def _settings(folder: Path, sets: Sequence[str]) -> str:
    tables = "".join(f'[collections.{name}]\nqrels = "{folder / name}"\nshards = 2\n' for name in sets)
    return f"drain_s = 0\n{tables}"


def _revisions(root: Path, name: str) -> None:
    # Latent semantic analysis and MiniLM are level on cranfield: the gate must let a difference by chance pass.
    gate = "gate = Gate(min_recall=0.1, max_drop=0.15, k=10, min_queries=200)"
    lsa = f'model = ModelSpec(name="./.revector/models/{name}-lsa", dim=256, max_tokens=256)'
    default = 'chunking = Chunking(max_tokens=256, overlap_tokens=32)\nindex = IndexSpec(kind="hnsw")'
    revision(root, name, LSA, None, f"{lsa}\n{default}\n{gate}")
    revision(root, name, CUT, LSA, f"{MINILM}\n{TRUNCATED}\n{gate}")
    revision(root, name, DEFAULT, CUT, f"{MINILM}\n{default}\n{gate}")


def _prepare(root: Path, folder: Path, name: str) -> Figure:
    _revisions(root, name)
    answer = revector(root, "ingest", str(folder / name), "-c", name).answer
    revector(root, "train", "lsa", f".revector/models/{name}-lsa", "-c", name)
    return Figure(f"{name}: documents ingested", answer["written"], "documents")


def _equals_readme(name: str, way: str, recall: float, published: float) -> Figure:
    return Figure(
        f"{name} by {way}: recall@10 of all-MiniLM-L6-v2, exact search, one truncated chunk",
        round(recall, 4),
        "recall@10",
        f"{published} of the set's README, within {TOLERANCE}",
        abs(recall - published) <= TOLERANCE,
    )


# By the command line --------------------------------------------------------------------------------------------------


def _by_command_line(root: Path, folder: Path, sets: Sequence[str]) -> Iterator[Figure]:
    for name in sets:
        yield _prepare(root, folder, name)
        first = revector(root, "upgrade", LSA, "-c", name)
        lsa = _recall(root, name)
        yield Figure(f"{name} by cli: wall time of upgrade to LSA", round(first.wall_s, 1), "s")
        yield Figure(f"{name} by cli: recall@10 of LSA-256, default chunking, HNSW", round(lsa, 4), "recall@10")
        second = revector(root, "upgrade", CUT, "-c", name)
        yield Figure(f"{name} by cli: wall time of upgrade to MiniLM, truncated", round(second.wall_s, 1), "s")
        yield _equals_readme(name, "cli", _recall(root, name), published(folder / name)["recall"])
        revector(root, "rollback", "--reason", "the benchmark looks at the way back", "-c", name)
        back = _recall(root, name)
        yield Figure(
            f"{name} by cli: recall@10 after rollback", round(back, 4), "recall@10", f"{lsa:.4f} as before", back == lsa
        )
        revector(root, "upgrade", CUT, "-c", name)
        revector(root, "retire", "--now", "--reason", "on to the next revision", "-c", name)
        third = revector(root, "upgrade", DEFAULT, "-c", name)
        yield Figure(f"{name} by cli: wall time of upgrade to MiniLM, default", round(third.wall_s, 1), "s")
        yield from _changes(root, name, chunks={"truncated": _chunks(second.answer), "default": _chunks(third.answer)})


def _recall(root: Path, name: str) -> float:
    answer = revector(root, "eval", "-k", str(K), "--worst", "0", "-c", name).answer
    return float(answer["metrics"]["recall"]["mean"])


def _chunks(upgraded: Mapping[str, Any]) -> int:
    return int(next(step["facts"]["chunks"] for step in upgraded["steps"] if step["step"] == "verify"))


def _changes(root: Path, name: str, chunks: Mapping[str, int]) -> Iterator[Figure]:
    """Compare the two generations that are live now on the same queries: truncated (standby) and default (active)."""
    from revector.config import load_project
    from revector.measure.statistics import paired_interval

    project = load_project(root)
    slots = project.status(name).slots
    migrator = project.migrator(name, actor="bench")
    truncated = migrator.evaluate(generation=slots.standby.generation, k=K, exact=True)
    exact, hnsw = (migrator.evaluate(k=K, exact=exact) for exact in (True, False))
    project.engine.dispose()
    for what, measured in (("default chunking, exact search", exact), ("default chunking, HNSW", hnsw)):
        interval = measured.interval()
        yield Figure(f"{name}: recall@10 of all-MiniLM-L6-v2, {what}", round(interval.mean, 4), "recall@10")
    for what, count in chunks.items():
        yield Figure(f"{name}: chunks, {what}", count, "chunks")
    for what, old, new in (
        ("default chunking against one truncated chunk, exact search", truncated, exact),
        ("HNSW against exact search, default chunking", exact, hnsw),
    ):
        difference = paired_interval(*(list(one.metrics["recall"].values()) for one in (old, new)))
        yield Figure(f"{name}: change of recall@10 by {what}", round(difference.mean, 4), "recall@10")
        interval_text = f"{difference.low:+.4f} to {difference.high:+.4f}"
        yield Figure(f"{name}: 95 % interval of the change by {what}", interval_text, "recall@10")
        yield Figure(f"{name}: overlap@10 of {what}", round(_overlap(old, new), 4), "share")
    for what, measured in (("exact search", exact), ("HNSW", hnsw)):
        yield Figure(f"{name}: search latency p50, {what}", round(measured.latency_ms["p50"], 2), "ms")


def _overlap(old: GateMeasurement, new: GateMeasurement) -> float:
    """Return the mean share of the old ten hits that are among the new ten, over queries."""
    shares = [len(set(old.run[query]) & set(new.run[query])) / max(1, len(old.run[query])) for query in old.run]
    return sum(shares) / len(shares)


# By the DAG -----------------------------------------------------------------------------------------------------------


def _by_dag(root: Path, folder: Path, sets: Sequence[str]) -> Iterator[Figure]:
    """Ingest by the command line, then migrate and go back by nothing but runs of the DAG and its button."""
    for name in sets:
        yield _prepare(root, folder, name)
    with _airflow(root) as client:
        for name in sets:
            started = time.monotonic()
            state = client.wait(DAG, _trigger(client, name, LSA), timeout_s=DAG_LIMIT_S)
            yield Figure(f"{name} by dag: run to LSA", state, "state", "success", state == "success")
            yield Figure(f"{name} by dag: wall time of the run to LSA", round(time.monotonic() - started, 1), "s")
            lsa = _recall(root, name)
            yield Figure(f"{name} by dag: recall@10 of LSA-256, default chunking, HNSW", round(lsa, 4), "recall@10")
            started = time.monotonic()
            run_id = _trigger(client, name, CUT)
            _wait_for_window(client, run_id)
            yield Figure(
                f"{name} by dag: wall time of the run to MiniLM, truncated", round(time.monotonic() - started, 1), "s"
            )
            yield _equals_readme(name, "dag", _recall(root, name), published(folder / name)["recall"])
            client.answer(DAG, run_id, "rollback_window", "Roll back", reason="the benchmark looks at the way back")
            state = client.wait(DAG, run_id, timeout_s=DAG_LIMIT_S)
            yield Figure(f"{name} by dag: run with its rollback", state, "state", "success", state == "success")
            back = _recall(root, name)
            goal = f"{lsa:.4f} as before"
            yield Figure(f"{name} by dag: recall@10 after rollback", round(back, 4), "recall@10", goal, back == lsa)


@contextmanager
def _airflow(root: Path) -> Iterator[AirflowClient]:
    from revector.local.airflow import AirflowHome

    home = AirflowHome(state=root / ".revector", config=root / "revector.toml", dags=ROOT / "dags", port=8091)
    with home, home.client("operator") as client:
        yield client


def _trigger(client: AirflowClient, name: str, target: str) -> str:
    conf = {"collection": name, "revision": target, "approval": False, "shards": 2, "rollback_hours": 4}
    return client.trigger(DAG, conf, note="evaluation.bench.datasets")


def _wait_for_window(client: AirflowClient, run_id: str) -> None:
    end = time.monotonic() + DAG_LIMIT_S
    while time.monotonic() < end:
        tasks = {task["task_id"]: task["state"] for task in client.tasks(DAG, run_id)}
        if tasks.get("rollback_window") in WAITS and client.questions(DAG, run_id):
            return
        if client.state(DAG, run_id) in ("success", "failed"):
            raise RuntimeError(f"run {run_id} ended before its rollback window: {client.failures(DAG, run_id)}")
        time.sleep(2)
    raise RuntimeError(f"run {run_id} was not in its rollback window after {DAG_LIMIT_S / 60:.0f} minutes")


if __name__ == "__main__":
    sys.exit(main())
