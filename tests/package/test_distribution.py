"""The wheel holds the package with its manual and nothing else; the source archive is enough to build it again."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MADE = {"__pycache__", ".ruff_cache", ".mypy_cache"}


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("in_root")
def test_the_wheel_holds_the_package_and_its_manual_and_names_its_licence(tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.build", reason="needs hatchling, of the extra `dev`")
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
        about = f"revector-{PROJECT['version']}.dist-info"
        metadata = HeaderParser().parsestr(wheel.read(f"{about}/METADATA").decode())
    source = ROOT / "src" / "revector"
    wanted = {
        f"revector/{path.relative_to(source)}"
        for path in source.rglob("*")
        if path.is_file() and not MADE.intersection(path.parts)
    }
    wanted |= {f"revector/manual/{page.relative_to(ROOT / 'docs')}" for page in (ROOT / "docs").rglob("*.md")}
    wanted |= {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert names == wanted
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])


@pytest.mark.usefixtures("in_root")
def test_the_source_archive_has_what_builds_tests_and_explains_it_and_no_state(tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.build", reason="needs hatchling, of the extra `dev`")
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "docs/start.md", "src/revector/py.typed"} <= names
    assert "tests/package/test_distribution.py" in names
    assert [name for name in names if name.startswith((".venv", ".revector", "dist/")) or name == ".env"] == []
