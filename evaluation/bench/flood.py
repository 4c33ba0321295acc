"""What others feel while one caller floods the service: 200 slow requests and 40 costly ones against a normal search.

A real `revector serve` with the hashing encoder. The slow ones send the beginning of their headers, of a search, of a
document of 12 MiB or of an upload, and then nothing more, or a byte now and then; the costly ones are searches whose
filter of 1,000 values is compared with every document. Both come by one key with the scopes read and write. Meanwhile
another key searches, one query after the other. Memory is the largest that the process had.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write
from evaluation.bench.service import serving

COLLECTION = "docs"
SLOW, COSTLY = 200, 40
MOST_MIB, MOST_S = 600, 1.0
LARGE = b'\r\n{"id": "large", "text": "' + b"x" * (12 << 20)
"""The end of headers, and a document that does not end; all threads share it."""


@dataclass(slots=True)
class Felt:
    """What came of a flood: seconds and statuses of the normal searches, statuses of the flood, and memory in MiB."""

    seconds: list[float]
    statuses: Counter[int]
    flood: Counter[int]
    peak_mib: float


def flood(port: int, pid: int, greedy: str, normal: str, *, for_s: float = 12.0) -> Felt:
    """Flood the service on ``port``, process ``pid``, by the key ``greedy``, and search by the key ``normal``."""
    stop, answered = threading.Event(), Counter[int]()
    threads = [threading.Thread(target=_slow, args=(port, greedy, n, stop, answered)) for n in range(SLOW)]
    threads += [threading.Thread(target=_costly, args=(port, greedy, stop, answered)) for _ in range(COSTLY)]
    for thread in threads:
        thread.start()
    seconds, statuses = list[float](), Counter[int]()
    try:
        ends = time.monotonic() + for_s
        while time.monotonic() < ends:
            started = time.perf_counter()
            statuses[_ask(port, normal, {"query": "apple7 pear7", "k": 10})] += 1
            seconds.append(time.perf_counter() - started)
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
    return Felt(seconds, statuses, answered, peak_mib(pid))


def peak_mib(pid: int) -> float:
    """Return the largest resident memory that a process has had, in MiB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1_024, 1)


def _head(method: str, path: str, key: str, media_type: str, length: int) -> bytes:
    return (
        f"{method} /collections/{COLLECTION}/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {length}\r\n"
    ).encode()


def _slow(port: int, key: str, number: int, stop: threading.Event, answered: Counter[int]) -> None:
    """Begin a request and do not end it; begin another where it was answered."""
    head, begun = (
        (_head("POST", "search", key, "application/json", 1_000), b""),  # without the end of its headers
        (_head("POST", "search", key, "application/json", 200_000), b'\r\n{"query": "' + b"x" * 100_000),
        (_head("PUT", "documents/large", key, "application/json", 13 << 20), LARGE),
        (_head("POST", "documents", key, "application/x-ndjson", 1 << 30), LARGE),
    )[number % 4]
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.settimeout(1.0)
            with suppress(OSError):
                connection.sendall(head)
                connection.sendall(begun)
            while not stop.is_set():
                with suppress(TimeoutError):
                    said = connection.recv(1 << 16)
                    if said.startswith(b"HTTP/1.1 "):
                        answered[int(said[9:12])] += 1
                    break
                connection.send(b"x")
        stop.wait(0.5)


def _costly(port: int, key: str, stop: threading.Event, answered: Counter[int]) -> None:
    """Ask for what no document has, a thousand times over, again and again."""
    while not stop.is_set():
        where = {"n": [f"nothing {n}" for n in range(1_000)]}
        with suppress(OSError, http.client.HTTPException):
            answered[_ask(port, key, {"query": "apple7 pear7", "k": 1_000, "where": where})] += 1
        stop.wait(0.1)


def _ask(port: int, key: str, body: dict[str, Any]) -> int:
    # By the standard library: httpx would make its TLS context for each of the forty, and take the processor itself.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", f"/collections/{COLLECTION}/search", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


# The benchmark --------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a normal search failed or took a second, or the process 600 MiB."""
    options = parser("evaluation.bench.flood", __doc__)
    options.add_argument("--documents", type=int, default=20_000, metavar="N", help="documents that a filter looks at")
    options.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long the flood lasts")
    chosen = options.parse_args(argv)
    before = machine()
    with temporary_project(f"[collections.{COLLECTION}]\n") as root:
        greedy, normal = _prepare(root, chosen.documents)
        with serving(root, normal) as (client, process):
            port = client.base_url.port or 0
            alone = _undisturbed(port, normal)
            felt = flood(port, process.pid, greedy, normal, for_s=chosen.seconds)
    command = f"python -m evaluation.bench.flood --documents {chosen.documents} --seconds {chosen.seconds:g}"
    return write(chosen.output, command, before, _figures(alone, felt, chosen.documents))


def _undisturbed(port: int, normal: str) -> list[float]:
    """Return the seconds of 50 searches while nobody else asks."""
    seconds = []
    for _ in range(50):
        started = time.perf_counter()
        _ask(port, normal, {"query": "apple7 pear7", "k": 10})
        seconds.append(time.perf_counter() - started)
    return seconds


def _figures(alone: Sequence[float], felt: Felt, documents: int) -> list[Figure]:
    import statistics

    failed = sum(count for status, count in felt.statuses.items() if status != 200)
    longest, mib = max(felt.seconds), felt.peak_mib
    sent_away = {status: felt.flood[status] for status in sorted(felt.flood)}
    return [
        Figure("normal searches that failed during the flood", failed, f"of {len(felt.seconds)}", "0", failed == 0),
        Figure("longest normal search during the flood", round(longest, 3), "s", f"< {MOST_S}", longest < MOST_S),
        Figure("normal search during the flood, p50", round(statistics.median(felt.seconds) * 1_000, 1), "ms"),
        Figure("normal search alone, p50", round(statistics.median(alone) * 1_000, 1), "ms"),
        Figure("largest memory of the serving process", mib, "MiB", f"< {MOST_MIB}", mib < MOST_MIB),
        Figure("answers to the flood by status", json.dumps(sent_away), ""),
        Figure("documents", documents, "documents"),
    ]


def _prepare(root: Path, count: int) -> tuple[str, str]:
    """Index documents and make the two keys."""
    from revector.config import load_project
    from revector.interfaces import Document
    from revector.serving import keys

    revision(root, COLLECTION, "a000", None, 'model = ModelSpec(name="hashing", dim=64)')
    project = load_project(root)
    project.init()
    store = project.documents(COLLECTION)
    for first in range(0, count, 2_000):
        numbers = range(first, min(count, first + 2_000))
        store.put_many([Document(f"d{n:05d}", f"apple{n} pear{n} some words", {"n": n}) for n in numbers])
    project.migrator(COLLECTION, actor="bench").upgrade("a000")
    with project.engine.begin() as connection:
        made = [keys.create(connection, name, ["read", "write"], None, actor="bench")[0] for name in ("one", "two")]
    project.engine.dispose()
    return made[0], made[1]


if __name__ == "__main__":
    sys.exit(main())
