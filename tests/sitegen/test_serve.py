"""`sitegen serve` behaves like a static host."""

import http.client
import socket
import threading
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from e2e.sample_site import write_sample

from sitegen import serve
from sitegen.errors import OutputError, SitegenError


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small site."""
    folder = tmp_path_factory.mktemp("serve") / "site"
    write_sample(folder, n_saes=1, n_features=24)
    return folder


def get(root: str, path: str, method: str = "GET") -> tuple[int, Message, bytes]:
    """Ask for a path as it is, without following anything."""
    connection = http.client.HTTPConnection(urlsplit(root).netloc, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/definitions.html", "text/html; charset=utf-8"),
        ("/data/manifest.json", "application/json"),
        ("/data/documents.json.gz", "application/gzip"),
    ],
)
def test_files_come_with_their_type_and_as_they_are(site: Path, path: str, kind: str) -> None:
    """Types are those a static host sends; `.gz` is sent verbatim, without Content-Encoding."""
    with serve.running(site) as root:
        status, headers, body = get(root, path)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert "Content-Encoding" not in headers
    assert body == (site / (path.strip("/") or "index.html")).read_bytes()


def test_modules_are_javascript(site: Path) -> None:
    """Browsers refuse modules of another type."""
    script = next(site.glob("assets/*/js/data.js")).relative_to(site).as_posix()
    with serve.running(site) as root:
        assert get(root, f"/{script}")[1]["Content-Type"].startswith("text/javascript")


def test_a_prefix_moves_the_site(site: Path) -> None:
    """Below a prefix everything is found, the root leads there, and nothing is found outside."""
    with serve.running(site, prefix="repo") as root:
        assert root.endswith("/repo/")
        assert get(root, "/repo/data/manifest.json")[0] == 200
        status, headers, _ = get(root, "/")
        assert (status, headers["Location"]) == (302, "/repo/")
        assert get(root, "/data/manifest.json")[0] == 404


def test_missing_files_get_the_sites_own_page(site: Path) -> None:
    """A 404 is the site's 404 page; folders have no listing; nothing outside of the site is served."""
    (site.parent / "secret.txt").write_text("secret")
    with serve.running(site) as root:
        for path in ("/nothing", "/data/", "/../secret.txt", "/%2e%2e/secret.txt"):
            status, _, body = get(root, path)
            assert (status, body) == (404, (site / "404.html").read_bytes()), path
        assert get(root, "/nothing", "HEAD")[2] == b""


def test_every_reply_is_told_to_the_watcher(site: Path) -> None:
    """Tests and previews can count requests and bytes."""
    seen: list[tuple[str, int, int]] = []
    with serve.running(site, watch=lambda *reply: seen.append(reply)) as root:
        get(root, "/data/manifest.json?v=1")
        get(root, "/nothing")
    assert seen == [("/data/manifest.json", 200, (site / "data/manifest.json").stat().st_size), ("/nothing", 404, 0)]


def test_a_port_in_use_gives_the_next(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next free port is taken; where there is none the error says which were tried."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve.make_server(site, port) as server:
            assert port < server.server_address[1] <= port + serve.TRIED_PORTS
        monkeypatch.setattr(serve, "TRIED_PORTS", 1)
        with pytest.raises(SitegenError, match=f"Ports {port} to {port}"):
            serve.make_server(site, port)


def test_serve_tells_its_address_and_stops_on_interrupt(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the address, then service until Ctrl-C, which is no error."""
    lines: list[str] = []

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve._Server, "serve_forever", interrupted)
    serve.serve(site, port=0, prefix="/repo/", announce=lines.append)
    assert lines[0].startswith(f"Serving {site} at http://127.0.0.1:")
    assert "/repo/" in lines[0]
    assert threading.active_count() >= 1


def test_a_folder_without_a_site_is_refused(tmp_path: Path) -> None:
    """Nothing else is ever served."""
    with pytest.raises(OutputError, match="holds no site"):
        serve.make_server(tmp_path)
