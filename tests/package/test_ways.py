"""The two pictures of docs/ways.md are true: each box is in the file that it names, and each call is possible."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "revector"
BOX = re.compile(r'(\w+)\["([\w.]+)<br>([\w/.]+)"\]')
ARROW = re.compile(r'(\w+)(?:\["[^"]*"\])? (?:-- "([^"]+)" )?--> (\w+)')

PICTURES = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs" / "ways.md").read_text(encoding="utf-8"), re.DOTALL)


def names_in(file: str) -> set[str]:
    """Functions, classes, methods and constants of a module, or functions of a schema version."""
    text = (SOURCE / file).read_text(encoding="utf-8")
    if file.endswith(".sql"):
        return set(re.findall(r"FUNCTION revector\.(\w+)", text))
    found = set[str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return found


def imports(file: str, other: str) -> bool:
    package, _, name = f"revector/{other}".removesuffix(".py").replace("/", ".").rpartition(".")
    text = (SOURCE / file).read_text(encoding="utf-8")
    return bool(re.search(rf"from {package} import .*\b{name}\b|from {package}\.{name} import", text))


@pytest.mark.parametrize("picture", PICTURES, ids=["document", "migration"])
def test_every_box_of_a_way_is_in_the_file_that_it_names(picture: str) -> None:
    boxes = BOX.findall(picture)
    assert len(boxes) > 5
    assert [f"{symbol} of {file}" for _, symbol, file in boxes if symbol not in names_in(file)] == []


@pytest.mark.parametrize("picture", PICTURES, ids=["document", "migration"])
def test_every_call_of_a_way_is_from_a_module_that_imports_the_other(picture: str) -> None:
    files = {box: file for box, _, file in BOX.findall(picture)}
    calls = [(files[a], files[b]) for a, words, b in ARROW.findall(picture) if not words]
    assert len(calls) > 3
    assert [call for call in calls if not imports(*call)] == []
