"""Plants small mistakes into the protocol's Python, one at a time, and says which of them no test sees.

    python -m evaluation.mutants --sample 150          a seeded sample of all files that mutants.toml names
    python -m evaluation.mutants FILE… --sample 20     of these files only

cosmic-ray finds and makes the mistakes, in a clone of what is committed. Of each place of a file one mistake is drawn.
The tests that mutants.toml names run once without any; with a mistake, one of those that run its statement must fail
(``mutants_tried``). Run again, it goes on where it was: a mistake that was seen is not tried again while its file stays
the same, one that was missed is when anything was committed.

The tests run on the Python that runs this, and on the PostgreSQL that ``$REVECTOR_TEST_DATABASE_URL`` names, if any.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.bench.common import ROOT, Figure, machine, write
from evaluation.mutants_tried import ASKED, HANGS_S, telling
from evaluation.reliability.pieces import RESULTS

COSMIC = [str(Path(sys.executable).with_name("uv")), *shlex.split("tool run --from cosmic-ray==8.7.0")]
"""Its own packages stay out of the environment of the project."""

MAKE = """
import json, sys
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
made = [mutate_code(open(file).read(), get_operator(name)(), n) for file, name, n in json.load(sys.stdin)]
json.dump(made, sys.stdout)
"""
"""Returns what cosmic-ray makes of files."""

KNOWN = Path(__file__).with_suffix(".toml")
COPY, JOURNAL = ROOT / ".revector/mutants", ROOT / ".revector/mutants.jsonl"

LEAST, GOAL_PERCENT, GOAL_MIN = 120, 90, 10
"""Goals: mistakes tried, how many of them are seen, and how long the tests take that see them."""

REFUSING = ("frozen", "slots", "strict")

Span = tuple[tuple[int, int], tuple[int, int]]
"""A range of text: line from 1 and column from 0 of its start and of its end."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake: its operator, and the number of the place at which that acts, with line and column."""

    file: str
    operator: str
    occurrence: int
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A mistake to try: ``line`` of its statement, None for what an import runs; ``key`` of it and its file's text."""

    mutant: Mutant
    key: str
    line: int | None
    text: str
    change: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tests said of a mistake. ``change``: the lines before and after it."""

    file: str
    line: int
    change: str
    killed: bool


# What there is to change ----------------------------------------------------------------------------------------------


def could_be_seen(mutant: Mutant, tree: ast.Module) -> bool:
    """Whether a test could see the mutant. The others are left out: they would flatter the figure or hide holes.

    * In annotations nothing is evaluated: ``int | None`` may as well be ``int >> None``.
    * The ``*`` and ``**`` of signatures and calls are no operators. cosmic-ray takes them for some: a syntax error.
    * Numbers that have a name of the module's, such as ``LEASE_S``, are a choice: a test could only repeat them.
    * ``frozen``, ``slots`` and ``strict`` refuse what no line here does: without them all else is the same.
    """
    at, names = (mutant.line, mutant.column), (ast.Assign, ast.AnnAssign)
    refusing = [one.value for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg in REFUSING]
    spans = [_span(one) for one in (*_annotations(tree), *refusing)]
    if mutant.operator.endswith("NumberReplacer"):
        spans += [_span(node) for node in tree.body if isinstance(node, names)]
    if "ReplaceBinaryOperator" in mutant.operator:
        between = ((_span(one.left)[1], _span(one.right)[0]) for one in ast.walk(tree) if isinstance(one, ast.BinOp))
        if not _inside(at, list(between)):
            return False
    return not _inside(at, spans)


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        found = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
        if isinstance(found, ast.expr):
            yield found


def _span(node: ast.expr | ast.stmt) -> Span:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _inside(at: tuple[int, int], spans: Sequence[Span]) -> bool:
    return any(start <= at < end for start, end in spans)


def line_of(mutant: Mutant, tree: ast.Module) -> int | None:
    """Return the line of the statement that a mutant is in; None for what an import runs."""
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    inside = [node for one in functions for stmt in one.body for node in ast.walk(stmt) if isinstance(node, ast.stmt)]
    around = [one.lineno for one in inside if one.lineno <= mutant.line <= (one.end_lineno or 0)]
    return max(around, default=None)


def drawn(files: Sequence[str], trees: Mapping[str, ast.Module], seed: int) -> list[Mutant]:
    """Return one mutant of each place of the files of the copy, in an order that the seed draws."""
    settings, session = COPY / "cosmic.toml", COPY / "cosmic.sqlite"
    settings.write_text(
        f"[cosmic-ray]\nmodule-path = {json.dumps(list(files))}\ntimeout = 1\nexcluded-modules = []\n"
        'test-command = "false"\n\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    subprocess.run([*COSMIC, "cosmic-ray", "init", settings.name, session.name], cwd=COPY, check=True)
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    columns = "module_path, operator_name, occurrence, start_pos_row, start_pos_col"
    with sqlite3.connect(session) as found:
        for row in found.execute(f"SELECT {columns} FROM mutation_specs ORDER BY 1, 4, 5, 2, 3"):
            mutant = Mutant(*row)
            if could_be_seen(mutant, trees[mutant.file]):
                places.setdefault((mutant.file, mutant.line, mutant.column), []).append(mutant)
    drawn_by: dict[float, Mutant] = {}
    for place, mutants in places.items():
        draw = random.Random(f"{seed} {place}")  # of its own: of one file the same is drawn as of all
        drawn_by[draw.random()] = draw.choice(mutants)
    return [drawn_by[order] for order in sorted(drawn_by)]


def asked(mutants: Sequence[Mutant], trees: Mapping[str, ast.Module]) -> list[Asked]:
    """Return mutants with the texts that cosmic-ray makes of their files."""
    given = json.dumps([(one.file, one.operator, one.occurrence) for one in mutants])
    made = subprocess.run(
        [*COSMIC, "python", "-c", MAKE], cwd=COPY, check=True, input=given, stdout=subprocess.PIPE, text=True
    )
    found = []
    for one, text in zip(mutants, json.loads(made.stdout), strict=True):
        before = (COPY / one.file).read_text()
        key = hashlib.sha256(f"{before}{one.operator}{one.occurrence}".encode()).hexdigest()[:16]
        lines = zip(before.splitlines(), text.splitlines(), strict=False)
        old, new = next(((a, b) for a, b in lines if a != b), ("", ""))
        change = f"{old.strip()}  →  {new.strip()}"
        found.append(Asked(one, key, line_of(one, trees[one.file]), text, change))
    return found


# Trying ---------------------------------------------------------------------------------------------------------------


def git(*words: str) -> str:
    """Run git in the copy and return what it prints."""
    return subprocess.run(["git", *words], cwd=COPY, check=True, capture_output=True, text=True).stdout.strip()


def fresh_copy() -> str:
    """Clone what is committed; return the commit."""
    shutil.rmtree(COPY, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(COPY)], check=True)
    return git("rev-parse", "HEAD")


@dataclass(frozen=True, slots=True)
class Journal:
    """What was said so far, kept in a file: of mistakes by their key, and of tests by their name."""

    killed: Mapping[str, bool]
    commits: Mapping[str, str]
    took_s: Mapping[str, float]
    files_of: Mapping[str, frozenset[str]]
    """By test, the files of which it runs something."""

    def knows(self, key: str, commit: str) -> bool:
        """Whether a mistake need not be tried: it was seen, or missed by the tests of this commit."""
        return key in self.killed and (self.killed[key] or self.commits[key] == commit)


def journal() -> Journal:
    """Read the file; a line that names a commit begins a run."""
    killed, commits, took_s, files_of = dict[str, bool](), dict[str, str](), dict[str, float](), {}
    commit = ""
    for line in JOURNAL.read_text().splitlines() if JOURNAL.exists() else ():
        said = json.loads(line)
        if "commit" in said:
            commit = said["commit"]
        elif "test" in said:
            took_s[said["test"]] = said["took_s"]
            files_of[said["test"]] = frozenset(one.partition(":")[0] for one in said["lines"])
        else:
            killed[said["key"]], commits[said["key"]] = said["killed"], commit
    return Journal(killed, commits, took_s, files_of)


def note(said: Mapping[str, object]) -> None:
    """Add a line to the journal."""
    with JOURNAL.open("a") as file:
        file.write(json.dumps(said) + "\n")


def pytest(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start the tests in the copy; what they print is in its ``tests.log``."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
    environment = {**os.environ, "PYTHONPATH": "src:.", "HF_HUB_OFFLINE": "1", **environment}
    with (COPY / "tests.log").open("w") as said:
        return subprocess.Popen(command, cwd=COPY, env=environment, stdout=said, stderr=subprocess.STDOUT)


def tests_of(files: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Return the files of tests that judge some files, each once."""
    return list(dict.fromkeys(f"tests/{one}" for file in files for one in known["judges"][file].split()))


def try_all(files: Sequence[str], todo: Sequence[Asked], known: Mapping[str, Any], commit: str) -> bool:
    """Run the tests, then try what can be tried beside them; False where they fail without a mistake."""
    inside = [one for one in todo if one.line is not None]
    mutants = [{"key": one.key, "file": one.mutant.file, "line": one.line, "text": one.text} for one in inside]
    into = COPY / "asked.json"
    into.write_text(json.dumps({"journal": str(JOURNAL), "without": known["without"], "mutants": mutants}))
    for file in files:
        (COPY / file).write_text(telling((COPY / file).read_text(), file))
    run, shown, started = (
        pytest("-p", "evaluation.mutants_tried", *tests_of(files, known), **{ASKED: str(into)}),
        0,
        0.0,
    )
    while run.poll() is None:
        time.sleep(1)
        now = journal()
        done = [one for one in inside if now.commits.get(one.key) == commit]
        if len(done) != shown:
            started = started or time.monotonic()
            left_min = (time.monotonic() - started) / len(done) * (len(inside) - len(done)) / 60
            print(f"{len(done)} of {len(inside)}, {left_min:.0f} min left", flush=True)
            shown = len(done)
    git("checkout", "-q", *files)
    return run.returncode == 0


def try_alone(one: Asked, tests: Sequence[str], took_s: float) -> bool:
    """Whether a test fails with a mistake in a process of its own, as what an import runs must be tried."""
    path = COPY / one.mutant.file
    path.write_text(one.text)
    run = pytest(*tests)
    try:
        return run.wait(HANGS_S + 3 * took_s) != 0
    except subprocess.TimeoutExpired:
        run.terminate()
        return run.wait() is not None
    finally:
        git("checkout", "-q", one.mutant.file)


# The figures ----------------------------------------------------------------------------------------------------------


def figures(
    tried: Sequence[Trial], places: int, took_min: float, reasons: Mapping[tuple[str, str], str]
) -> list[Figure]:
    """Return what was tried and seen, and each mutant that was not: equivalent for a reason, or a hole in the tests."""
    missed = sorted((one for one in tried if not one.killed), key=lambda one: (one.file, one.line))
    equivalent = sum((one.file, one.change) in reasons for one in missed)
    killed = len(tried) - len(missed)
    percent = round(100 * killed / max(1, len(tried) - equivalent), 1)
    took = Figure(
        "all tests that judge, one after another", round(took_min, 1), "min", f"≤ {GOAL_MIN}", took_min <= GOAL_MIN
    )
    return [
        Figure("places at which a mistake can be made", places, ""),
        Figure("mistakes tried, one of a place", len(tried), "", f"≥ {LEAST}", len(tried) >= LEAST),
        Figure("of these seen by a test", killed, ""),
        Figure("of these equivalent: nothing is different for anyone", equivalent, ""),
        Figure("seen of those that are not equivalent", percent, "%", f"≥ {GOAL_PERCENT}", percent >= GOAL_PERCENT),
        took,
        *(
            Figure(f"{one.file}:{one.line}: {one.change}", reasons.get((one.file, one.change), "missed"), "")
            for one in missed
        ),
    ]


def options(doc: str | None, known: Mapping[str, Any]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.mutants", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"default: the {len(known['judges'])} of mutants.toml")
    parser.add_argument("--sample", type=int, default=150, help="mutants to try; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--known", action="store_true", help="the figures of what was tried by now; nothing is run")
    return parser.parse_args()


def main() -> int:
    """Try the sample; return 1 where too many mistakes were missed, or the tests take too long."""
    known = tomllib.loads(KNOWN.read_text())
    given, before = options(__doc__, known), machine()
    files, commit = given.files or list(known["judges"]), fresh_copy()
    trees = {file: ast.parse((COPY / file).read_text()) for file in files}
    mutants = drawn(files, trees, given.seed)
    wanted, old = asked(mutants[: given.sample], trees), journal()
    note({"commit": commit})
    todo = [one for one in wanted if not old.knows(one.key, commit)]
    if given.known:
        wanted, todo = [one for one in wanted if one.key in old.killed], []
    print(f"{len(wanted) - len(todo)} of {len(wanted)} are known; the tests run, then the others are tried", flush=True)
    if todo and not try_all(files, todo, known, commit):
        print(f"tests fail without any mistake, see {COPY / 'tests.log'}: nothing was tried.", file=sys.stderr)
        return 1
    ran = journal()
    for one in [one for one in todo if one.line is None]:
        tests = sorted(
            (name for name in ran.took_s if one.mutant.file in ran.files_of[name]), key=ran.took_s.__getitem__
        )
        killed = try_alone(one, tests, sum(ran.took_s[name] for name in tests))
        note({"key": one.key, "killed": killed, "tests": len(tests)})
        print(f"{one.mutant.file}:{one.mutant.line} {'seen' if killed else 'MISSED'}", flush=True)
    now = journal()
    tried = [Trial(one.mutant.file, one.mutant.line, one.change, now.killed[one.key]) for one in wanted]
    reasons = {(one["file"], one["change"]): one["reason"] for one in known["equivalent"]}
    found = figures(tried, len(mutants), sum(ran.took_s.values()) / 60, reasons)
    command = (
        f"python -m evaluation.mutants --sample {given.sample} --seed {given.seed}{' --known' if given.known else ''}"
    )
    return write((COPY if given.files else RESULTS) / "mutants.json", command, before, found)


if __name__ == "__main__":
    raise SystemExit(main())
