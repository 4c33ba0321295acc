"""Models of texts and images on emoji that they were not trained on: two versions, and one whose text tower is another.

Everything is measured by the gate, through indexes: recall@10 of 400 pictures among 1,460 by their names, and of the
names by their pictures. Chance is 0.007 for a picture, 0.025 for a name. Needs the packages of evaluation/images.txt.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from evaluation.bench.common import Figure, machine, parser, revector, temporary_project, write
from revector import embedded
from revector.config import Project, load_project
from revector.errors import GateFailed
from revector.gate.cross_modal import WORDS, CrossModal, Direction
from revector.local import image_demo
from revector.local.emoji import LABELS
from revector.local.emoji_towers import LONE
from revector.measure.statistics import paired_interval, score_interval

MOST_CPU_S = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure; return 1 if a figure misses its goal."""
    options = parser("evaluation.bench.towers", __doc__)
    chosen = options.parse_args(argv)
    os.environ |= {"REVECTOR_ENCODER__THREADS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    before = machine()
    with temporary_project("") as root:
        (root / "dags").mkdir()
        figures = list(_figures(root))
    return write(chosen.output, "python -m evaluation.bench.towers", before, figures)


def _figures(root: Path) -> Iterator[Figure]:
    console, began = Console(stderr=True), time.process_time()
    project = image_demo.make_project(load_project(root), console)
    spent = round(time.process_time() - began, 1)
    yield Figure("drawing, and training both versions", spent, "CPU s", f"at most {MOST_CPU_S}", spent <= MOST_CPU_S)
    try:
        project.init()
        image_demo.ingest(project, console)
        refused = image_demo.refuse_words_alone(project, console) is not None
        yield Figure("another text tower alone is refused by plan", str(refused).lower(), "", "true", refused)
        alone, why = _gated(project, LONE)
        yield from _compared(alone, "first version", "its text tower replaced", "< 0, shown")
        yield Figure("… where both directions are demanded, the gate", why, "", "refuses", bool(why))
        yield from _adapted(project)
        both, why = _gated(project, "second")
        yield from _compared(both, None, "second version", "> -0.02, shown")
        yield Figure("… and the gate", why or "passes", "", "passes", not why)
    finally:
        embedded.remove(project.state)


def _adapted(project: Project) -> Iterator[Figure]:
    made, pairs = f"models/{LONE}-adapted", f"{LABELS}/qrels/train.tsv"
    words = ("-c", image_demo.COLLECTION, "--model", f"./models/{LONE}", "--pairs", pairs)
    fitted = revector(project.root, "train", "adapter", made, *words).answer
    yield Figure("captions that its adapter is fitted on", fitted["captions"], f"captions, {fitted['way']}")
    for when in ("before", "after"):
        yield Figure(f"cosine of captions kept apart, {when} the adapter", round(fitted[when], 2), "mean cosine")
    found, why = _gated(project, Path(made).name)
    yield from _compared(found, None, "its text tower replaced and adapted", None)
    yield Figure("… and the gate", why or "passes", "")


def _gated(project: Project, model: str) -> tuple[CrossModal, str]:
    """Return what the gate measured of a model after the first version, and why it refused it; nothing stays."""
    revision = image_demo.add_revision(project, model, model)
    migrator = project.migrator(image_demo.COLLECTION, actor="bench")
    why = ""
    try:
        migrator.upgrade(revision, to="gate")
    except GateFailed as error:
        why = str(error)
    found = image_demo.cross_modal(project)
    migrator.abort("measured")
    next(project.migrations(image_demo.COLLECTION).glob(f"{revision}_*.py")).unlink()
    return found, why


def _compared(found: CrossModal, old_name: str | None, new_name: str, goal: str | None) -> Iterator[Figure]:
    assert found.old is not None  # cross_modal has made sure
    ways: tuple[Direction, ...] = ("text_to_image", "image_to_text")
    for way in ways:
        old, new = found.old[way], found.new[way]
        for name, scores in ((old_name, old), (new_name, new)):
            if name is not None:
                mean = score_interval(scores)
                said = f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f})"
                yield Figure(f"{name}: {WORDS[way]}", said, "recall@10")
        change = paired_interval(old, new)
        holds = None if goal is None else change.high < 0 if goal[0] == "<" else change.low > -image_demo.DROP
        said = f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
        yield Figure(f"{new_name}, against the first: {WORDS[way]}", said, "recall@10", goal, holds)


if __name__ == "__main__":
    sys.exit(main())
