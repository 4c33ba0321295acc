"""The package as a whole: layers point one way, style and types hold, and nothing heavy is imported by the way."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import revector

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "sentence_transformers", "sklearn", "h5py", "pandas", "pyarrow", "openai", "airflow")


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_layers_point_one_way() -> None:
    run("-c", "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])")


def test_no_module_needs_itself_also_not_by_a_late_import() -> None:
    graph = grimp.build_graph("revector", cache_dir=None)
    graphlib.TopologicalSorter(
        {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    ).prepare()


def test_ruff_finds_nothing() -> None:
    run("-m", "ruff", "check", ".")


ROOMS = ("src", "dags", "plugins", "docs", "evaluation", "tests")
NOT_SAID = {
    "anew": "again",
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "hitherto": "so far",
    "thereof": "of it",
    "needs not": "does not need",
    "nobody's": "no one's",
    "somebody": "someone",
    "tells of": "reports",
    "told of": "is called with, hears of",
    "whoever": "anyone who",
    "made up for": "finished",
    "behind users' backs": "without affecting users",
}
"""What reads as translated, and what to say instead."""


def test_the_words_are_those_of_plain_english() -> None:
    said = re.compile("|".join(rf"\b{re.escape(words)}\b" for words in NOT_SAID), re.IGNORECASE)
    kinds = ("*.py", "*.md", "*.js", "*.html", "*.css")
    places = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    places += [path for room in ROOMS for kind in kinds for path in (ROOT / room).rglob(kind)]
    places.remove(Path(__file__))
    found = [
        f"{path.relative_to(ROOT)}:{n}: {match[0]!r}, say {NOT_SAID[match[0].lower()]!r}"
        for path in places
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in said.finditer(line)
    ]
    assert found == []


def test_everything_is_formatted() -> None:
    run("-m", "ruff", "format", "--check", ".")


@pytest.mark.slow
def test_types_hold() -> None:
    run("-m", "mypy")


def test_a_migration_file_can_import_exactly_what_it_may_hold() -> None:
    assert revector.__all__ == ["Chunking", "Gate", "IndexSpec", "ModelSpec", "VectorStore", "__version__", "guard"]
    assert all(hasattr(revector, name) for name in revector.__all__)


@pytest.mark.parametrize("module", ["revector", "revector.config", "revector.indexing.worker"])
def test_importing_the_library_imports_nothing_heavy(module: str) -> None:
    found = f"set({HEAVY}) & set(sys.modules)"
    run("-c", f"import sys, {module}; sys.exit(' '.join({found}) or 0)")


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*.py")
        if not path.read_text(encoding="utf-8").lstrip("r").startswith('"""')
    ]
    assert silent == []


def test_a_class_name_says_what_it_is_once_in_the_project() -> None:
    places: dict[str, list[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


MOST_LINES, LONGEST_FUNCTION = 400, 50


def test_no_file_and_no_function_is_longer_than_a_reader_keeps_in_mind() -> None:
    long = []
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > MOST_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = int(node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []
