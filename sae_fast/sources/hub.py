"""Folders of repositories on the hub (huggingface.co, or `HF_ENDPOINT`), each at one commit."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sae_fast.errors import SourceError, UnreachableError
from sae_fast.sources import cache
from sae_fast.sources.folder import Folder, LocalFolder
from sae_fast.sources.http import StatusError, read_all
from sae_fast.sources.mirror import what_to_fetch
from sae_fast.sources.remote import RemoteFile, RemoteFolder
from sae_fast.sources.token import hub_address, hub_home

_ADDRESS = re.compile(r"hf://(?:(datasets|spaces)/)?([^/@\s]+)/([^/@\s]+)(?:@([^/\s]+))?(?:/([^@]*))?(?:@(\S+))?")
_PAGE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+)/([^/]+)(?:/(?:resolve|tree|blob)/([^/]+)(?:/(.*))?)?/?")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


@dataclass(frozen=True)
class HubAddress:
    """What `hf://owner/repo/path@revision` names; `hf://owner/repo@revision/path` is the same."""

    repo: str
    """`owner/name`."""
    path: str = ""
    """Within the repository, without slashes at the ends."""
    revision: str = "main"
    """Branch, tag or commit."""
    kind: str = "models"
    """`models`, `datasets` or `spaces`."""

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        return f"hf://{self.prefix}{self.repo}{self._at}{path}"

    @property
    def in_mirror(self) -> str:
        """Where a mirror has it: `owner/repo/path`, or `owner/repo@revision/path`."""
        return f"{self.prefix}{self.repo}{self._at}/{self.path}".rstrip("/")

    @property
    def _at(self) -> str:
        return "" if self.revision == "main" else f"@{quote(self.revision, safe='')}"

    @property
    def advice(self) -> str:
        """What somebody without a network can do."""
        return what_to_fetch(str(self), self.in_mirror)

    @property
    def prefix(self) -> str:
        """What the hub writes before the names of repositories that are not models."""
        return "" if self.kind == "models" else f"{self.kind}/"


def hub_address_of(text: str) -> HubAddress | None:
    """The place on the hub that a text names: `hf://…`, or the address of a page or file of the hub. Raises `SourceError`."""
    if text.startswith("hf://"):
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise SourceError(text, expected="hf://owner/repo/path or hf://owner/repo/path@revision")
        kind, owner, name, inner, path, outer = found.groups()
        return HubAddress(f"{owner}/{name}", (path or "").strip("/"), unquote(inner or outer or "main"), kind or "models")
    address = urlsplit(text)
    if address.netloc not in {urlsplit(hub_address()).netloc, "huggingface.co", "hf.co"}:
        return None
    found = _PAGE.fullmatch(address.path)
    if found is None:
        return None
    kind, owner, name, revision, path = found.groups()
    return HubAddress(f"{owner}/{name}", unquote(path or "").strip("/"), unquote(revision or "main"), kind or "models")


@dataclass
class HubRepo:
    """A repository at one commit: its listings, and the files that were read."""

    address: HubAddress
    commit: str
    used: dict[str, RemoteFile] = field(default_factory=dict)
    """See `RemoteFolder`."""
    _listings: dict[str, Mapping[str, RemoteFile] | None] = field(default_factory=dict)

    def file(self, path: str) -> RemoteFile | None:
        """The file at a path of the repository."""
        folder, _, name = path.rpartition("/")
        return (self.listing(folder) or {}).get(name)

    def listing(self, folder: str) -> Mapping[str, RemoteFile] | None:
        """The files directly in a folder by name; None where there is no such folder."""
        if folder not in self._listings:
            is_inside = not {".", ".."} & set(folder.split("/"))
            entries = self._entries(folder) if is_inside else None
            self._listings[folder] = None if entries is None else self._files(folder, entries)
        return self._listings[folder]

    def place(self, path: str) -> str:
        """A file or folder of the repository as messages call it."""
        return str(replace(self.address, path=path))

    def _entries(self, folder: str) -> list[dict[str, Any]] | None:
        """What the hub says of a folder, asked once for all time: a commit does not change."""
        name = ("listings", hub_address(), self.address.prefix + self.address.repo, self.commit, folder)
        noted = cache.recall(*name)
        if noted is None:
            noted = {"entries": self._ask(folder)}
            cache.note(noted, *name)
        return noted["entries"]

    def _ask(self, folder: str) -> list[dict[str, Any]] | None:
        page, entries = f"{_api(self.address)}/tree/{self.commit}{'/' if folder else ''}{quote(folder)}", []
        try:
            while page:
                content, headers = ask(self.address, page)
                entries += content
                found = _NEXT.search(headers.get("Link") or "")
                page = found[1] if found else ""
        except StatusError as error:
            if error.status == 404:
                return None
            raise
        return entries

    def _files(self, folder: str, entries: list[dict[str, Any]]) -> Mapping[str, RemoteFile]:
        files = {}
        for entry in entries:
            above, _, name = str(entry["path"]).rpartition("/")
            if entry["type"] == "file" and above == folder and name not in {"", ".", ".."}:
                digest = (entry.get("lfs") or {}).get("oid") or entry["oid"]
                address = replace(self.address, path=entry["path"])
                files[name] = RemoteFile(
                    self._url(entry["path"]), str(address), int(entry["size"]), digest, None, address.advice
                )
        return files

    def _url(self, path: str) -> str:
        return f"{hub_address()}/{self.address.prefix}{self.address.repo}/resolve/{self.commit}/{quote(path)}"


class HubFolder(RemoteFolder):
    """A folder of a repository."""

    def __init__(self, repo: HubRepo, folder: str) -> None:
        self.repo, self.folder = repo, folder

    @property
    def path(self) -> str:
        """See `Folder`: `hf://owner/repo/path`."""
        return self.repo.place(self.folder)

    def names(self) -> Sequence[str]:
        """See `Folder`."""
        return sorted(self.repo.listing(self.folder) or ())

    @property
    def used(self) -> dict[str, RemoteFile]:
        """See `RemoteFolder`."""
        return self.repo.used

    def entry(self, name: str) -> RemoteFile | None:
        """See `RemoteFolder`."""
        return self.repo.file(f"{self.folder}/{name}" if self.folder else name)

    def parent(self) -> "HubFolder | None":
        """See `Folder`."""
        return HubFolder(self.repo, self.folder.rpartition("/")[0]) if self.folder else None


def open_hub(address: HubAddress) -> tuple[Folder, str | None]:
    """(folder, file in it that was named, if one was). Raises `SourceError`, `UnreachableError` without a network."""
    try:
        repo = HubRepo(address, _commit(address))
        listing = repo.listing(address.path)
        if not listing and address.path and repo.file(address.path) is not None:
            folder, _, name = address.path.rpartition("/")
            return HubFolder(repo, folder), name
        if listing is not None:
            return HubFolder(repo, address.path), None
    except UnreachableError as error:
        if found := _in_hub_cache(address):
            return found
        raise UnreachableError(f"{address}: {error}", advice=address.advice) from error
    raise SourceError(f"{address}: there is no such file or folder at commit {repo.commit[:12]}")


def ask(address: HubAddress, url: str) -> tuple[Any, Mapping[str, str]]:
    """(JSON, headers) of the hub's answer. Raises `StatusError`, with advice where a repository is closed to us."""
    try:
        content, headers = read_all(url)
        return json.loads(content), headers
    except StatusError as error:
        if error.status in {401, 403}:
            raise SourceError(
                f"{address}: the hub refuses access ({error.status})",
                advice=f"See whether {hub_address()}/{address.prefix}{address.repo} exists and asks you to accept its licence, "
                "and put your access token into HF_TOKEN",
            ) from None
        raise
    except ValueError as error:
        raise SourceError(f"{url}: the answer is not JSON ({error})") from error


def _commit(address: HubAddress) -> str:
    """The commit of a revision: asked of the hub, or where it cannot be asked, what it said last."""
    if re.fullmatch(r"[0-9a-f]{40}", address.revision):
        return address.revision
    name = ("revisions", hub_address(), address.prefix + address.repo, address.revision)
    try:
        answer, _ = ask(address, f"{_api(address)}/revision/{quote(address.revision, safe='')}")
    except UnreachableError:
        if noted := cache.recall(*name):
            return noted
        raise
    except StatusError as error:
        if error.status == 404:
            raise SourceError(f"{address}: the hub has no such repository or revision") from None
        raise
    cache.note(answer["sha"], *name)
    return answer["sha"]


def _api(address: HubAddress) -> str:
    return f"{hub_address()}/api/{address.kind}/{address.repo}"


def _in_hub_cache(address: HubAddress) -> tuple[Folder, str | None] | None:
    """What the hub's own tools have of it: they keep each commit as a folder."""
    home = Path(os.environ.get("HF_HUB_CACHE", hub_home() / "hub")).expanduser()
    repo = home / f"{address.kind}--{address.repo.replace('/', '--')}"
    reference = repo / "refs" / address.revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else address.revision
    place = repo / "snapshots" / commit / address.path
    if place.is_dir():
        return LocalFolder(place), None
    return (LocalFolder(place.parent), place.name) if place.is_file() else None
