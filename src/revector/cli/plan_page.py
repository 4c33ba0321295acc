"""What a plan says, for people: the changes, what follows from them, time, money, disks and risks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from revector.cli.output import make_table, one_line, pairs, size, span
from revector.planning.costs import API_WINS_BELOW, OWN_WINS_ABOVE

if TYPE_CHECKING:
    from revector.planning.estimate import Estimate
    from revector.planning.forecast import MigrationPlan, PlannedActual, SettingChange
    from revector.planning.screening import Screening

_STYLES = {"+": "green", "~": "yellow", "=": "dim"}


def plan_page(found: MigrationPlan, console: Console) -> None:
    """Print a plan, from the data that ``--json`` prints."""
    served = found.active_revision or "nothing"
    title = f"Revision {found.revision} of {found.collection}; served now: {served}"
    console.print(title, style="bold", soft_wrap=True)
    console.print()
    _changes(found.changes, console)
    console.print()
    counts = {mark: sum(change.mark == mark for change in found.changes) for mark in "+~="}
    console.print(
        f"Plan: {counts['+']} new, {counts['~']} to change, {counts['=']} as they are. Therefore: {found.action}.",
        style="bold",
        soft_wrap=True,
    )
    if found.active_revision != found.revision:
        console.print()
        pairs(console, {**_amounts(found), **_money(found), **_room(found)})
        _scripts(found.unknown, console)
        console.print()
        _times(found, console)
    _compared(found.already, console)
    for risk in found.risks:
        console.print(f"Note: {risk}.", style="dim", soft_wrap=True)
    for warning in found.warnings:
        console.print(f"Warning: {warning}.", style="yellow", soft_wrap=True)
    if not found.warnings and found.active_revision != found.revision:
        console.print("Ready: run `revector upgrade`.", soft_wrap=True)


def _changes(changes: Sequence[SettingChange], console: Console) -> None:
    table = make_table("", "setting", "", "what follows")
    for part, group in groupby(changes, key=lambda change: change.field.split(".")[0]):
        listed = list(group)
        if all(change.mark == "=" for change in listed):
            table.add_row("=", f"{part}.*", "the same", "", style=_STYLES["="])
            continue
        for one in listed:
            after = repr(one.after)
            shown = f"{one.before!r} → {after}" if one.mark == "~" else after
            table.add_row(one.mark, one.field, shown, one.means, style=_STYLES[one.mark])
    console.print(table)


def _amounts(found: MigrationPlan) -> dict[str, str]:
    probe = found.probe
    interval = _ends(probe.tokens_per_s, lambda value: f"{value:,.0f}")
    embedded = (
        "" if found.tokens_to_embed.value == found.tokens.value else f"; to embed {_about(found.tokens_to_embed)}"
    )
    return {
        "documents": f"{found.documents:,}, of which {found.reused:,} are embedded already",
        "chunks": f"{_about(found.chunks)}; {found.sampled:,} documents of {found.strata} lengths were sampled",
        "tokens": f"{_about(found.tokens)}{embedded}",
        **_unknown(found),
        "speed here": "not tried: there is nothing to embed"
        if not probe.chunks
        else f"{probe.tokens_per_s.value:,.0f} tokens/s{interval and f' ({interval})'} on {probe.device}"
        + (f", engine {probe.engine}" if probe.engine else "")
        + f"; {probe.tokens:,} tokens in {span(probe.seconds)}",
    }


def _unknown(found: MigrationPlan) -> dict[str, str]:
    unknown = found.unknown
    if unknown is None:
        return {}
    return {"unknown tokens": f"{unknown.share:.2%} in {unknown.looked:,} documents that were looked at"}


def _scripts(unknown: Screening | None, console: Console) -> None:
    """Print the scripts of which the model does not know every token."""
    named = [one for one in unknown.scripts if one.share > 0] if unknown else []
    if not named:
        return
    table = make_table(
        "unknown tokens of", "documents", "share", "refused", "such as", right=("documents", "share", "refused")
    )
    for one in named:
        some = one_line("; ".join(one.first), 120)
        table.add_row(one.script, f"{one.documents:,}", f"{one.share:.1%}", f"{one.unreadable:,}", some)
    console.print()
    console.print(table)


def _money(found: MigrationPlan) -> dict[str, str]:
    paid, window = found.money, found.window
    where = f"{found.spending.provider}" if found.spending else "an API"
    even = "" if paid.break_even_tokens_hour is None else (
        f"one GPU-hour is worth {_tokens(paid.break_even_tokens_hour)} tokens, a GPU all month "
        f"{_tokens(paid.break_even_tokens_month or 0)}; rule of thumb: API below {_tokens(API_WINS_BELOW)} a month, "
        f"GPUs above {_tokens(OWN_WINS_ABOVE)}"
    )  # fmt: skip
    rows = {
        "cost": f"{_usd(paid.api_usd)} by {where}, {_usd(paid.gpu_usd)} on rented GPUs ({paid.gpu_hours:,.2f} "
        f"GPU-hours), {_cheaper(paid.cheaper)}",
        "break-even": even,
    }
    if found.spending is not None:
        left = ", ".join(f"{_usd(usd)} left of {cap}" for cap, usd in found.spending.left_usd.items())
        rows["spent so far"] = f"{_usd(found.spending.spent_usd)} on {where}, {left or 'no cap'}"
    rows["way back"] = (
        f"for {window.hours:g} h the old index stays ({size(window.storage_bytes)}, {_usd(window.storage_usd)}) and "
        f"each of about {window.writes_per_day:,} writes a day is embedded for it too "
        f"({_tokens(window.tokens)} tokens, {_usd(window.embedding_usd)})"
    )
    if (one := found.searching) is not None:
        rows["searches"] = (
            f"{one.cpu_ms:.1f} ms of PostgreSQL's processor each at ef_search {one.ef_search}, so "
            f"{one.per_s_and_core:,.0f} a second on a core; a million cost {_usd(one.usd_per_million)} of server"
        )
    return {name: value for name, value in rows.items() if value}


def _cheaper(which: str) -> str:
    return {"api": "the API is cheaper", "gpu": "own GPUs are cheaper"}.get(which, "no difference")


def _room(found: MigrationPlan) -> dict[str, str]:
    held = found.storage
    rows = {
        "vectors": f"{_size(held.float32)} as float32, {size(held.float16.value)} as float16, "
        f"{size(held.int8.value)} as int8",
        "index": f"{_size(held.index)}, of which {size(held.graph.value)} of graph want memory; "
        f"{size(held.build_memory.value)} while it is built",
        "archive, WAL": f"{_size(held.archive)}; {_size(held.wal)} of write-ahead log",
    }
    for disk in found.disks:
        free = "free space unknown from here" if disk.free_bytes is None else f"{size(disk.free_bytes)} free"
        rows[f"disk: {disk.holds}"] = f"{size(disk.needed_bytes)} needed, {free}"
    return rows | {"labels": f"{found.labelled_queries:,} usable queries", "gate": found.gate}


def _times(found: MigrationPlan, console: Console) -> None:
    table = make_table("step", "about", "95 %", "by", right=("about",))
    for step in found.steps:
        table.add_row(step.step, span(step.seconds.value), _ends(step.seconds, span), step.by)
    table.add_row(Text("to the swap", "bold"), span(found.seconds.value), _ends(found.seconds, span), "")
    console.print(table)


def _compared(already: Mapping[str, PlannedActual] | None, console: Console) -> None:
    if already is None:
        return
    table = make_table("planned and actual", "planned", "actual", "error", right=("planned", "actual", "error"))
    for name, one in already.items():
        planned, actual = one["planned"], one["actual"]
        error = "" if not actual else f"{planned / actual - 1:+.0%}"
        table.add_row(name, f"{planned:,.7g}", "" if actual is None else f"{actual:,.7g}", error)
    console.print()
    console.print(table)


def _about(one: Estimate) -> str:
    ends = _ends(one, lambda value: f"{value:,.0f}")
    return f"about {one.value:,.0f} ({ends})" if ends else f"{one.value:,.0f}"


def _size(one: Estimate) -> str:
    ends = _ends(one, size)
    return f"{size(one.value)} ({ends})" if ends else size(one.value)


def _ends(one: Estimate, show: Callable[[float], str]) -> str:
    low, high = show(one.low), show(one.high)
    return "" if low == high else f"{low} to {high}"


def _tokens(count: float) -> str:
    """Return a number of tokens for people.

    >>> _tokens(950), _tokens(150e6), _tokens(109.5e9)
    ('950', '150 million', '109.5 billion')
    """
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if count >= unit:
            return f"{count / unit:,.4g}{name}"
    return f"{count:,.0f}"


def _usd(amount: float) -> str:
    return f"{amount:,.2f} USD" if amount >= 0.005 or amount == 0 else f"{amount:.2g} USD"
