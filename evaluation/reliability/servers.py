"""Kills a store's real server, cuts it off and puts it back to a snapshot, and keeps what was seen: a report a store.

    .venv/stores/bin/python -m evaluation.reliability.servers redis        (or chroma, pgvector, milvus-lite)

It runs the tests of ``tests/contract/test_kills.py`` on that store, the long ones too: each ends with every document
verified, every invariant asked for, and a search that must show what was written and nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from evaluation.bench.common import Figure, machine, write

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
TESTS = "tests/contract/test_kills.py"


def main() -> int:
    """Run them; return 1 if a promise broke."""
    options = argparse.ArgumentParser(prog="python -m evaluation.reliability.servers", description=__doc__)
    options.add_argument("kind", choices=("chroma", "milvus-lite", "pgvector", "redis"))
    kind, before = options.parse_args().kind, machine()
    with tempfile.TemporaryDirectory(prefix="revector-servers-") as folder:
        said = Path(folder) / "said.xml"
        marks = ["-m", "long or not long", "-k", kind, f"--junitxml={said}", "-o", "junit_family=xunit1", "-q"]
        subprocess.run([sys.executable, "-m", "pytest", TESTS, *marks], cwd=ROOT, check=False)
        cases = list(ET.parse(said).iter("testcase")) if said.exists() else []  # noqa: S314 - pytest wrote it
    figures = [_figure(one) for one in cases] + [_counted(one) for case in cases for one in case.iter("property")]
    if not figures:
        figures = [Figure("tests that ran", 0, "", "more", holds=False)]
    command = f"python -m evaluation.reliability.servers {kind}"
    return write(RESULTS / f"store_{kind}.json", command, before, figures)


def _figure(case: ET.Element) -> Figure:
    wrong = [one.tag for one in case if one.tag in ("failure", "error", "skipped")]
    name = str(case.get("name")).removeprefix("test_").replace("_", " ")
    return Figure(name, wrong[0] if wrong else "passed", "", "passed", holds=not wrong)


def _counted(found: ET.Element) -> Figure:
    return Figure(str(found.get("name")), int(str(found.get("value"))), "")


if __name__ == "__main__":
    sys.exit(main())
