"""Check a built site: its links, its data against the contract, its size against a host's limits, its requests.

What is found is a list of problems, not an exception: a site with a problem can still be looked at.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from sae_fast.errors import nearest
from sitegen.errors import OutputError, SitegenError
from sitegen.records import CONTRACT_VERSION, Example, FeatureTable, Manifest, SaeInfo, Shard
from sitegen.write.output import MANIFEST
from sitegen.write.shards import COLD_VIEW_BYTES, shard_path

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host accepts. Sources: the hosts' documentation, November 2026."""

    name: str
    site_bytes: int | None
    file_bytes: int
    n_files: int | None


HOSTS = {
    "github": Limits("GitHub Pages", 1_000_000_000, 100_000_000, None),
    "cloudflare": Limits("Cloudflare Pages", None, 25 * 2**20, 20_000),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one file (or, where `file` is `.`, with the site as a whole)."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


def check(path: str | Path, host: str = "github") -> list[Problem]:
    """Return every problem of the site in a folder, none if it is sound; reads every data file once.

    Raises:
        SitegenError: `host` is neither `github` nor `cloudflare`.
        OutputError: there is no such folder.
    """
    if host not in HOSTS:
        raise SitegenError(f"Unknown host {host!r}; known are {', '.join(HOSTS)}.{nearest(host, HOSTS)}")
    root = Path(path)
    if not root.is_dir():
        raise OutputError(f"{root} is not a folder; build a site with `sitegen build`.")
    return [*_size_problems(root, HOSTS[host]), *_page_problems(root), *_asset_problems(root), *_data_problems(root)]


def _size_problems(root: Path, limits: Limits) -> Iterator[Problem]:
    sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in root.rglob("*") if file.is_file()}
    for name, size in sorted(sizes.items()):
        if size > limits.file_bytes:
            yield Problem(name, f"{size:,} bytes; {limits.name} takes files up to {limits.file_bytes:,}")
    total = sum(sizes.values())
    if limits.site_bytes is not None and total > limits.site_bytes:
        yield Problem(
            ".", f"{total:,} bytes in all; {limits.name} takes up to {limits.site_bytes:,}: show fewer examples or features"
        )
    if limits.n_files is not None and len(sizes) > limits.n_files:
        yield Problem(".", f"{len(sizes):,} files; {limits.name} takes up to {limits.n_files:,}: show fewer features")
    if ".nojekyll" not in sizes:
        yield Problem(".", ".nojekyll is missing; GitHub Pages would run Jekyll over the site")


class _Page(HTMLParser):
    """Collects what a page links to and loads, and the ids it offers."""

    LOADS = frozenset(
        {"link", "script", "img", "iframe", "source", "video", "audio", "object", "embed", "form", "use", "image"}
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.unsafe: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and ids of one element."""
        attributes = {name: value or "" for name, value in attrs}
        if "id" in attributes:
            self.ids.add(attributes["id"])
        for name in ("href", "src", "action", "data", "poster", "xlink:href"):
            if attributes.get(name):
                (self.loads if tag in self.LOADS else self.links).append(attributes[name])
        self.unsafe += [f"<{tag} {name}>" for name in attributes if name == "style" or name.startswith("on")]
        self._in_script = tag == "script" and "src" not in attributes and attributes.get("type") != "application/json"

    def handle_data(self, data: str) -> None:
        """Note inline scripts, which the Content-Security-Policy refuses."""
        if self._in_script and data.strip():
            self.unsafe.append("<script> without src")
        self._in_script = False


def _page_problems(root: Path) -> Iterator[Problem]:
    pages = {file.relative_to(root).as_posix(): _Page(file.read_text("utf-8")) for file in sorted(root.rglob("*.html"))}
    if "index.html" not in pages:
        yield Problem("index.html", "is missing")
    for name, page in pages.items():
        yield from (Problem(name, f"{what}: the page's Content-Security-Policy refuses it") for what in page.unsafe)
        for address in page.loads:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                yield Problem(name, f"loads {address} from another host")
        # Any of several depths may be right for the page of missing addresses: only the root's counts.
        own = [address for address in page.loads + page.links if not (name == "404.html" and address.startswith("../"))]
        for address in own:
            yield from _link_problems(root, pages, name, address)


def _link_problems(root: Path, pages: dict[str, _Page], name: str, address: str) -> Iterator[Problem]:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return
    if parts.path.startswith("/"):
        yield Problem(name, f"{address} is not relative: it breaks where the site lies below a path")
        return
    target = unquote(urlsplit(urljoin(f"http://site/{name}", address)).path).lstrip("/") or "index.html"
    target = target + "index.html" if target.endswith("/") else target
    if not (root / target).is_file():
        yield Problem(name, f"links to {target}, which does not exist")
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        yield Problem(name, f"links to #{parts.fragment} of {target}, which has no such id")


_FOREIGN = re.compile(r"""(?:url\(|@import|from|import|fetch\()\s*['"]?\s*((?:https?:)?//[^\s'")]+)""")
_IMPORT = re.compile(r"""^(?:import|export)\s(?:[^"';]*?\sfrom\s+)?"([^"]+)";""", re.MULTILINE)


def _asset_problems(root: Path) -> Iterator[Problem]:
    for file in sorted([*root.rglob("*.js"), *root.rglob("*.css")]):
        name = file.relative_to(root).as_posix()
        text = file.read_text("utf-8")
        yield from (Problem(name, f"loads {address} from another host") for address in _FOREIGN.findall(text))
        if file.suffix == ".js":
            missing = [module for module in _IMPORT.findall(text) if not (file.parent / module).is_file()]
            yield from (Problem(name, f"imports {module}, which does not exist") for module in missing)


def _data_problems(root: Path) -> Iterator[Problem]:
    try:
        manifest = read_data(root, MANIFEST, Manifest)
    except SitegenError as error:
        yield Problem(MANIFEST, str(error))
        return
    if manifest.version > CONTRACT_VERSION:
        yield Problem(MANIFEST, f"contract version {manifest.version}; this sitegen knows up to {CONTRACT_VERSION}")
    if manifest.corpus.documents:
        yield from _readable(root, manifest.corpus.documents, list[str])
    for model in manifest.models:
        if model.vocabulary:
            yield from _readable(root, model.vocabulary, list[str | dict[str, str]])
    yield from _missing_pages(root, manifest)
    d_vocab = {model.slug: model.d_vocab for model in manifest.models}
    for info in manifest.saes:
        if info.model not in d_vocab:
            yield Problem(MANIFEST, f"{info.slug} names the model {info.model}, which is not listed")
        yield from _sae_problems(_SaeData(root, info, _vocabulary_size(root, manifest, info)))


def _missing_pages(root: Path, manifest: Manifest) -> Iterator[Problem]:
    """Results that the manifest names, without a page or numbers."""
    for kind in ("contrast", "comparison", "training"):
        for info in getattr(manifest, f"{kind}s"):
            names = [f"{kind}/{info.slug}/index.html", *([info.path] if hasattr(info, "path") else [])]
            yield from (Problem(name, "is missing") for name in names if not (root / name).is_file())
            known = {sae.slug for sae in manifest.saes}
            if unknown := sorted(set(info.saes) - known):
                yield Problem(MANIFEST, f"{kind} {info.slug} names the SAEs {', '.join(unknown)}, which are not listed")


def _readable(root: Path, name: str, kind: Any) -> Iterator[Problem]:
    try:
        read_data(root, name, kind)
    except SitegenError as error:
        yield Problem(name, str(error))


def _vocabulary_size(root: Path, manifest: Manifest, info: SaeInfo) -> int | None:
    """Return how many tokens the vocabulary file has that an SAE's records refer to; None where there is none to be read."""
    paths = [model.vocabulary for model in manifest.models if model.slug == info.model]
    if not paths or paths[0] is None:
        return None
    try:
        return len(read_data(root, paths[0], list[Any]))
    except SitegenError:
        return None


@dataclass
class _SaeData:
    root: Path
    info: SaeInfo
    n_vocabulary: int | None
    seen: list[int] = field(default_factory=list)


def _sae_problems(data: _SaeData) -> Iterator[Problem]:
    info = data.info
    name = f"data/{info.slug}/features.json.gz"
    for page in ("index.html", "feature.html"):
        if not (data.root / "sae" / info.slug / page).is_file():
            yield Problem(f"sae/{info.slug}/{page}", "is missing")
    try:
        table = read_data(data.root, name, FeatureTable)
    except SitegenError as error:
        yield Problem(name, str(error))
        return
    columns = (table.density, table.max_act, table.label, table.precision, table.recall, table.top_token)
    if any(len(column) != len(table.id) for column in columns):
        yield Problem(name, "its columns differ in length")
    if len(table.id) != info.n_features:
        yield Problem(name, f"{len(table.id)} features, but the manifest says {info.n_features}")
    if unknown := sorted(set(info.featured) - set(table.id)):
        yield Problem(MANIFEST, f"{info.slug}: featured features {unknown} are not in the table")
    for number in sorted({feature // info.shard_size for feature in table.id}):
        yield from _shard_problems(data, number)
    if data.seen != table.id:
        yield Problem(name, f"its features are not those of the shards ({len(table.id)} and {len(data.seen)})")


def _shard_problems(data: _SaeData, number: int) -> Iterator[Problem]:
    info, name = data.info, shard_path(data.info.slug, number)
    try:
        shard = read_data(data.root, name, Shard)
    except SitegenError as error:
        yield Problem(name, str(error))
        return
    size = (data.root / name).stat().st_size
    if size > COLD_VIEW_BYTES:
        yield Problem(name, f"{size:,} bytes; a first look at a feature may cost {COLD_VIEW_BYTES:,}")
    data.seen += [record.id for record in shard.features]
    if shard.first != number * info.shard_size or any(record.id // info.shard_size != number for record in shard.features):
        yield Problem(name, f"holds features of another shard (first {shard.first}, {info.shard_size} per shard)")
    for record in shard.features:
        for group in record.groups or ():
            wrong = next((text for example in group.examples if (text := _wrong(example, shard, data.n_vocabulary))), None)
            if wrong:
                yield Problem(name, f"feature {record.id}: {wrong}")


def _wrong(example: Example, shard: Shard, n_vocabulary: int | None) -> str | None:
    """Return what does not fit in an example."""
    n = len(example.tokens)
    if not 0 <= example.peak < n:
        return f"an example's peak {example.peak} lies outside of its {n} tokens"
    if any(not 0 <= offset < n for offset, _ in example.acts):
        return f"an activation lies outside of an example's {n} tokens"
    if n_vocabulary is not None and not 0 <= min(example.tokens) <= max(example.tokens) < n_vocabulary:
        return f"an example has tokens outside of the vocabulary's {n_vocabulary}"
    if shard.strings is not None and any(str(token) not in shard.strings for token in example.tokens):
        return "the shard lacks the text of an example's token"
    return None


def read_data(root: Path, name: str, kind: type[T]) -> T:
    """Read a JSON file of a site as a record type; SitegenError where it is missing, damaged or follows no contract."""
    try:
        data = (root / name).read_bytes()
        return msgspec.json.decode(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data, type=kind)
    except FileNotFoundError:
        raise SitegenError(f"{root / name} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SitegenError(f"{root / name} cannot be read: {error}") from error
    except msgspec.ValidationError as error:
        raise SitegenError(f"{root / name} does not follow the contract: {error}") from error
    except msgspec.DecodeError as error:
        raise SitegenError(f"{root / name} is not JSON: {error}") from error
