"""The shell commands of the manual: found in its blocks, and run as a reader would, in one shell and in their order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"\*Not run by the tests: [^*]+\*\s*\Z")
LIMIT_S = 300
SETTLED = {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120", "LC_ALL": "C.UTF-8"}
"""What no command's environment leaves open."""


@dataclass(frozen=True)
class Command:
    """What is typed after ``$ ``, and the lines that are shown below it; ``…`` stands for whatever is there."""

    typed: str
    shown: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, unless the command's comment says otherwise."""
        said = re.search(r"#.*exit code (\d+)", self.typed)
        return int(said[1]) if said else 0


def commands(page: Path) -> list[Command]:
    """The commands of a page's ``console`` blocks; not of those below *Not run by the tests: …*."""
    text = page.read_text(encoding="utf-8")
    found = list[Command]()
    for block in BLOCK.finditer(text):
        if block[1] == "console" and not NOT_RUN.search(text[: block.start()]):
            for one in re.split(r"^\$ ", block[2], flags=re.MULTILINE)[1:]:
                lines = one.splitlines()
                more = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
                typed = "\n".join([lines[0], *(line[2:] for line in lines[1:more])])
                found.append(Command(typed, tuple(lines[more:])))
    return found


def missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first shown line that is not there, each being looked for below the one before."""
    below = iter(output.splitlines())
    for line in shown:
        wanted = re.compile(".*".join(map(re.escape, line.rstrip().split("…"))))
        if line.strip() not in {"", "…"} and not any(wanted.fullmatch(one.rstrip()) for one in below):
            return line
    return None


def play(
    typed: list[tuple[str, int]], folder: Path, programs: Path, environment: dict[str, str]
) -> list[tuple[int, str]]:
    """Run commands in one shell, up to the first that does not end with its exit code; each one's exit code and output.

    ``programs`` is first in its PATH. What they leave running is ended.
    """
    script = ["exec 2>&1", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"]
    for command, code in typed:
        script += [command, rf"last=$?; printf '\036%s\036' $last; [ $last = {code} ] || exit"]
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = SETTLED | {"PATH": path, "HOME": str(folder)}
    bash = ["bash", "-c", "\n".join(script)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with subprocess.Popen(bash, cwd=folder, env=env | environment, text=True, start_new_session=True, **pipes) as shell:
        try:
            output, _ = shell.communicate(timeout=LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    parts = output.split("\036")
    return [(int(code), output) for output, code in zip(parts[::2], parts[1::2], strict=False)]
