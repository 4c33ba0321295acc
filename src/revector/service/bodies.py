"""Bodies of requests: unpacked, counted, in time, and of a shape that stays small in memory, before they are parsed."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

GRACE_S, SLOWEST_BYTES_PER_S = 15.0, 1 << 16
"""A body must be there within this many seconds, plus one second for each this many bytes."""

IDLE_S = 30.0
"""How long an upload, which may go on for hours, may send nothing."""

MOST_VALUES, MOST_DEPTH = 100_000, 64
"""Values and levels of one JSON text. An empty list is 3 bytes of text and 64 in memory."""

UNPACKED_BYTES = 1 << 18
"""Gzip is undone in pieces of this size: a few bytes may stand for any number."""

MOST_RATIO, RATIO_BYTES = 200, 16 << 20
"""A gzip that is more than this many times as long unpacked is no text; looked at from this many unpacked bytes on."""

# A string, or what begins, parts or ends values outside strings.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]|,', re.DOTALL)


def check_shape(raw: bytes) -> None:
    """Raise 422 for JSON of too many values or levels, 400 for what is no UTF-8; the rest is the parser's to say."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, "the body is no UTF-8. Nothing was done.") from error
    if b"\0" in raw:  # a parser would take it for UTF-16, in which the brackets are elsewhere
        raise HTTPException(400, "the body holds NUL bytes, and JSON is UTF-8 without them. Nothing was done.")
    if raw.count(b"[") + raw.count(b"{") + raw.count(b",") <= MOST_DEPTH:
        return
    depth = values = 0
    for found in _TOKEN.finditer(raw):
        first = raw[found.start()]
        if first in b"[{":
            depth += 1
        elif first in b"]}":
            depth -= 1
        elif first != ord(","):
            continue
        values += 1
        if depth > MOST_DEPTH or values > MOST_VALUES:
            raise HTTPException(
                422,
                f"JSON may have {MOST_DEPTH} levels and {MOST_VALUES:,} values, this has more. Nothing was done; send "
                "less at once.",
            )


def declared(headers: Headers, limit: int) -> int:
    """Return how many bytes a body will have, 0 where its headers do not say. Raises 413 above ``limit``."""
    said = headers.get("content-length", "")
    size = int(said) if said.isdecimal() else 0
    if size > limit:
        raise _too_large(limit)
    return size


async def read(receive: Receive, headers: Headers, limit: int, hold: Callable[[int], None]) -> bytes:
    """Return a whole body, unpacked. ``hold`` is called with each piece's size, and may raise.

    Raises 408 where it comes too slowly, 413 above ``limit`` bytes, 400 and 415 as ``pieces`` does.
    """
    body, began = bytearray(), time.monotonic()

    def left_s() -> float:
        return began + GRACE_S + len(body) / SLOWEST_BYTES_PER_S - time.monotonic()

    async for piece in pieces(receive, headers, left_s):
        if len(body) + len(piece) > limit:
            raise _too_large(limit)
        hold(len(piece))
        body += piece
    return bytes(body)


async def pieces(receive: Receive, headers: Headers, left_s: Callable[[], float]) -> AsyncIterator[bytes]:
    """Yield a body as it comes, unpacked where it is gzip; ``left_s`` says how long the next piece may take.

    Raises 408 where that was too long, 400 for gzip that is torn or expands too much, 415 for another encoding, and
    ``ClientDisconnect``.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise HTTPException(
            415,
            f"bodies come as they are or as gzip, this is {encoding!r:.40}. Nothing was done.",
            headers={"Accept-Encoding": "gzip"},
        )
    unpacked = _Gzip() if "gzip" in encoding else None
    more = True
    while more:
        message = await _next(receive, left_s())
        more = message.get("more_body", False)
        piece = message.get("body", b"")
        if unpacked is None:
            if piece:
                yield piece
            continue
        for part in unpacked.feed(piece):
            yield part
    if unpacked is not None:
        unpacked.end()


async def _next(receive: Receive, left_s: float) -> Message:
    message: Message | None = None
    with anyio.move_on_after(max(0.0, left_s)):
        message = await receive()
    if message is None:
        raise HTTPException(
            408, "the body came too slowly, and was not read to its end.", headers={"Connection": "close"}
        )
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


class _Gzip:
    """Undoes gzip piece by piece, of several members too, and never holds more than one piece of the result."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._begun = False  # whether a member was begun and did not end yet
        self._packed = self._unpacked = 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Yield what ``packed`` stands for. Raises 400 for what is no gzip, and for what expands too much."""
        self._packed += len(packed)
        while packed:
            if not self._begun:
                packed = packed.lstrip(b"\0")  # members may be padded
                self._begun = bool(packed)
                continue
            try:
                found = self._member.decompress(packed, UNPACKED_BYTES)
            except zlib.error as error:
                raise HTTPException(400, f"the body is no gzip: {error}.") from error
            self._unpacked += len(found)
            if self._unpacked > max(RATIO_BYTES, MOST_RATIO * self._packed):
                raise HTTPException(
                    400, f"the gzip is more than {MOST_RATIO} times as long unpacked; send it unpacked."
                )
            if found:
                yield found
            packed = self._member.unconsumed_tail
            if self._member.eof:
                packed = self._member.unused_data
                self._member, self._begun = zlib.decompressobj(wbits=31), False

    def end(self) -> None:
        """Raise 400 where the last member is not whole."""
        if self._begun:
            raise HTTPException(400, "the gzip ends in its middle.")


def _too_large(limit: int) -> HTTPException:
    return HTTPException(
        413, f"a body may take {limit:,} bytes. Nothing was stored; send less.", headers={"Connection": "close"}
    )
