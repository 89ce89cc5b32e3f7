"""Files over HTTP by the standard library alone: ranges, redirects, repetition of what failed for the moment."""

import errno
import http.client
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from sae_fast import __version__
from sae_fast.errors import SourceError, UnreachableError
from sae_fast.sources.token import is_hub, is_offline, token_for

ATTEMPTS = 6
"""How often a request is tried without a byte of progress."""
FIRST_WAIT_S = 0.5
"""Wait after the first failure; it doubles each time, up to `LONGEST_WAIT_S`."""
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 30.0
"""How long a silent connection is waited for."""
TARGET_LIFE_S = 240.0
"""How long the address that a redirect led to is used again."""
PIECE = 1 << 20
"""Bytes handed on at a time."""

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of a server that may answer later."""

NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})
"""Errors of a machine without a network."""

CONNECTION_ERRORS = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)
"""What a connection fails with; errors of the disk are not among them."""

Headers = Mapping[str, str]
T = TypeVar("T")

_targets: dict[str, tuple[str, float]] = {}


class Response(Protocol):
    """What is used of `http.client.HTTPResponse`."""

    status: int
    headers: Any
    url: str
    """Where redirects led."""

    def read(self, amount: int, /) -> bytes:
        """At most that many bytes; fewer only at the end."""


class StatusError(SourceError):
    """The server answered with an error that waiting does not cure."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(f"{url}: the server answered {status} {reason}")
        self.status = status


def request(url: str, receive: Callable[[Response], T], headers: Callable[[], Headers] = dict) -> T:
    """`receive(response)`, repeated with growing waits where the server or the connection fails for the moment.

    `headers` is asked before each attempt; as long as its answer changes, bytes have come, and attempts are not counted.
    Raises `StatusError` for a final answer and `UnreachableError` where attempts run out.
    """
    if is_offline() and is_hub(url):
        raise UnreachableError("HF_HUB_OFFLINE is set, and this is not in the cache")
    failures, before = 0, None
    while True:
        now = dict(headers())
        failures, before = (0 if now != before else failures), now
        try:
            with _opener().open(_request(url, now), timeout=TIMEOUT_S) as response:
                return receive(response)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in PASSING:
                raise StatusError(url, error.code, error.reason) from None
            failure, wait = f"{error.code} {error.reason}", _retry_after(error.headers)
        except CONNECTION_ERRORS as error:
            failure, wait = _reason(error), 0.0
            if _is_hopeless(error):
                failures = ATTEMPTS
        failures += 1
        if failures >= ATTEMPTS:
            raise UnreachableError(f"{urlsplit(url).netloc} cannot be reached ({failure})")
        time.sleep(max(wait, min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S) * random.uniform(0.8, 1.2)))


def read_all(url: str) -> tuple[bytes, Headers]:
    """(content, headers) of a small answer, such as a listing."""

    def receive(response: Response) -> tuple[bytes, Headers]:
        content = b"".join(iter(lambda: response.read(PIECE), b""))
        _require_length(response, len(content))
        return content, response.headers

    return request(url, receive)


def read_range(url: str, start: int, stop: int, etag: str | None = None) -> bytes:
    """Bytes `start:stop` of a file; what a broken connection left out is asked for again.

    The hub redirects each request to a store whose address is good for a while; it is asked once in that time. Raises
    `SourceError` where the file is another than `etag` says, and `RangesRefusedError` where ranges are not served.
    """
    target, until = _targets.get(url, (url, 0.0))
    if target != url and time.monotonic() < until:
        try:
            return _read_range(target, url, start, stop, etag)
        except StatusError:
            _targets.pop(url, None)
    return _read_range(url, url, start, stop, etag)


def _read_range(target: str, url: str, start: int, stop: int, etag: str | None) -> bytes:
    data = bytearray()

    def receive(response: Response) -> bytes:
        if response.status != 206:
            raise RangesRefusedError(f"{url}: the server does not serve ranges of files")
        found = response.headers.get("ETag")
        first, _, _ = content_range(url, response)
        if first != start + len(data) or (etag and found and found != etag):
            raise SourceError(f"{url}: the file changed while it was read", advice="Try again")
        if response.url not in {url, target}:
            _targets[url] = response.url, time.monotonic() + TARGET_LIFE_S
        while len(data) < stop - start and (piece := response.read(min(PIECE, stop - start - len(data)))):
            data.extend(piece)
        if len(data) < stop - start:
            raise http.client.IncompleteRead(b"", stop - start - len(data))
        return bytes(data)

    return request(target, receive, lambda: {"Range": f"bytes={start + len(data)}-{stop - 1}"})


class RangesRefusedError(SourceError):
    """The server sends whole files only."""


def download(url: str, part: Path, size: int | None, same: Headers | None, progress: Callable[[int], object]) -> None:
    """Bring a file into `part`, going on where an earlier attempt ended.

    `same` is the header by which the server knows that the file is still the one begun (If-Range), empty where it cannot be
    another, None where that cannot be known: then each attempt begins anew. `progress` is told how many bytes are there.
    Raises `SourceError` where the server's length is not `size`.
    """

    def headers() -> Headers:
        there = part.stat().st_size if part.exists() else 0
        return {"Range": f"bytes={there}-", **same} if there and same is not None else {}

    def receive(response: Response) -> None:
        start, length = 0, response.headers.get("Content-Length")
        total = int(length) if length else None
        if response.status == 206:
            start, _, total = content_range(url, response)
        if size is not None and total is not None and total != size:
            raise SourceError(f"{url}: length of the file", expected=f"{size} bytes", got=f"{total}")
        with part.open("r+b" if start else "wb") as opened:
            opened.seek(start)
            opened.truncate()
            while piece := response.read(PIECE):
                opened.write(piece)
                progress(opened.tell())
            if total is not None and opened.tell() < total:
                raise http.client.IncompleteRead(b"", total - opened.tell())

    request(url, receive, headers)


def content_range(url: str, response: Response) -> tuple[int, int, int | None]:
    """(first byte, byte behind the last, size of the file if known) of a partial answer."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text)
    if found is None:
        raise SourceError(f"{url}: the server answers a range with Content-Range {text!r}")
    return int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3])


def _request(url: str, headers: Headers) -> urllib.request.Request:
    named = {"User-Agent": f"sae-fast/{__version__}", "Accept-Encoding": "identity", **headers}
    return _with_token(urllib.request.Request(url, headers=named))


def _with_token(asked: urllib.request.Request) -> urllib.request.Request:
    """The token goes to the hub alone, not to the stores it redirects to: their addresses carry a signature."""
    if token := token_for(asked.full_url):
        asked.add_unredirected_header("Authorization", f"Bearer {token}")
    return asked


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the token on the way from a repository's former name to its present one."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        asked = super().redirect_request(*arguments)
        return None if asked is None else _with_token(asked)


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _require_length(response: Response, length: int) -> None:
    stated = response.headers.get("Content-Length")
    if stated is not None and int(stated) != length:
        raise http.client.IncompleteRead(b"", int(stated) - length)


def _retry_after(headers: Any) -> float:
    text = headers.get("Retry-After") or ""
    return min(float(text), 300.0) if text.isdigit() else 0.0


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    return str(inner) or type(inner).__name__


def _is_hopeless(error: BaseException) -> bool:
    """Whether there is no network, or nobody to be trusted at that address: waiting does not help."""
    inner = getattr(error, "reason", error)
    final = socket.gaierror | ConnectionRefusedError | ssl.SSLCertVerificationError
    return isinstance(inner, final) or getattr(inner, "errno", None) in NO_ROUTE
