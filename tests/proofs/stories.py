"""What the tests of `test_checker` and its neighbours share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from evaluation.reliability.history import Hit, Recorder


class Story(Recorder):
    """A history told call by call: every record is one tick later."""

    def __init__(self) -> None:
        super().__init__(clock=itertools.count().__next__)

    def put(self, content: str, version: int | None, doc_id: str = "d") -> None:
        call = self.invoke("put", "w", doc_id=doc_id, content=content)
        self.ok(call, "put", "w", version=version)

    def delete(self, version: int | None, doc_id: str = "d") -> None:
        call = self.invoke("delete", "w", doc_id=doc_id)
        self.ok(call, "delete", "w", version=version)

    def query(self, *hits: Hit, gen: int = 1, process: str = "r", **facts: Any) -> None:
        call = self.invoke("query", process)
        self.answer(call, *hits, gen=gen, process=process, **facts)

    def answer(self, call: int, *hits: Hit, gen: int = 1, process: str = "r", **facts: Any) -> None:
        self.ok(call, "query", process, **{"gen": gen, "encoder": "e", "index_encoder": "e", "hits": hits, **facts})

    def move(self, op: str, gen: int, epoch: int, **detail: Any) -> None:
        call = self.invoke(op, "m", gen=gen)
        self.moved(call, op, gen, epoch, **detail)

    def moved(self, call: int, op: str, gen: int, epoch: int, **detail: Any) -> None:
        proof = {"verified": True, "recalled": True, "waiting": 0, "waived": 0} if op == "swap" else {}
        self.ok(call, op, "m", gen=gen, epoch=epoch, detail={**proof, **detail})

    def heal(self, *table: Hit, **indexes: tuple[Hit, ...]) -> None:
        """The document table and indexes by name: ``g1`` is that of generation 1; without any, g1 equals the table."""
        self.ok(self.invoke("documents", "h"), "documents", "h", hits=table)
        for name, hits in (indexes or {"g1": table}).items():
            self.ok(self.invoke("index", "h"), "index", "h", gen=int(name[1:]), hits=hits)


def hit(content: str, version: int, chunk: int = 0, chunks: int | None = None, doc_id: str = "d") -> Hit:
    return Hit(doc_id, content, version, chunk, chunks)


Teller = Callable[[Story], None]
BROKEN: dict[str, tuple[str, Teller]] = {}
SOUND: dict[str, Teller] = {}


def broken(promise: str) -> Callable[[Teller], Teller]:
    def keep(tell: Teller) -> Teller:
        BROKEN[tell.__name__.replace("_", " ")] = promise, tell
        return tell

    return keep


def sound(tell: Teller) -> Teller:
    SOUND[tell.__name__.replace("_", " ")] = tell
    return tell
