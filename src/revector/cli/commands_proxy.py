"""The command by which a model judges in place of people: a proxy, believed only beside people's own judgements."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from revector.cli.options import Collection, Json, ProjectPath, open_session
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.cli.options import Session
    from revector.labels.judges.proxying import Proxying, ProxyPlan, ProxyReport
    from revector.labels.judges.settings import CrossEncoderJudge, OpenAIJudge


def register(labels: typer.Typer) -> None:
    """Add the command of this module to those about labels."""
    labels.command()(proxy)


def proxy(
    *,
    judge: Annotated[str, typer.Option(metavar="NAME", help="A table [judges.NAME] of revector.toml.")],
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Queries to judge at most now; default: all.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, metavar="USD", help="End before this run costs more.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask without a question before it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it will take, and ask nothing.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Let a model judge what old and new found, for the queries that they answer differently, labelled ones too.

    What it will take is said first. Each answer is kept at once and never paid for twice: run it again after it was
    ended. Its scores are no labels. Gate(proxy="NAME") in the migration file lets them count beside people's judgements
    of the same queries, by which they are corrected; without people's they count for nothing.

    For example:
      revector labels proxy -c docs --judge mini --dry-run
      revector labels proxy -c docs --judge mini --limit 500 --budget 2
    """
    from revector.labels.judges.asking import open_judge

    session = open_session(project, collection, as_json=json)
    work, settings = _work(session, judge, budget)
    with reporting(quiet=session.out.as_json) as progress:
        found, texts = session.project.migrator(session.collection, progress=progress).proxy_candidates()
    plan, done = work.plan(found, texts, limit=limit), None
    session.out.say(_planned(plan, paid=settings.kind == "openai"))
    if plan.due and not dry_run:
        if settings.kind == "openai" and not yes:
            _ask()
        opened = open_judge(judge, settings, session.project.root, device=session.project.settings.encoder.device)
        with reporting(quiet=session.out.as_json) as progress:
            done = work.run(plan, opened, progress, budget_usd=budget)
        session.out.say(_done(done, judge, session.collection))
    if json:
        session.out.json({"plan": _told(plan), "done": None if done is None else asdict(done)})


# Helpers --------------------------------------------------------------------------------------------------------------


def _work(session: Session, judge: str, budget: float | None) -> tuple[Proxying, OpenAIJudge | CrossEncoderJudge]:
    """Return the work of a judge and its table. Raises ``ConfigError`` for a budget that would never end anything."""
    from revector.gate.proxies import judge_of
    from revector.labels.judges.proxying import Proxying

    tables = session.project.settings.judges
    identity = judge_of({name: one.identity(name) for name, one in tables.items()}, judge)
    if budget is not None and not tables[judge].usd(1_000_000, 1_000_000):
        raise ConfigError(
            f"a budget was set for judge {judge!r}, which has no price, so it would never end anything. Nothing was "
            f"sent; set judges.{judge}.price_per_million_input_tokens_usd, or use --limit."
        )
    cid = session.project.cid(session.collection)
    return Proxying(session.project.engine, cid, tables[judge], identity), tables[judge]


def _ask() -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            "there is no terminal to ask whether to send this. Nothing was sent; look with --dry-run, then run it with "
            "--yes."
        )
    if not typer.confirm("Send it?"):
        raise typer.Exit(1)


def _told(plan: ProxyPlan) -> dict[str, object]:
    return {
        "judge": plan.judge.words,
        "queries": plan.queries,
        "pairs": plan.pairs,
        "due_queries": plan.due_queries,
        "due": len(plan.due),
        "tokens_in": plan.tokens_in,
        "tokens_out": plan.tokens_out,
        "usd": plan.usd,
        "spent_usd": plan.spent_usd,
    }


def _planned(plan: ProxyPlan, *, paid: bool) -> str:
    told = (
        f"{plan.judge.words}: {plan.queries:,} queries are answered differently, with {plan.pairs:,} documents. "
        f"To judge now: {len(plan.due):,} documents of {plan.due_queries:,} queries"
    )
    if not paid or not plan.due:
        return f"{told}."
    price = f"about {plan.usd:.2f} USD" if plan.usd else "no price is set"
    before = f" ({plan.spent_usd:.2f} USD were spent before)" if plan.spent_usd else ""
    return (
        f"{told}, one request each: about {plan.tokens_in:,} tokens to read and {plan.tokens_out:,} to write, "
        f"{price}{before}."
    )


def _done(done: ProxyReport, judge: str, collection: str) -> str:
    told = f"Judged {done.asked - done.refused:,} documents"
    if done.usd:
        told += f" for {done.usd:.2f} USD ({done.tokens_in:,} tokens read, {done.tokens_out:,} written)"
    if done.refused:
        told += f"; {done.refused:,} answers were no score and are refused, such as {done.refused_first[:80]!r}"
    if done.left:
        told += f"; {done.left:,} are left, run it again for them"
    return (
        f'{told}. They are no labels: write gate = Gate(proxy="{judge}") into the migration file, judge some of these '
        f"queries (revector labels next -c {collection}), then: revector upgrade -c {collection} --to gate"
    )
