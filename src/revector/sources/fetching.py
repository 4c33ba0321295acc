"""Fetches an image from a public address: never from a private one, whatever a name, an answer or a redirect says.

The addresses of a name are looked up once, and the first that answers is taken, so that a second look-up cannot lead
elsewhere.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from revector.errors import DocumentError

MOST_REDIRECTS = 5
MOST_ADDRESSES = 4
"""Of a name that are tried, in the order of the look-up."""

CONNECT_S, WHOLE_S = 10.0, 60.0
"""Seconds that a connection or a pause within an answer may take, and all of an image."""

_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PIECE = 1 << 16


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's: not of this machine, this network, or of one behind either.

    >>> [is_public(one) for one in ("93.184.216.34", "127.0.0.1", "10.0.0.8", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        inner += [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)] if ip in _NAT64 else []
        if any(one is not None and not is_public(str(one)) for one in inner):
            return False
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Gets what is behind an http or https address, up to ``most`` bytes and one more; ``allowed`` judges addresses."""

    most: int
    allowed: Callable[[str], bool] = is_public

    def __call__(self, url: str) -> bytes:
        """Return the body of the answer. Raises ``DocumentError`` for an address or an answer that is not taken."""
        asked, until = url, time.monotonic() + WHOLE_S
        try:
            for _ in range(MOST_REDIRECTS + 1):
                found = self._get(url, until)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _refusal(asked, f"cannot be fetched: {type(error).__name__}: {error}") from error
        raise _refusal(asked, f"was redirected more than {MOST_REDIRECTS} times")

    def _get(self, url: str, until: float) -> bytes | str:
        """Return a body, or where the answer says that it is."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _refusal(url, "is no http or https address")
        connection = _Pinned(parts, self._addresses(parts, url))
        try:
            path = parts.path or "/"
            connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers={"Accept": "image/*"})
            answer = connection.getresponse()
            if answer.status in _REDIRECTS and (target := answer.headers["Location"]):
                return str(target)
            if answer.status != http.client.OK:
                raise _refusal(url, f"answered {answer.status} {answer.reason}")
            return self._body(answer, url, until)
        finally:
            connection.close()

    def _addresses(self, parts: SplitResult, url: str) -> list[str]:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = [str(one[4][0]) for one in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)]
        if private := [one for one in found if not self.allowed(one)]:
            raise _refusal(url, f"leads to {private[0]}, which is no public address")
        return list(dict.fromkeys(found))[:MOST_ADDRESSES]

    def _body(self, answer: http.client.HTTPResponse, url: str, until: float) -> bytes:
        body = bytearray()
        while len(body) <= self.most and (piece := answer.read1(min(_PIECE, self.most + 1 - len(body)))):
            body += piece
            if time.monotonic() > until:
                raise _refusal(url, f"took longer than {WHOLE_S:g} s")
        return bytes(body)


class _Pinned(http.client.HTTPConnection):
    """A connection to one of the addresses that were judged, under the name that was asked for."""

    def __init__(self, parts: SplitResult, addresses: Sequence[str]) -> None:
        secure = parts.scheme == "https"
        super().__init__(str(parts.hostname), parts.port or (443 if secure else 80), timeout=CONNECT_S)
        self._addresses, self._secure = addresses, secure
        if secure and parts.port is None:
            self.default_port = 443  # the Host header names no port

    def connect(self) -> None:
        """Connect to the first address that can be reached, and prove the name where the scheme is https."""
        *others, last = self._addresses
        for address in others:
            with suppress(OSError):
                self.sock = socket.create_connection((address, self.port), self.timeout)
                break
        else:
            self.sock = socket.create_connection((last, self.port), self.timeout)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _refusal(url: str, why: str) -> DocumentError:
    return DocumentError(f"The image {url!r:.200} {why}. The document was not stored; correct it and read it again.")
