"""What the tests of `test_cli` and its neighbours share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from revector.cli.app import app

HEAVY = {"torch", "pandas", "pyarrow", "scipy", "sklearn", "sentence_transformers", "h5py", "airflow"}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ended]


def started(*words: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "revector", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(command, cwd=cwd, text=True, **pipes)


def commands() -> Iterator[tuple[list[str], Any]]:
    def walk(path: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
        inner = getattr(command, "commands", {})
        for name, one in inner.items():
            yield from walk([*path, name], one)
        if not inner:
            yield path, command

    yield from walk([], get_command(app))


def write_source(folder: Path, count: int = 80) -> None:
    words = (
        {"id": f"d{n:05d}", "body": f"apple{n} pear{n} some words here", "lang": "de" if n % 2 else "en"}
        for n in range(count)
    )
    (folder / "docs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*words, {"id": "none", "body": ""}]))
