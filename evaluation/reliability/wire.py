"""Owns the faulty wire: a proxy before a server that delays, slices, stalls and cuts where it is told to.

It listens on a port of the loopback, in a thread of its own. It reads what clients send as messages of PostgreSQL's
protocol 3, gathered up to where the server answers (Query, Sync, and each piece of a COPY), so that it can act at a
chosen statement, at COMMIT above all. Source of the format: PostgreSQL's manual, "Frontend/Backend Protocol", message
formats. No TLS, no GSS. Of any other server it knows no messages: what a client sends in one piece is a statement, and
whatever the server says next is its answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import socket
import struct
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

import sqlalchemy as sa

T = TypeVar("T")
CHUNK = 1 << 16
READY = re.compile(rb"Z\x00\x00\x00\x05[ITE]$", re.DOTALL)
COMMIT = "COMMIT"

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A filter of Linux that lets no packet in: source `man 7 socket` and linux/filter.h, one instruction, ``ret #0``."""

Action = Literal["", "close", "reset", "stall", "answer", "refuse", "drop"]


@dataclass(frozen=True, slots=True)
class Toxic:
    """What the wire does.

    ``latency_ms``, ``bytes_per_s`` and ``slice_bytes`` shape everything that passes, in both directions; 0 is off.
    ``after_bytes`` resets a connection after so many more bytes of it. ``action`` happens once, at the statement number
    ``skip`` (from 0) among those that match ``at`` in a transaction that has a statement matching ``within`` (both
    regular expressions):

    * ``close``: that connection ends before the statement passes; ``reset``: all do, with RST;
    * ``stall``: nothing passes on any connection until the toxic is cleared;
    * ``answer``: the statement passes, its answer does not: reset once the server has given it;
    * ``refuse``: as ``reset``, and new connections end at once until the toxic is cleared;
    * ``drop``: the cable is out until the toxic is cleared: every packet of clients is dropped unanswered, their FIN
      and RST included, so that the server goes on with what it has. Linux only.
    """

    latency_ms: float = 0.0
    bytes_per_s: float = 0.0
    slice_bytes: int = 0
    after_bytes: int = 0
    action: Action = ""
    at: str = ""
    within: str = ""
    skip: int = 0


@dataclass(slots=True)
class State:
    """What passed since the last command ``arm`` or ``clear``, and where the action happened: None if it did not."""

    statements: int = 0
    commits: int = 0
    bytes: int = 0
    fired: str | None = None


@dataclass(eq=False)
class Link:
    """One client's connection and the server's end of it."""

    wire: Wire
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    statements: dict[bytes, str] = field(default_factory=dict)
    transaction: list[str] = field(default_factory=list)
    withheld: bytes | None = None
    passed: int = 0

    async def up(self) -> None:
        """Pass on what the client says, from its start-up packet on."""
        if self.wire.knows_messages:
            size = await self.client[0].readexactly(4)
            rest = await self.client[0].readexactly(int.from_bytes(size) - 4)
            await self._pass(self.server[1], size + rest)
        while True:
            data, sql = await (self._batch() if self.wire.knows_messages else self._piece())
            if sql and not await self.wire.may_pass(self, sql):
                return
            await self._pass(self.server[1], data)

    async def down(self) -> None:
        """Pass on what the server says, unless an answer is withheld: then the client is cut off once it is whole."""
        while data := await self.server[0].read(CHUNK):
            if self.withheld is None:
                await self._pass(self.client[1], data)
            else:
                self.withheld += data
                if not self.wire.knows_messages or READY.search(self.withheld):
                    self.end(reset=True)

    def end(self, *, reset: bool = False) -> None:
        """Cut the client off, with RST where ``reset``, and leave the server."""
        sock = self.client[1].get_extra_info("socket")
        if reset and sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for _, writer in (self.client, self.server):
            writer.transport.abort()

    async def _piece(self) -> tuple[bytes, str]:
        """Return what the client sent, as one statement of a transaction of its own."""
        self.transaction.clear()
        if not (data := await self.client[0].read(CHUNK)):
            raise EOFError
        return data, f"{len(data)} bytes"

    async def _batch(self) -> tuple[bytes, str]:
        """Return messages up to one that the server answers, and the statement in them; "" if there is none."""
        data, sql = b"", ""
        while True:
            head = await self.client[0].readexactly(5)
            body = await self.client[0].readexactly(int.from_bytes(head[1:]) - 4)
            data += head + body
            match head[:1]:
                case b"P":
                    name, text = body.split(b"\0", 2)[:2]
                    self.statements[name] = text.decode()
                case b"B":
                    sql = self.statements.get(body.split(b"\0", 2)[1], "")
                case b"Q":
                    sql = body[:-1].decode()
                case b"d":
                    sql = "COPY data"
            if head[:1] in (b"Q", b"S", b"H", b"d", b"c", b"f", b"p", b"X"):
                return data, sql

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self.wire.flowing.wait()
        toxic = self.wire.toxic
        self.wire.state.bytes += len(data)
        self.passed += len(data)
        if toxic.after_bytes and self.passed > toxic.after_bytes:
            writer.write(data[: toxic.after_bytes - self.passed])
            with suppress(ConnectionError):
                await writer.drain()
            self.wire.fire(f"after {toxic.after_bytes} bytes")
            self.end(reset=True)
            return
        step = toxic.slice_bytes or max(1, len(data))
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if toxic.slice_bytes:
                await asyncio.sleep(0)
        await asyncio.sleep(toxic.latency_ms / 1_000 + (len(data) / toxic.bytes_per_s if toxic.bytes_per_s else 0))


class Wire:
    """All connections, the toxic that they suffer, and what passed."""

    def __init__(self, server: str, *, knows_messages: bool = True) -> None:
        self.knows_messages = knows_messages
        self.toxic, self.state, self.links = Toxic(), State(), set[Link]()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._server, self._seen, self._refusing = server, 0, False
        self.listening: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end or a toxic ends it."""
        if self._refusing:
            writer.transport.abort()
            return
        host, _, port = self._server.rpartition(":")
        opening = asyncio.open_connection(host, port) if host else asyncio.open_unix_connection(self._server)
        link = Link(self, (reader, writer), await opening)
        self.links.add(link)
        tasks = [asyncio.create_task(one) for one in (link.up(), link.down())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(ended, OSError | EOFError | asyncio.CancelledError | None):
                sys.stderr.write(f"{ended!r}\n")
        self.links.discard(link)
        for _, end in (link.client, link.server):
            end.close()

    async def may_pass(self, link: Link, sql: str) -> bool:
        """Count a statement and act where it is the one; return whether it passes."""
        sql = sql.strip()  # so that ^ means the beginning
        self.state.statements += 1
        self.state.commits += sql == COMMIT
        link.transaction.append(sql)
        mine = self._is_mine(link, sql)
        if re.match("COMMIT|ROLLBACK", sql):
            link.transaction.clear()
        return await self._act(link, sql) if mine else True

    def _is_mine(self, link: Link, sql: str) -> bool:
        toxic = self.toxic
        if not toxic.action or self.state.fired or not re.search(toxic.at, sql):
            return False
        if not any(re.search(toxic.within, one) for one in link.transaction):
            return False
        self._seen += 1
        return self._seen > toxic.skip

    async def _act(self, link: Link, sql: str) -> bool:
        self.fire(" ".join(sql.split()))
        match self.toxic.action:
            case "answer":
                link.withheld = b""
            case "stall":
                self.flowing.clear()
                await self.flowing.wait()
            case "drop":
                self.flowing.clear()
                self._pull_the_cable(out=True)
                await self.flowing.wait()
            case "close":
                link.end()
            case _:
                self._refusing = self.toxic.action == "refuse"
                for one in self.links:
                    one.end(reset=True)
        return self.toxic.action in ("answer", "stall", "drop", "")

    def _pull_the_cable(self, *, out: bool) -> None:
        """Let the kernel drop what clients send, or let it in again."""
        instruction = ctypes.create_string_buffer(NOTHING)
        program = struct.pack("HL", 1, ctypes.addressof(instruction))
        ends = [link.client[1].get_extra_info("socket") for link in self.links]
        for sock in (*ends, *(self.listening.sockets if self.listening else ())):
            with suppress(OSError):  # it has ended
                sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER if out else SO_DETACH_FILTER, program)

    def fire(self, where: str) -> None:
        """Note that the toxic acted."""
        self.state.fired = self.state.fired or where[:200]

    async def arm(self, toxic: Toxic) -> State:
        """Let all suffer ``toxic`` from now on, and what stalled go on; return what passed before."""
        before, self.state = self.state, State()
        self.toxic, self._seen, self._refusing = toxic, 0, False
        for link in self.links:
            link.passed = 0
        if not self.flowing.is_set():
            self._pull_the_cable(out=False)
        self.flowing.set()
        return before

    async def listen(self) -> int:
        """Listen on a free port of the loopback and return it."""
        self.listening = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return int(self.listening.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End all connections."""
        if self.listening is not None:
            self.listening.close()
        self.flowing.set()
        while self.links:
            for link in self.links:
                link.end()
            await asyncio.sleep(0.01)


class Proxy:
    """A wire to the server of a URL, of a database or any other; ``url`` leads through it."""

    def __init__(self, url: sa.URL | str) -> None:
        given = sa.make_url(url)
        host = str(given.query.get("host") or given.host or "127.0.0.1")
        port = given.query.get("port") or given.port or 5432
        server, sql = f"{host}:{port}", given.drivername.startswith("postgres")
        server = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else server
        self._wire = Wire(server, knows_messages=sql)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        query = {"sslmode": "disable", "gssencmode": "disable"} if sql else {}
        through = given.set(host="127.0.0.1", port=self._do(self._wire.listen()), query=query)
        self.url = through.render_as_string(hide_password=False)

    def arm(self, toxic: Toxic) -> None:
        """Let the wire suffer ``toxic`` from now on."""
        self._do(self._wire.arm(toxic))

    def clear(self) -> State:
        """Heal the wire; return what passed since it was armed."""
        return self._do(self._wire.arm(Toxic()))

    def state(self) -> State:
        """Return what passed since the last ``arm`` or ``clear``."""
        return self._wire.state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._do(self._wire.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
