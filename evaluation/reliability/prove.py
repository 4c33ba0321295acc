"""Runs the layers of the proof and writes the report: `make prove` takes minutes, `make prove-long` an hour.

    python -m evaluation.reliability.prove [--size short|long] [--only L0,L3] [--seed N] [--results DIR] [--report-only]

Each layer is a command of its own, so that a long run can be done in pieces: with one more seed, its figures speak of
all pieces together. The short size is what CI can afford; its results go to .revector/proof, apart from those that are
committed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from evaluation.reliability.pieces import RESULTS
from evaluation.reliability.summary import write_report

ROOT = Path(__file__).parents[2]
SEED = 20_261_120


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the command that runs it, what it says of itself, and its options in either size."""

    name: str
    results: str
    says: str
    short: str
    long: str
    seeded: bool = True

    @property
    def module(self) -> str:
        """The command, which is called as its results are."""
        return f"evaluation.reliability.{self.results}"


LAYERS = (
    Layer("L0", "model", "The protocol as an exhaustive model: every interleaving of a small world, and each guard "
          "taken away", "--size short", "--size long", seeded=False),
    Layer("L1", "simulate", "The real code, call by call, on a real PostgreSQL with a clock that can be set, against "
          "an oracle", "--count 300", "--count 20000 --processes 2"),
    Layer("L2", "interleave", "The real code, statement by statement, in random interleavings of writers, workers, "
          "queries and moves", "--count 60", "--count 2500 --processes 2"),
    Layer("L3", "crashes", "SIGKILL of real processes, at every named point of each of their turns",
          "--count 36", "--count 144 --processes 2"),
    Layer("L4", "faults", "Faults on the SQL wire, in encoders and on full disks", "--count 2",
          "--count 10 --processes 2"),
    Layer("L5", "checker", "The checker that reads recorded histories, itself tested with broken ones", "--bench",
          "--bench", seeded=False),
    Layer("L6", "soak", "A soak: writers, queries, migrations, rollbacks, and kills of all, PostgreSQL too, at random",
          "--seconds 30", "--seconds 600"),
    Layer("L7", "hunt", "35 seeded bugs, each planted into the real code, SQL or model, and which layer saw it",
          "--effort 1", "--effort 10"),
    Layer("L8", "adopting", "A table that an application writes is taken over, migrated and given back; each is "
          "killed, and every row and answer judged", "--count 3", "--count 40"),
)  # fmt: skip


def main() -> int:
    """Run the layers; return 1 if one of them found something or missed a goal."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.reliability.prove",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=("short", "long"), default="short")
    parser.add_argument("--only", default=",".join(layer.name for layer in LAYERS), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--results", type=Path, help="default: with the committed results, or .revector/proof if short")
    parser.add_argument("--report-only", action="store_true", help="write the report from the results that are there")
    given = parser.parse_args()
    folder: Path = given.results or (RESULTS if given.size == "long" else ROOT / ".revector" / "proof")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = () if given.report_only else [layer for layer in LAYERS if layer.name in given.only.split(",")]
    failed = [
        layer.name for layer in wanted if not _run(layer, given.size, given.seed, folder / f"{layer.results}.json")
    ]
    report = write_report([(layer.name, layer.says, layer.results) for layer in LAYERS], folder)
    print(f"\nThe report: {report}\nThe figures: {folder}/*.json")
    if failed:
        print(f"Not as promised: {', '.join(failed)}")
    return 1 if failed else 0


def _run(layer: Layer, size: str, seed: int, results: Path) -> bool:
    options = (layer.long if size == "long" else layer.short).split()
    if layer.seeded:
        options += ["--seed", str(seed)]
    print(f"\n{layer.name}  {layer.says}", flush=True)
    started = time.monotonic()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", layer.module, *options, "--results", str(results)],
        cwd=ROOT,
        env=environment,
        check=False,
    )
    print(
        f"{layer.name}  {'as promised' if done.returncode == 0 else 'NOT as promised'}, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return done.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
