"""Owns what stores that are reached through a client share: the client, an index made once, and what is said of it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from revector.errors import EncoderMismatch, IndexGone, StoreRefused, StoreUnavailable
from revector.stores.settings import StoreSettings

T = TypeVar("T")

Made = tuple[str, int]
"""Whose an index is: the fingerprint of its encoder, empty where revector did not make it, and its width."""


class ClientStore(ABC):
    """A store of one client, which is made when it is first wanted; any number of threads may use it."""

    kind: str
    """As settings name it."""
    server: str
    """What people call it."""

    def __init__(self, name: str, settings: StoreSettings) -> None:
        self.name, self.settings = name, settings
        self._lock, self._client = threading.Lock(), None

    @property
    def client(self) -> Any:
        """The client."""
        with self._lock:
            if self._client is None:
                self._client = self.connect()
            return self._client

    @abstractmethod
    def connect(self) -> Any:
        """Return a client; nothing is asked of the server yet."""

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def was_asked(self, what: str) -> str:
        """Return the beginning of what is said of a request that failed."""
        return f"the store {self.name!r} ({self.server} at {self.settings.url}) was asked for {what}"

    def lacks_client(self, error: ImportError, also: str = "") -> StoreRefused:
        """Return the error of a client library that is not installed."""
        return StoreRefused(
            f"the store {self.name!r} is of the kind {self.kind}, and {error.name} is not installed here. Nothing was "
            f"changed; run `pip install 'revector[{self.kind}]'`{also}."
        )

    def refuses_key(self, said: str) -> StoreRefused:
        """Return the error of a server that refuses the key, given what is said of the request."""
        return StoreRefused(
            f"{said} It refuses the key. Nothing was changed; correct stores.{self.name}.api_key_env, what the "
            "variable holds, or the rights of that user."
        )


def gone(said: str) -> IndexGone:
    """Return the error of an index that is not there, given what is said of the request."""
    return IndexGone(
        f"{said} The index was dropped meanwhile, or the store lost it. Nothing was changed; a worker that reaches the "
        "store makes it again and re-embeds its documents."
    )


def make_once(name: str, wanted: Made, find: Callable[[], Made | None], make: Callable[[], None]) -> None:
    """Have ``make`` create an index, unless ``find`` finds it. Raises ``EncoderMismatch`` where it is another's."""
    if find() is None:
        try:
            make()
        except StoreUnavailable:
            if find() is None:
                raise  # else another process has just made it
    demand_made(name, wanted, find())


def demand_made(name: str, wanted: Made, found: Made | None) -> None:
    """Raise ``EncoderMismatch`` unless what has the name is what was wanted."""
    if found != wanted:
        said = (
            "it is gone again" if found is None else f"one of encoder {found[0]!r} and width {found[1]} has that name"
        )
        raise EncoderMismatch(
            f"the index {name} was to be created for encoder {wanted[0]} of width {wanted[1]}; {said}. Nothing was "
            "changed."
        )


def may_drop(name: str, found: Made | None) -> bool:
    """Whether there is an index to drop. Raises ``StoreRefused`` for one that is not ours."""
    if found is not None and not found[0]:
        raise StoreRefused(f"the index {name} was to be dropped, and revector did not make it. It was left alone.")
    return found is not None


def batches(what: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Yield ``what`` in parts of at most ``most``."""
    for first in range(0, len(what), most):
        yield what[first : first + most]
