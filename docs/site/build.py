"""Builds the manual as a site: the README, docs, every file that they link to, and the reference made of the code.

    python -m docs.site.build OUT

Files keep their places beside each other, so links are the same on the site and in the repository.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from docs.site.reference import PAGES

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
BOX = r'(\w+)(?:\["([\w.]+)<br>([\w/.]+)"\])?'
ARROW = re.compile(rf'^ *{BOX} (?:-- "([^"]+)" )?--> {BOX}$', re.MULTILINE)
PICTURE = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)


def linked(page: Path) -> Iterator[Path]:
    """The files that a page links to, below the root of the repository."""
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            yield (page.parent / unquote(target)).resolve()


def manual() -> set[Path]:
    """Every file of the manual; a folder stands for what is in it."""
    found, new = set[Path](), {ROOT / "README.md", *(ROOT / "docs").glob("*.md")}
    while new:
        found |= new
        pages = [path for path in new if path.suffix == ".md"]
        new = {path for page in pages for path in linked(page)} - found
    return found


def as_table(picture: re.Match[str]) -> str:
    """A picture's arrows as rows: Mermaid would be loaded from another site."""
    named = {name: (what, file) for a in ARROW.findall(picture[1]) for name, what, file in (a[:3], a[4:]) if what}
    rows = [
        f"| `{named[start][0]}` in `{named[start][1]}` | {how or 'calls'} | `{named[end][0]}` in `{named[end][1]}` |"
        for start, _, _, how, end, _, _ in ARROW.findall(picture[1])
    ]
    return "\n".join(["| from | how | to |", "|---|---|---|", *rows])


def stage(folder: Path) -> None:
    """Put the manual into ``folder`` as the site generator takes it."""
    pages = folder / "pages"
    for path in sorted(manual()):
        target = pages / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        elif path.suffix == ".md":
            target.write_text(PICTURE.sub(as_table, path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    for name, page in PAGES.items():
        target = pages / "reference" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(page(), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("zensical.toml"), folder / "zensical.toml")


def build(out: Path) -> None:
    """Make the site in ``out``. Raises ``CalledProcessError`` where a link leads nowhere."""
    with tempfile.TemporaryDirectory() as made:
        stage(Path(made))
        subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=made, check=True)
        shutil.copytree(Path(made, "site"), out, dirs_exist_ok=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
