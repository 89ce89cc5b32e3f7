"""Serve a built site on this machine, the way a static host would."""

import errno
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from sitegen.errors import OutputError, SitegenError
from sitegen.write.output import MANIFEST, is_ours

TRIED_PORTS = 20
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wasm": "application/wasm",
}

Watch = Callable[[str, int, int], object]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Static files below a prefix; anything else gets the site's 404 page. `watch(path, status, bytes)` sees every reply."""

    protocol_version = "HTTP/1.1"
    server_version = "sitegen"
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, **_TYPES}  # noqa: RUF012

    def __init__(self, *args: object, prefix: str = "/", watch: Watch | None = None, **kwargs: object) -> None:
        self._prefix = prefix
        self._watch = watch
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def send_head(self):  # type: ignore[no-untyped-def]
        """Answer GET and HEAD: strip the prefix, redirect the root to it."""
        path = urlsplit(self.path).path
        if self._prefix != "/":
            if path == "/" or path == self._prefix[:-1]:
                return self._redirect(self._prefix)
            if not path.startswith(self._prefix):
                self.send_error(HTTPStatus.NOT_FOUND)
                return None
            self.path = "/" + self.path[len(self._prefix) :]
        return super().send_head()

    def list_directory(self, path):  # type: ignore[no-untyped-def]
        """Show no listing: static hosts have none."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send the site's 404 page where that is the error."""
        page = Path(self.directory) / "404.html"
        if code != HTTPStatus.NOT_FOUND or not page.is_file():
            super().send_error(code, message, explain)
            return
        body = page.read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", _TYPES[".html"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Let browsers ask again each time: the site may be built anew while it is served."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Tell the watcher instead of the terminal."""
        if self._watch is not None:
            target = Path(self.translate_path(self.path))
            self._watch(urlsplit(self.path).path, int(code), target.stat().st_size if target.is_file() else 0)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the terminal quiet."""

    def _redirect(self, location: str) -> None:
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # Another process on the same port is an error here, never a silent share.
    allow_reuse_address = False

    def server_bind(self) -> None:
        # After a stop the port lingers in TIME_WAIT, which is no reason to move on to the next.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closes a connection early is no error of ours."""


def make_server(
    path: str | Path, port: int = 8000, prefix: str = "/", host: str = "127.0.0.1", watch: Watch | None = None
) -> http.server.ThreadingHTTPServer:
    """Return a server bound to the first free port from `port` on (0: any); `serve_forever()` runs it.

    Raises:
        OutputError: the folder holds no site made by sitegen.
        SitegenError: none of the ports is free, or the address cannot be used.
    """
    folder = Path(path)
    if not is_ours(folder):
        raise OutputError(f"{folder} holds no site made by sitegen ({MANIFEST} is missing); build one with `sitegen build`.")
    prefix = "/" + prefix.strip("/") + "/" if prefix.strip("/") else "/"
    handler = partial(Handler, directory=str(folder.resolve()), prefix=prefix, watch=watch)
    for candidate in range(port, port + (TRIED_PORTS if port else 1)):
        try:
            return _Server((host, candidate), handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise SitegenError(f"Cannot serve on {host}:{candidate}: {error.strerror or error}.") from error
    raise SitegenError(f"Ports {port} to {port + TRIED_PORTS - 1} are all in use on {host}; choose another with --port.")


def url_of(server: http.server.ThreadingHTTPServer, prefix: str = "/") -> str:
    """Return the address of a server's start page."""
    host, port = server.server_address[:2]
    path = "/" + prefix.strip("/") + "/" if prefix.strip("/") else "/"
    return f"http://{host!s}:{port}{path}"


@contextmanager
def running(path: str | Path, prefix: str = "/", watch: Watch | None = None) -> Iterator[str]:
    """Serve on a free port in a thread while the block runs; yields the address of the start page."""
    server = make_server(path, port=0, prefix=prefix, watch=watch)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield url_of(server, prefix)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(
    path: str | Path,
    port: int = 8000,
    prefix: str = "/",
    host: str = "127.0.0.1",
    announce: Callable[[str], object] = print,
) -> None:
    """Serve a site until interrupted; `announce` is given one line with its address. Errors as `make_server`."""
    with make_server(path, port, prefix, host) as server:
        announce(f"Serving {Path(path)} at {url_of(server, prefix)} (Ctrl-C to stop)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            announce("Stopped.")
