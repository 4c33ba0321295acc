"""The manual as a site: it builds strictly, loads nothing from elsewhere, and its reference has all that there is."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import typer
from docs.site.reference import PAGES
from pydantic import BaseModel
from typer.core import TyperGroup

from revector.cli.app import app
from revector.database.grants import READS, WRITES
from revector.settings import CollectionSettings, Settings

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?([^\"' >]+)|<link\b[^>]*\bhref=[\"']?([^\"' >]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="needs zensical, of the extra `docs`")
    out = tmp_path_factory.mktemp("site")
    importlib.import_module("docs.site.build").build(out)
    return out


@pytest.mark.slow
def test_no_page_loads_a_script_font_or_style_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    loaded = {one[0] or one[1] for page in pages for one in LOADED.findall(page.read_text(encoding="utf-8"))}
    assert any(one.endswith(".css") for one in loaded)
    assert any(one.endswith(".js") for one in loaded)
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    loaded |= set(re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", styles))
    assert [one for one in loaded if re.match(r"(?:https?:)?//", one)] == []
    assert [page.name for page in pages if 'class="mermaid"' in page.read_text(encoding="utf-8")] == []


def test_the_navigation_has_every_page_of_the_manual_and_of_the_reference() -> None:
    config = tomllib.loads((ROOT / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8"))
    named = re.findall(r"'([\w/-]+\.md)'", repr(config["project"]["nav"]))
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")} | {
        f"reference/{name}" for name in PAGES
    }
    assert {page for page in named if page.startswith(("docs/", "reference/"))} == pages
    assert len(named) == len(set(named))
    assert [page for page in named if not page.startswith("reference/") and not (ROOT / page).is_file()] == []


@pytest.mark.slow
def test_the_reference_has_every_command(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")

    def names(group: TyperGroup, before: str) -> list[str]:
        return [
            name
            for one in group.commands.values()
            for name in (
                names(one, f"{before}-{one.name}") if isinstance(one, TyperGroup) else [f"{before}-{one.name}"]
            )
        ]

    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    assert [name for name in names(root, "revector") if f'id="{name}"' not in page] == []


def test_the_page_of_settings_names_every_setting() -> None:
    named = set(re.findall(r"[`.>]([a-z_]+)", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")))
    sections: list[type[BaseModel]] = [Settings, CollectionSettings]
    for section in sections:
        values = [field.annotation for field in section.model_fields.values()]
        sections += [one for one in values if inspect.isclass(one) and issubclass(one, BaseModel)]
    assert sorted(key for section in sections for key in section.model_fields if key not in named) == []


def test_the_page_of_sql_names_every_function_and_every_refusal() -> None:
    page = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
    scripts = (ROOT / "src" / "revector" / "database" / "schema" / "versions").glob("*.sql")
    raised = {code for script in scripts for code in re.findall(r"RV\d{3}", script.read_text(encoding="utf-8"))}
    assert [name for name in (*READS, *WRITES) if f"`{name}(" not in page] == []
    assert raised == set(re.findall(r"RV\d{3}", page))
