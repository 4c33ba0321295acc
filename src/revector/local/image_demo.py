"""`revector demo --images`: emoji are searched by their names, and both towers of the model are replaced meanwhile.

It has a project, a database and an Airflow of its own in ``<state>/demo-images``, as the other acts have.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from revector import embedded
from revector.config import Project, load_project
from revector.errors import RevectorError, SpecError
from revector.formats.kept import plain
from revector.gate.cross_modal import EVIDENCE, WORDS, CrossModal
from revector.gate.results import gate_result
from revector.interfaces import Source
from revector.local import demo
from revector.local.demo_parts import finish
from revector.local.emoji import CORPUS, LABELS, LICENCE, draw, package_folder, write_corpus
from revector.local.emoji_towers import LONE, train_versions
from revector.local.screen import images_table, phase
from revector.local.up import airflow_of, describe, services, stoppable
from revector.measure.statistics import score_interval
from revector.revisions import RevisionGraph, write_revision
from revector.settings import FILE
from revector.sources import open_source
from revector.spec import Chunking, Gate, IndexSpec, ModelSpec

COLLECTION = "emoji"
DIM = 384
DROP = 0.02
"""What either direction may lose."""

_SETTINGS = f"""# The third act of the demo; removed and made again by each run.
[collections.{COLLECTION}]
source = "{CORPUS}"
image_field = "image"
qrels = "{LABELS}"

[encoder]
threads = 1  # one query is too little work for more
"""


def run(project: Project, *, port: int = 8080, json_path: Path | None = None, wait: bool | None = None) -> int:
    """Run the third act; return 0 if everything is as promised, 1 if not. Arguments are as for ``demo.run``."""
    console = Console()
    demo.refuse_configured_database(project)
    package_folder()
    with stoppable(), ExitStack() as stack:
        made = make_project(project, console)
        stack.callback(embedded.stop, made.state)
        stack.enter_context(services(made))
        ingest(made, console)
        refused = refuse_words_alone(made, console)
        add_revision(made, "both towers of one training", "second")
        airflow = airflow_of(made, port)
        with phase(console, "Starting Airflow, which takes half a minute to two …"):
            stack.enter_context(airflow)
        describe(airflow, console)
        figures = demo.migrate(made, COLLECTION, _source(made), airflow, console, shards=1)
        figures |= {"command": "make demo-images", "pictures": LICENCE, "refused": refused}
        figures |= {"as_promised": bool(refused and figures["as_promised"]), "cross_modal": _recalls(cross_modal(made))}
        path = json_path or made.root / "result.json"
        finish(airflow, console, figures, images_table(figures), path, stays=wait, says=demo.WAY_BACK)
    return 0 if figures["as_promised"] else 1


def make_project(project: Project, console: Console) -> Project:
    """Make the project of this act from nothing: settings, DAGs, pictures, labelled queries and models."""
    root = project.state / "demo-images"
    if root.exists():
        embedded.remove(root / ".revector")
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / FILE).write_text(_SETTINGS, encoding="utf-8")
    shutil.copytree(project.root / "dags", root / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    with phase(console, f"Drawing the emoji ({LICENCE}) …") as tell:
        emoji = draw()
        write_corpus(emoji, root)
        tell(f"{len(emoji.emoji):,} pictures, {len(emoji.held_out)} of them held out: their names are asked")
    with phase(console, "Training two versions of a model of texts and images on the others …"):
        train_versions(emoji, root / "models")
    return load_project(root)


def _source(project: Project) -> Source:
    return open_source(str(project.root / CORPUS), image_field="image")


def ingest(project: Project, console: Console) -> None:
    """Make the pictures searchable by the first version."""
    base = add_revision(project, "the first towers", "first")
    with phase(console, "Writing the pictures into the database …") as tell:
        report = project.documents(COLLECTION).ingest(_source(project), actor="demo")
        tell(f"{report.written:,} documents, {report.rejected} rejected")
    with phase(console, f"Migrating to revision {base} …") as tell:
        project.migrator(COLLECTION, actor="demo").upgrade(base, on_step=lambda outcome: tell(f"{outcome.step} done"))


def add_revision(project: Project, message: str, model: str, *, aligned: bool = True) -> str:
    """Write a revision after those that are there; return its id. ``aligned``: its gate demands both directions."""
    folder = project.migrations(COLLECTION)
    down = RevisionGraph.from_folder(folder).head.revision if folder.exists() else None
    drop = DROP if aligned and down is not None else None
    gate = Gate(
        min_recall=0.02, max_drop=DROP, min_queries=300, max_text_to_image_drop=drop, max_image_to_text_drop=drop
    )
    write_revision(
        folder,
        message=message,
        model=ModelSpec(f"./models/{model}", DIM, max_tokens=64),
        chunking=Chunking(max_tokens=64, overlap_tokens=8),
        index=IndexSpec(),
        gate=gate,
        down_revision=down,
    )
    return RevisionGraph.from_folder(folder).head.revision


def refuse_words_alone(project: Project, console: Console) -> str | None:
    """Ask for a revision that replaces the tower for texts alone; return how it was refused, None where it was not."""
    revision = add_revision(project, "a better model of texts", LONE, aligned=False)
    file = RevisionGraph.from_folder(project.migrations(COLLECTION))[revision].path
    console.print(
        f"$ revector plan -c {COLLECTION}    # of ./models/{LONE}: its tower for texts is another", style="bold"
    )
    try:
        project.migrator(COLLECTION, actor="demo").plan()
    except SpecError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        return str(error)
    finally:
        Path(str(file)).unlink()
    return None


def cross_modal(project: Project) -> CrossModal:
    """Return what the gate measured last of both directions. Raises ``RevectorError`` where it did not."""
    with project.engine.connect() as connection:
        found = gate_result(connection, COLLECTION).evidence(EVIDENCE, CrossModal)
    if found is None or found.old is None:
        raise RevectorError("the gate measured neither direction, although both are demanded; see the page.")
    return found


def _recalls(found: CrossModal) -> dict[str, object]:
    sides = {"old": found.old or {}, "new": found.new}
    return {
        "k": found.k,
        "captions": found.captions,
        "images": found.images,
        **{way: {role: plain(score_interval(side[way])) for role, side in sides.items()} for way in WORDS},
    }
