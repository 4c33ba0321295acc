"""What the tests of `test_verification` and its neighbours share."""

from __future__ import annotations

from collections.abc import Callable

from revector.verify.verified import VerificationReport
from worlds import World

LONG = " ".join(f"word{n}" for n in range(600))
COLUMNS = "doc_id, chunk, version, start, stop, embedding"
SEVEN, LONG_ID, NOBODY = ["d00007"], ["long"], ["nobody"]


def verify(world: World, **options: object) -> VerificationReport:
    return world.project.verify("docs", actor="tester", **options)


def found(report: VerificationReport) -> dict[str, list[str]]:
    """What is wrong in the active generation: ids by kind."""
    return {kind: [one.id for one in named] for kind, named in report.generations[0].first.items()}


def copy(world: World, of: str, *, doc_id: str = "doc_id", chunk: str = "chunk", where: str = "true") -> str:
    name = world.generation().physical_name
    return (
        f"INSERT INTO revector.{name} ({COLUMNS}) SELECT {doc_id}, {chunk}, version, start, stop, embedding FROM "
        f"revector.{name} WHERE doc_id = '{of}' AND {where}"
    )


def index_sql(statement: str) -> Callable[[World], None]:
    return lambda world: world.unguarded(statement.format(index=f"revector.{world.generation().physical_name}"))
