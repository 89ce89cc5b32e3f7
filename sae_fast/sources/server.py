"""Folders of any file server: what is there is found by asking for it, or from the server's index page."""

import re
from collections.abc import Sequence
from functools import cached_property
from urllib.parse import quote, unquote, urljoin, urlsplit

from sae_fast.sources.http import Response, StatusError, content_range, read_all, request
from sae_fast.sources.remote import RemoteFile, RemoteFolder

_LINK = re.compile(rb'href="([^"]+)"', re.IGNORECASE)


class ServerFolder(RemoteFolder):
    """A folder at an address."""

    def __init__(self, url: str, used: dict[str, RemoteFile] | None = None) -> None:
        self.url, self._used = url.rstrip("/"), {} if used is None else used
        self._entries: dict[str, RemoteFile | None] = {}

    @property
    def path(self) -> str:
        """See `Folder`: its address, readable."""
        return unquote(self.url)

    def names(self) -> Sequence[str]:
        """See `Folder`; none where the server shows no index page."""
        return self._index

    @cached_property
    def _index(self) -> Sequence[str]:
        try:
            page, headers = read_all(self.url + "/")
        except StatusError:
            return []
        if "html" not in (headers.get("Content-Type") or ""):
            return []
        base = urlsplit(self.url + "/").path
        links = [urlsplit(urljoin(self.url + "/", link.decode(errors="replace"))).path for link in _LINK.findall(page)]
        names = {unquote(link[len(base) :]) for link in links if link.startswith(base)}
        return sorted(name for name in names if name and "/" not in name)

    @property
    def used(self) -> dict[str, RemoteFile]:
        """See `RemoteFolder`."""
        return self._used

    def entry(self, name: str) -> RemoteFile | None:
        """See `RemoteFolder`."""
        if name not in self._entries:
            self._entries[name] = file_at(f"{self.url}/{quote(name)}")
        return self._entries[name]

    def parent(self) -> "ServerFolder | None":
        """See `Folder`."""
        above = self.url.rpartition("/")[0]
        return ServerFolder(above, self._used) if urlsplit(above).path else None


def file_at(url: str) -> RemoteFile | None:
    """The file at an address; None for nothing or a page. One byte is asked for, which tells length, version and ranges."""

    def receive(response: Response) -> RemoteFile | None:
        if "html" in (response.headers.get("Content-Type") or ""):
            return None
        etag = response.headers.get("ETag")
        length = response.headers.get("Content-Length")
        size = content_range(url, response)[2] if response.status == 206 else (int(length) if length else None)
        return RemoteFile(url, unquote(url), size, None, etag)

    try:
        return request(url, receive, lambda: {"Range": "bytes=0-0"})
    except StatusError as error:
        if error.status == 416:
            return RemoteFile(url, unquote(url), 0)
        if error.status in {403, 404, 410}:
            return None
        raise
