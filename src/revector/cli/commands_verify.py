"""The command that proves, on the live system, that every index equals the documents; and fixes what does not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Collection, Json, ProjectPath, open_session
from revector.cli.output import make_table, one_line, span
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.verify.verified import IndexFindings, VerificationReport


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Migration")(verify)


def verify(
    *,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE_OR_ROWS",
            help="Look at 2% or 1000 documents of each index instead of all. Each run goes on where the last one "
            "ended, so that in the end every document is looked at.",
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make what is wrong due again; a worker replaces it, served until then.")
    ] = False,
    reembed: Annotated[
        int, typer.Option(min=0, help="Documents of each index to re-chunk and re-embed; 0 loads no model.")
    ] = 500,
    seed: Annotated[int | None, typer.Option(help="Draws the documents to embed; default: another each time.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Prove that every live index equals the documents, while everything keeps running: no lock is held.

    Exit code 0: all equal; 11: something was wrong, also if it was repaired. The history keeps every run.

    For example:
      revector verify
      revector verify --sample 2% --reembed 50
      revector verify --repair
    """
    session = open_session(project, collection, as_json=json)
    share = _sample(sample)
    with reporting(quiet=json) as progress:
        report = session.project.verify(
            session.collection, sample=share, repair=repair, reembed=reembed, seed=seed, progress=progress
        )
    session.out.show(report.as_data(), lambda console: _page(report, console, repair=repair))
    if not report.passed:
        raise typer.Exit(CHECK_FAILED)


def _sample(text: str | None) -> float | None:
    """Return a share below 1, a number of rows, or None for all."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d{1,3}(?:,?\d{3})*|\d+)", text)
    number = 0 if match is None else float(match[1]) / 100 if match[1] else int(match[2].replace(",", ""))
    if match is None or number == 0 or (match[1] and number > 1):
        raise ConfigError(f"--sample takes a share such as 2% or a number such as 1000, found {text!r}. Nothing ran.")
    return None if match[1] and number == 1 else number


def _page(report: VerificationReport, console: Console, *, repair: bool) -> None:
    from revector.verify.readback import INVARIANTS, WRONG

    names = ("slot", "generation", "revision", "checked", "in flight", "dead letters", "re-embedded", *WRONG)
    table = make_table(*names, right=(names[1], *names[3:]))
    for found in report.generations:
        counts = (found.checked, found.in_flight, found.dead_letters, found.reembedded)
        shown = (f"{count:,}" for count in (*counts, *(found.wrong[kind] for kind in WRONG)))
        table.add_row(found.role, str(found.generation), found.revision, *shown)
    console.print(table)
    for found in report.generations:
        _print_findings(found, console)
    for view, broken in report.invariants.items():
        _say(console, f"{view}: {broken.count:,} {INVARIANTS[view]}: {', '.join(broken.first)}")
    if report.broken_events:
        events = ", ".join(map(str, report.broken_events))
        _say(console, f"the history was tampered with: the chain breaks at event {events}")
    for said in report.table.said if report.table else ():
        _say(console, said)
    for generation, why in report.left_out.items():
        _note(console, f"generation {generation} was left out: {why}")
    console.print(_end(report, repair=repair), soft_wrap=True)


def _print_findings(found: IndexFindings, console: Console) -> None:
    """Print what is wrong or doubtful in one index, document by document."""
    from revector.verify.verified import FIRST

    for kind, named in found.first.items():
        for one in named:
            _say(console, f"generation {found.generation}, {kind}: {one.id}: {one_line(one.reason, 200)}")
        if found.wrong[kind] > len(named):
            _say(console, f"generation {found.generation}, {kind}: … {found.wrong[kind]:,} in all")
    for fault in found.faults:
        _say(console, f"generation {found.generation}: {fault}")
    for alike in found.alike:
        some = ", ".join(alike.first) + (" …" if alike.texts > len(alike.first) else "")
        _note(console, f"generation {found.generation}: {alike.texts:,} unlike texts have one vector: {some}")
    for doc_id, why in list(found.unreadable.items())[:FIRST]:
        _note(console, f"generation {found.generation}: {doc_id} cannot be told apart: {why}")
    if len(found.unreadable) > FIRST:
        _note(console, f"generation {found.generation}: … {len(found.unreadable):,} of {found.reembedded:,} in all")


def _note(console: Console, line: str) -> None:
    console.print(line, style="yellow", soft_wrap=True)


def _say(console: Console, line: str) -> None:
    console.print(line, style="red", soft_wrap=True)


def _end(report: VerificationReport, *, repair: bool) -> str:
    took = span(report.wall_s)
    if report.passed:
        what = "Every live index equals" if report.sample is None else "What was looked at equals"
        return f"{what} the documents ({took})."
    rearmed = sum(found.rearmed for found in report.generations)
    wrong = sum(found.wrong.total() for found in report.generations)
    if repair:
        return f"{rearmed:,} of {wrong:,} wrong documents are due again ({took}); a worker replaces them."
    way = "; `revector verify --repair` makes them due again" if wrong else ""
    return f"Not everything equals the documents ({took}){way}."
