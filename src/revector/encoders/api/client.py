"""Owns one provider's requests: sent within its limits, paid for, tried again where that helps, replies checked."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from revector import counts
from revector.encoders.api.limits import Breaker, CircuitOpen, Clock, MemoryMeter, Meter, TokenBucket, Use
from revector.encoders.api.settings import ProviderSettings
from revector.encoders.check import check_vectors
from revector.errors import BadVectors, ConfigError, ProviderRefused, ProviderUnavailable, SpendCapReached
from revector.interfaces import Vectors

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 16.0
LONGEST_RETRY_AFTER_S = 60.0
"""A server that asks for more patience than this is left alone for so long, instead of being waited for."""

_REFUSES_ALL = {401: "the key", 402: "the account", 403: "the key", 404: "the model or base_url"}
_PASSING = {408, 409, 425, 429}
_SPANS = {
    "max_spend_usd": "",
    "max_spend_usd_per_month": " this month",
    "max_spend_usd_per_migration": " since the open migration to its model was provisioned",
}
_RATE, _SERVER, _TIMEOUT, _CONNECTION = "rate_limited", "server_errors", "timeouts", "connection_errors"
_SAID_CHARS = 300


class _EmbeddingsBody(TypedDict):
    """A request for embeddings, as OpenAI's API has it."""

    model: str
    input: list[str]
    encoding_format: str
    dimensions: NotRequired[int]


class _Reply(TypedDict):
    """What of an answer is read; nothing inside of either is checked yet."""

    data: list[object]
    usage: object


class RequestRejected(Exception):
    """The server refuses this request as it is: a text in it, or its size."""


class GaveUp(Exception):
    """The server failed at this request as often as it may be tried."""


class _Abandoned(Exception):
    """The call that wanted this request has failed meanwhile."""


class _Again(Exception):
    """A try failed for a passing reason."""

    def __init__(self, kind: str, said: str, retry_after_s: float = 0.0) -> None:
        super().__init__(said)
        self.kind, self.retry_after_s = kind, retry_after_s


class Provider:
    """One provider with its limits, shared by all its models and all threads of a process.

    ``counts`` tells requests, and tries that failed: ``rate_limited`` (429), ``server_errors``, ``timeouts``,
    ``connection_errors``. Nothing is read or sent before the first encoder is made.
    """

    def __init__(
        self,
        name: str,
        settings: ProviderSettings,
        *,
        meter: Meter | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.settings = name, settings
        self.counts: Counter[str] = Counter()
        self._clock = clock or Clock()
        self._meter = meter or MemoryMeter()
        self._jitter = jitter
        self._requests = TokenBucket(settings.requests_per_min, self._clock)
        self._tokens = TokenBucket(settings.tokens_per_min, self._clock)
        self._breaker = Breaker(self._clock)
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._lock = threading.Lock()
        self._client: OpenAI | None = None
        self._key: str | None = None
        self.pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix=f"revector-{name}")

    def connect(self) -> OpenAI:
        """Return the client. Raises ``ConfigError`` without the key or the package ``openai``."""
        with self._lock:
            if self._client is None:
                try:
                    from openai import OpenAI
                except ImportError as error:
                    raise ConfigError(
                        f"provider {self.name!r} needs the package openai, which is not installed here. Nothing was "
                        "sent; run pip install 'revector[api]'."
                    ) from error
                self._key = self.settings.api_key(self.name)
                # Without a key of its own, the client would send OPENAI_API_KEY to whatever server this is.
                self._client = OpenAI(api_key=self._key or "none", base_url=self.settings.base_url, max_retries=0)
            return self._client

    def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        tokens: int,
        dimensions: int | None = None,
        retry: bool = True,
        abandoned: threading.Event | None = None,
    ) -> Vectors:
        """Return the vectors of one request: ``(len(texts), width)`` float32, in the order of ``texts``.

        ``tokens`` is our own count, charged until the server tells its own. ``abandoned`` ends pauses early.
        Raises ``RequestRejected`` and ``GaveUp``, which may lie with a text, ``BadVectors``, and
        ``ProviderUnavailable`` where no text is to blame: requests are limited, the circuit is open, the spend cap is
        reached, the key is refused.
        """
        try:
            trial = self._breaker.enter()
        except CircuitOpen as circuit:
            raise self._unavailable(
                f"has failed again and again, and is left alone for another {circuit.seconds:.0f} s"
            ) from None
        ok: bool | None = None
        try:
            body: _EmbeddingsBody = {
                "model": model,
                "input": list(texts),
                "encoding_format": self.settings.encoding_format,
            }
            if dimensions is not None:
                body["dimensions"] = dimensions
            vectors = self._tried(body, tokens, retry and not trial, abandoned or threading.Event())
            ok = True
        except (RequestRejected, BadVectors):
            ok = True
            raise
        except GaveUp:
            ok = False
            raise
        else:
            return vectors
        finally:
            self._breaker.leave(ok, trial=trial)

    def _tried(self, body: _EmbeddingsBody, tokens: int, retry: bool, abandoned: threading.Event) -> Vectors:
        failed: Counter[bool] = Counter()  # by whether it was for the rate
        most = self.settings.retries if retry else 0

        def attempt() -> Vectors:
            try:
                return self._attempt(body, tokens, abandoned)
            except _Again as error:
                failed[error.kind == _RATE] += 1
                self._count(error.kind)
                raise

        def stop(state: RetryCallState) -> bool:
            last = _last(state)
            return abandoned.is_set() or failed[last.kind == _RATE] > most or last.retry_after_s > LONGEST_RETRY_AFTER_S

        def wait(state: RetryCallState) -> float:
            last = _last(state)
            pause = min(FIRST_PAUSE_S * 2.0 ** (failed[last.kind == _RATE] - 1), LONGEST_PAUSE_S)
            return max(pause, last.retry_after_s) + self._jitter() * FIRST_PAUSE_S

        def sleep(seconds: float) -> None:
            self._clock.sleep(seconds, abandoned)

        again = retry_if_exception_type(_Again)
        try:
            return Retrying(retry=again, stop=stop, wait=wait, sleep=sleep, reraise=True)(attempt)
        except _Again as error:
            if abandoned.is_set():
                raise _Abandoned from error
            said = f"{sum(failed.values())} tries failed, the last by: {error}"
            if error.retry_after_s > LONGEST_RETRY_AFTER_S:
                self._breaker.open_for(error.retry_after_s)
                raise self._unavailable(f"wants to be left alone for {error.retry_after_s:.0f} s: {error}") from error
            if error.kind == _RATE:
                raise self._unavailable(f"takes no more requests for now: {said}") from error
            raise GaveUp(said) from error

    def _attempt(self, body: _EmbeddingsBody, tokens: int, abandoned: threading.Event) -> Vectors:
        import openai

        pause = max(self._requests.take(1), self._tokens.take(tokens))
        if pause:
            self._clock.sleep(pause, abandoned)
        if abandoned.is_set():
            raise _Abandoned
        self._pay(tokens)
        self._count("requests")
        try:
            with self._slots:
                reply = _read_json(self._post(body))
        except openai.APIStatusError as error:
            # Whether a request without an answer is billed, nobody knows; one that was refused is not.
            self._meter.charge(self.name, Use(0, -tokens, -self.settings.usd(tokens)))
            raise self._failure(error) from None  # what servers say of a wrong key repeats it; tracebacks are logged
        except openai.APITimeoutError as error:
            raise _Again(_TIMEOUT, f"no answer within {self.settings.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            raise _Again(_CONNECTION, f"no connection: {error.__cause__ or error}") from error
        used = _used_tokens(reply, tokens)
        counts.add("tokens_embedded", used, self.name)
        self._meter.charge(self.name, Use(0, used - tokens, self.settings.usd(used) - self.settings.usd(tokens)))
        return _read_vectors(reply, len(body["input"]))

    def _post(self, body: _EmbeddingsBody) -> bytes:
        """Return the reply's bytes. The time limit of the transport is for each read, so a slow drip is timed here."""
        deadline = time.monotonic() + self.settings.timeout_s
        create: Any = self.connect().embeddings.with_streaming_response.create
        pieces: list[bytes] = []
        late = False
        with create(**body, timeout=self.settings.timeout_s) as response:
            try:
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    if late := time.monotonic() > deadline:
                        break
            except Exception as error:  # of the transport (httpx or httpx2), which openai does not wrap here
                kind = _TIMEOUT if time.monotonic() > deadline else _CONNECTION
                raise _Again(kind, f"the answer broke off: {type(error).__name__}: {error}") from error
        if late:
            raise _Again(_TIMEOUT, f"the answer was not whole after {self.settings.timeout_s:g} s")
        return b"".join(pieces)

    def _pay(self, tokens: int) -> None:
        """Charge the estimate before the request, so that no number of threads or processes together overspends."""
        caps, usd = self.settings.caps, self.settings.usd(tokens)
        cap, spent = self._meter.charge(self.name, Use(1, tokens, usd), caps=caps)
        if cap is not None:
            raise SpendCapReached(
                f"provider {self.name!r} has cost {spent.usd:.6f} USD ({spent.tokens:,} tokens in {spent.requests:,} "
                f"requests){_SPANS[cap]}, and the next request, about {usd:.6f} USD, would exceed the cap of "
                f"{caps[cap]:g} USD. Nothing was sent and all work stays due; raise providers.{self.name}.{cap}."
            )

    def _failure(self, error: APIStatusError) -> Exception:
        """Return what an HTTP error means: to be tried again, a refused text, or a refused key, model or setting."""
        status, said = error.status_code, self._said(error)
        if status in _REFUSES_ALL or error.code == "insufficient_quota":
            return self.refused(f"refuses {_REFUSES_ALL.get(status, 'the account')} (HTTP {status}: {said})")
        if status in _PASSING or status >= 500:
            kind = _RATE if status == 429 else _SERVER
            return _Again(kind, f"HTTP {status}: {said}", _retry_after_s(error.response.headers, self._clock.now()))
        return RequestRejected(f"HTTP {status}: {said}")

    def _said(self, error: APIStatusError) -> str:
        said = " ".join(error.message.split())
        return (said.replace(self._key, "…") if self._key else said)[:_SAID_CHARS]

    def refused(self, what: str) -> ProviderRefused:
        """Return the error for a provider that refuses whatever the text."""
        key = self.settings.api_key_env
        where = f" and the variable {key}" if key else ""
        return ProviderRefused(
            f"provider {self.name!r} ({self.settings.base_url}) {what}. No text is to blame, nothing was stored and "
            f"all work stays due; correct providers.{self.name}{where}, or model.name, or the account."
        )

    def _unavailable(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"provider {self.name!r} ({self.settings.base_url}) {what}. No text is to blame, nothing was stored and "
            "all work stays due; it goes on once the provider answers."
        )

    def down(self, said: str) -> ProviderUnavailable:
        """Return the error for a provider that fails at every text."""
        return self._unavailable(f"fails at every text: {said}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def _last(state: RetryCallState) -> _Again:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, _Again)
    return error


def _retry_after_s(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds that a server asks to be waited for: in ms, in s, or as a date (RFC 9110, 10.2.3); 0: none."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        if (value := headers.get("retry-after", "0")).replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return 0.0


def _read_json(body: bytes) -> _Reply:
    try:
        reply = json.loads(body)
    except ValueError as error:
        raise _Again(_SERVER, f"the answer is no JSON: {error}") from error
    if not isinstance(reply, dict) or not isinstance(reply.get("data"), list):
        raise BadVectors(f"the answer is no list of embeddings: {body[:80]!r}. None was stored; check base_url.")
    return _Reply(data=reply["data"], usage=reply.get("usage"))


def _used_tokens(reply: _Reply, estimate: int) -> int:
    usage = reply["usage"]
    found = (usage.get("total_tokens") or usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and found > 0 else estimate


def _read_vectors(reply: _Reply, count: int) -> Vectors:
    """Return the vectors in the order of their ``index``: ``(count, width)``. Raises ``BadVectors``."""
    data = [one if isinstance(one, dict) else {} for one in reply["data"]]
    places = [one.get("index") for one in data]
    if len(data) != count or set(places) != set(range(count)):
        raise BadVectors(
            f"{count} texts were sent, and {len(data)} vectors came back, for {len(set(places) & set(range(count)))} "
            "of them. None was stored; the server must answer every text once, by its index."
        )
    rows: list[Any] = [None] * count
    for one in data:
        rows[one["index"]] = _numbers(one.get("embedding"))
    width = len(rows[0])
    if {len(row) for row in rows} != {width}:
        raise BadVectors(
            f"vectors of {sorted({len(row) for row in rows})} numbers came in one answer. None was stored."
        )
    with np.errstate(over="ignore"):  # too large for float32 is infinite, which is refused
        return check_vectors(rows, count, width)


def _numbers(embedding: object) -> Any:
    if isinstance(embedding, list):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(str(embedding), validate=True), dtype="<f4")
    except ValueError as error:
        raise BadVectors(f"an embedding is neither a list of numbers nor base64: {error}. None was stored.") from error
