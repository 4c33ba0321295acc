"""The command that reckons for a corpus of any size, without a project or a database."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Json, ProjectPath
from revector.cli.output import Output, make_table
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.planning.capacity import Capacity
    from revector.planning.costs import Costs


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Migration")(capacity)


def capacity(
    *,
    documents: Annotated[float, typer.Option(help="Documents; 1e9 is understood.")],
    dim: Annotated[int, typer.Option(help="Dimensions that are stored.")],
    chunks_per_document: Annotated[float, typer.Option(help="Chunks of a document.")] = 1.0,
    tokens_per_chunk: Annotated[float, typer.Option(help="Tokens of a chunk.")] = 200.0,
    storage: Annotated[str, typer.Option(help="vector (float32) or halfvec (float16).")] = "vector",
    quantize: Annotated[str, typer.Option(help="none, bit: only signs in the graph, or int8.")] = "none",
    m: Annotated[int, typer.Option(help="Links of the HNSW graph.")] = 16,
    ef_construction: Annotated[int, typer.Option(help="Candidates while the graph is built.")] = 100,
    ef_search: Annotated[int, typer.Option(help="Candidates that a search keeps.")] = 100,
    qps: Annotated[float | None, typer.Option(help="Searches a second to answer: servers, replicas, price.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Kind of the store that holds the vectors; default: beside the documents.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs (workers) that embed.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Hours that embedding may take.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="Of one GPU; default: [costs].")] = None,
    constant: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another value for a constant; repeatable.")
    ] = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Say what a corpus would need: GPU-hours, workers, PostgreSQL and its store, queries, network, archive and money.

    Computed from constants that benchmarks measured; each is shown with its source. Prices are those of [costs] where
    there is a revector.toml.

    For example:
      revector capacity --documents 1e9 --dim 768 --storage halfvec --gpus 8 --hours 48
      revector capacity --documents 5e7 --dim 384 --store redis --json
      revector capacity --documents 5e8 --dim 768 --m 32 --qps 5000 --ef-search 200
    """
    from revector.planning.capacity import CapacityInput
    from revector.planning.capacity import capacity as reckon
    from revector.planning.constants import constants
    from revector.spec import PGVECTOR, IndexSpec

    index = IndexSpec(
        storage=storage,  # type: ignore[arg-type]
        quantize=quantize,  # type: ignore[arg-type]
        m=m,
        ef_construction=max(ef_construction, 2 * m),
        ef_search=ef_search,
        store=store or PGVECTOR,
    )
    corpus = CapacityInput(documents, dim, chunks_per_document, tokens_per_chunk, index, gpus, hours, store, qps)
    found = reckon(corpus, _costs(project, tokens_per_minute), constants(dict(map(_pair, constant or ()))))
    Output(as_json=json).show(found.as_data(), lambda console: _page(found, console))


def _costs(project: object, tokens_per_minute: float | None) -> Costs:
    """Return the prices of the project that one is in, or the defaults where there is none; another speed of a GPU."""
    from revector.cli.options import open_project
    from revector.planning.costs import Costs

    try:
        costs = open_project(project).settings.costs  # type: ignore[arg-type]
    except ConfigError:
        if project is not None:
            raise
        costs = Costs()
    given = {} if tokens_per_minute is None else {"gpu_tokens_per_minute": tokens_per_minute}
    return Costs.model_validate({**costs.model_dump(), **given})


def _pair(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ConfigError(f"--set takes NAME=NUMBER, found {text!r}. Nothing was computed.") from None


def _page(found: Capacity, console: Console) -> None:
    corpus = found.corpus
    console.print(
        f"{corpus.documents:,.0f} documents of {corpus.chunks_per_document:g} chunks of {corpus.tokens_per_chunk:g} "
        f"tokens, {corpus.dim:,} dimensions ({corpus.index.storage}, graph of {corpus.index.graph}, M "
        f"{corpus.index.m}{f', in {corpus.store}' if corpus.store else ''})",
        style="bold",
        soft_wrap=True,
    )
    for part, lines in groupby(found.lines, key=lambda line: line.part):
        console.print()
        table = make_table(part, "figure", "unit", "by", right=("figure",))
        for line in lines:
            table.add_row(
                line.name, f"{line.value:,.4g}" if line.value < 1e4 else f"{line.value:,.0f}", line.unit, line.by
            )
        console.print(table)
    if found.warning:
        console.print()
        console.print(found.warning, style="bold red", soft_wrap=True, highlight=False)
    paid = found.money
    console.print()
    console.print("Money", style="bold")
    console.print(
        f"  {paid.api_usd:,.2f} USD by an API, {paid.gpu_usd:,.2f} USD on rented GPUs; break-even of a GPU kept all "
        f"month: {(paid.break_even_tokens_month or 0) / 1e9:,.1f} billion tokens",
        soft_wrap=True,
    )
    console.print()
    table = make_table("constant", "value", "unit", "source", right=("value",))
    for name, one in found.constants.items():
        table.add_row(name, f"{one.value:.4g}", one.unit, one.source)
    console.print(table)
