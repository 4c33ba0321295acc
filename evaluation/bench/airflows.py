"""Whether revector works in each version of Airflow that its extra allows, in environments of their own.

For each ``docs/constraints/airflow-VERSION.txt``, uv installs that Airflow and revector as the file pins them, and the
tests below run there: the DAGs are imported and serialised, each runs by ``dag.test``, and a real scheduler carries out
a migration for which a person is asked. Environments are removed at the end. The newest version is also what CI has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.bench.common import ROOT, Figure, machine, parser, write
from evaluation.temporary import owned

CONSTRAINTS = ROOT / "docs" / "constraints"
VERSIONS = [path.stem.removeprefix("airflow-") for path in sorted(CONSTRAINTS.glob("airflow-*.txt"))]
TOOLS = ("hypothesis", "jsonschema", "pytest", "pytest-timeout")
"""What the tests need besides revector and Airflow, as ``requirements.lock`` pins them."""

TESTS = {
    "the DAGs are imported, their forms checked": "test_dags.py",
    "every DAG runs by dag.test; connection, notifier, provider": "test_provider.py",
    "metrics": "test_airflow_stats.py",
    "a migration by the scheduler, with approval and rollback": "test_scheduler.py",
}


def main() -> int:
    """Test each version; return 1 if one of its tests fails or skips."""
    made = parser("evaluation.bench.airflows", __doc__)
    made.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS, help="default: all")
    made.add_argument("--at-once", type=int, default=2, help="versions tested at the same time; default: %(default)s")
    chosen = made.parse_args()
    before = machine()
    with ThreadPoolExecutor(chosen.at_once) as pool:
        figures = [figure for found in pool.map(_figures, chosen.versions) for figure in found]
    versions = "" if chosen.versions == VERSIONS else f" --versions {' '.join(chosen.versions)}"
    command = f"python -m evaluation.bench.airflows --at-once {chosen.at_once}{versions}"
    return write(chosen.output, command, before, figures)


def _figures(version: str) -> list[Figure]:
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-airflow-")))
    folder.chmod(0o755)  # PostgreSQL's account runs the server that is installed there
    try:
        return _tested(version, folder)
    finally:
        shutil.rmtree(folder)


def _tested(version: str, folder: Path) -> list[Figure]:
    python, began = folder / "venv" / "bin" / "python", time.monotonic()
    _uv("venv", "--python", sys.executable, str(python.parents[1]))
    constraints = CONSTRAINTS / f"airflow-{version}.txt"
    wanted = ["-e", f"{ROOT}[airflow,embedded]", f"apache-airflow=={version}", *_pinned(TOOLS)]
    _uv("pip", "install", "--python", str(python), "--constraint", str(constraints), *wanted)
    figures = [Figure(f"Airflow {version}: installed by uv", round(time.monotonic() - began, 1), "s")]
    for what, file in TESTS.items():
        passed, count = _run(python, file, folder / "report.xml")
        figures.append(Figure(f"Airflow {version}: {what}", passed, "tests passed", f"all of {count}", passed == count))
    return figures


def _run(python: Path, file: str, report: Path) -> tuple[int, int]:
    """Run a file of tests; return how many passed, and how many there are. What did not pass is printed."""
    report.unlink(missing_ok=True)
    words = ["-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", f"--junitxml={report}", f"tests/dags/{file}"]
    # What is installed where this program runs is no part of the environment.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([python, *words], cwd=ROOT, env=clean, check=False, capture_output=True, text=True)
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - our own file
    passed = sum(not {part.tag for part in case} & {"failure", "error", "skipped"} for case in cases)
    if passed < len(cases):
        print(done.stdout, file=sys.stderr)
    return passed, len(cases)


def _pinned(names: Sequence[str]) -> list[str]:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return [pin for name in names for pin in re.findall(rf"^{re.escape(name)}==[^\s\\]+", lock, re.MULTILINE)]


def _uv(*words: str) -> None:
    beside = Path(sys.executable).with_name("uv")
    subprocess.run([beside if beside.exists() else "uv", *words, "--quiet"], check=True)


if __name__ == "__main__":
    sys.exit(main())
