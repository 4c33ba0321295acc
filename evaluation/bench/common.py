"""What the benchmarks share: a project of their own, the command line as a subprocess, and the file of figures."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.temporary import owned

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"

PAIRS_FILE = RESULTS / "pairs" / "gate.json"
"""What ``gate_pairs`` counts, for ``gate_real``: no figures, but what figures are made of."""

PROXY_PAIRS_FILE = RESULTS / "pairs" / "gate_proxy.json"
"""What ``gate_proxy_pairs`` counts, for ``gate_proxy``."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; ``goal`` is None where it is only reported, and ``holds`` with it."""

    name: str
    value: float | str | None
    unit: str
    goal: str | None = None
    holds: bool | None = None


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Return the command line of a benchmark; it has ``--output``, by default ``results/<name>.json``."""
    # SIGTERM ends the project's server too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = module.rpartition(".")[2]
    made.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", help="default: %(default)s")
    return made


def machine() -> dict[str, Any]:
    """Describe this machine and how busy it is: figures of a shared machine are no better than its load."""
    load = [round(one, 2) for one in os.getloadavg()]
    versions = {name: _version(name) for name in ("torch", "sentence-transformers", "sqlalchemy", "psycopg")}
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "instructions": _instructions(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
        "load_average_1_5_15_min": load,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
}


def _instructions() -> str | None:
    """Return the vector instructions that matter for speed, and oneDNN's own limit where one is set."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
                found = [shown for flag, shown in _INSTRUCTIONS.items() if flag in flags]
                return ", ".join(found) + (f"; ONEDNN_MAX_CPU_ISA={limit}" if limit else "")
    return None


def write(path: Path, command: str, before: Mapping[str, Any], figures: Sequence[Figure]) -> int:
    """Keep and print the figures; return 1 if one misses its goal, else 0. ``before``: ``machine()`` at the start."""
    after = [round(one, 2) for one in os.getloadavg()]
    data = {
        "command": command,
        "machine": {**before, "load_average_at_end_1_5_15_min": after},
        "figures": [asdict(figure) for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return show(figures)


def show(figures: Sequence[Figure]) -> int:
    """Print the figures; return 1 if one misses its goal, else 0."""
    for figure in figures:
        mark = {None: " ", True: "✓", False: "✗"}[figure.holds]
        goal = f"   (goal: {figure.goal})" if figure.goal else ""
        print(f"{mark} {figure.name}: {figure.value} {figure.unit}{goal}")
    return int(any(figure.holds is False for figure in figures))


@contextmanager
def temporary_project(settings: str) -> Iterator[Path]:
    """A folder with this ``revector.toml``; at the end its PostgreSQL and its files are gone."""
    from revector import embedded

    folder = owned(Path(tempfile.mkdtemp(prefix="revector-bench-")))
    folder.chmod(0o755)
    (folder / "revector.toml").write_text(settings, encoding="utf-8")
    try:
        yield folder
    finally:
        embedded.remove(folder / ".revector")
        shutil.rmtree(folder, ignore_errors=True)


def revision(root: Path, collection: str, name: str, parent: str | None, body: str) -> None:
    """Write a migration file; ``body`` assigns ``model`` and, where wanted, ``chunking``, ``index`` and ``gate``."""
    folder = root / "migrations" / collection
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(
        f'"""{name}"""\n\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n\n'
        f"revision = {name!r}\ndown_revision = {parent!r}\n\n{body}\n",
        encoding="utf-8",
    )


def environment(root: Path) -> dict[str, str]:
    """Return the environment of everything that a benchmark starts: its project, one thread a model, no model hub.

    Compiled files are kept, as with most users: images of containers often say otherwise, and each command would then
    compile again what it imports.
    """
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "REVECTOR_CONFIG": str(root / "revector.toml"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command: its JSON (None without any), wall seconds and largest resident memory in MiB."""

    answer: Any
    wall_s: float
    peak_mib: float


def revector(root: Path, *words: str) -> Ran:
    """Run ``python -m revector … --json`` and look at its memory every 20 ms.

    Raises ``RuntimeError`` with what the command said if it fails.
    """
    import psutil

    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [sys.executable, "-m", "revector", *words, "--json"]
        with subprocess.Popen(command, cwd=root, env=environment(root), stdout=out, stderr=err) as process:
            seen = psutil.Process(process.pid)
            while process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, seen.memory_info().rss)
                time.sleep(0.02)
        wall_s = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        said, complaint = out.read().decode(), err.read().decode()
    if process.returncode != 0:
        raise RuntimeError(f"revector {' '.join(words)} ended with {process.returncode}:\n{said}\n{complaint}")
    print(f"  {wall_s:7.1f} s  {peak / 2**20:6.0f} MiB  revector {' '.join(words)}", file=sys.stderr)
    return Ran(json.loads(said) if said.strip() else None, wall_s, peak / 2**20)
