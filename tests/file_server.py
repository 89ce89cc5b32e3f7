"""A file server on this machine that answers like the hub, counts what it sends, and fails on demand."""

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_FROM = 1 << 10
"""Files of at least so many bytes have a sha256, smaller ones git's hash, as on the hub."""


@dataclass
class FileServer:
    """Files below `root`: owner/repo/path as repositories of the hub, and all of them under `/files/…`."""

    root: Path
    address: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of each request."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of bodies sent, by the name of the file."""
    faults: dict[str, list[Any]] = field(default_factory=dict)
    """By the name of a file, what goes wrong with the next requests: a status, "cut" (half the body), "reset", "short" (a wrong
    length), "change" (another content from now on), "whole" (no ranges), None (nothing)."""
    retry_after: str = ""
    """What a busy server says with its status."""
    has_index: bool = True
    """Whether folders answer with a page of links."""
    closed: set[str] = field(default_factory=set)
    """Repositories that answer 401."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Former names of repositories."""
    tokens: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Authorization header) of each request."""

    @property
    def n_sent(self) -> int:
        """Bytes of all bodies."""
        return sum(self.sent.values())

    def forget(self) -> None:
        """Begin counting anew."""
        self.requests.clear()
        self.sent.clear()


@contextmanager
def serving(root: Path) -> Iterator[FileServer]:
    """A server of the files below `root`."""
    state = FileServer(root)

    class Handler(_Handler):
        server_state = state

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(file: Path) -> str:
    """What the hub calls a file's content."""
    content = file.read_bytes()
    if len(content) >= LFS_FROM:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server_state: FileServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.server_state, unquote(urlsplit(self.path).path)
        state.requests.append((path, self.headers.get("Range")))
        state.tokens.append((path, self.headers.get("Authorization")))
        for former, present in state.renamed.items():
            if f"/{former}/" in path:
                return self._redirect(path.replace(f"/{former}/", f"/{present}/"))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self._revision(found[1], found[2])
        if found := re.fullmatch(rf"/api/models/([^/]+/[^/]+)/tree/{COMMIT}(?:/(.*))?", path):
            return self._tree(found[1], found[2] or "")
        if found := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path):
            return self._redirect(f"http://localhost:{state.address.rpartition(':')[2]}/files/{found[1]}/{found[2]}")
        if path.startswith("/files/"):
            place = state.root / path.removeprefix("/files/")
            return self._index(place) if place.is_dir() else self._file(place)
        return self.send_error(404)

    def _revision(self, repo: str, revision: str) -> None:
        if repo in self.server_state.closed:
            return self.send_error(401)
        if not (self.server_state.root / repo).is_dir() or revision not in {"main", COMMIT}:
            return self.send_error(404)
        return self._json({"sha": COMMIT})

    def _tree(self, repo: str, path: str) -> None:
        folder = self.server_state.root / repo / path
        if not folder.is_dir():
            return self.send_error(404)
        entries = [self._entry(repo, place) for place in sorted(folder.iterdir())]
        page = int(urlsplit(self.path).query.removeprefix("page=") or 0)
        after = f'<{self.server_state.address}{urlsplit(self.path).path}?page={page + 1}>; rel="next"'
        return self._json(entries[2 * page : 2 * page + 2], {"Link": after} if len(entries) > 2 * page + 2 else {})

    def _entry(self, repo: str, place: Path) -> dict[str, Any]:
        path = place.relative_to(self.server_state.root / repo).as_posix()
        if place.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
        entry: dict[str, Any] = {"type": "file", "oid": digest(place), "size": place.stat().st_size, "path": path}
        if len(entry["oid"]) == 64:
            entry |= {"oid": "f" * 40, "lfs": {"oid": entry["oid"], "size": entry["size"], "pointerSize": 130}}
        return entry

    def _index(self, folder: Path) -> None:
        if not self.server_state.has_index:
            return self.send_error(404)
        links = "".join(f'<li><a href="{place.name}">{place.name}</a>' for place in folder.iterdir())
        return self._send(200, f"<ul>{links}</ul>".encode(), {"Content-Type": "text/html"})

    def _redirect(self, target: str) -> None:
        self._send(302, b"", {"Location": target})

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _file(self, place: Path) -> None:
        if not place.is_file():
            return self.send_error(404)
        state, content = self.server_state, place.read_bytes()
        asked = self.headers.get("Range")
        probe = asked == "bytes=0-0"
        faults = [] if probe else state.faults.get(place.name, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            return self._send(fault, b"", {"Retry-After": state.retry_after} if state.retry_after else {})
        if fault == "change":
            content = content[::-1]
            place.write_bytes(content)
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
        is_same = self.headers.get("If-Range") in {None, etag}
        if found is None or fault == "whole" or not is_same or "whole" in state.faults.get("*", []):
            return self._send(200, content, {"ETag": etag}, fault, place.name)
        start, stop = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return self.send_error(416)
        headers = {"ETag": etag, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        return self._send(206, content[start:stop], headers, fault, place.name)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: object = None, name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) + (7 if fault == "short" else 0)))
        self.end_headers()
        if fault in {"cut", "reset"}:
            body = body[: len(body) // 2]
        self.server_state.sent[name] = self.server_state.sent.get(name, 0) + len(body)
        self.wfile.write(body)
        self.close_connection = True
        if fault == "reset":
            # Closing then sends a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
