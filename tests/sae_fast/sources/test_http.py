"""What fails for the moment is tried again; what fails for good says so at once."""

import time
from pathlib import Path

import pytest
import torch
from file_server import FileServer
from torch import Tensor

from sae_fast.errors import SourceError, UnreachableError
from sae_fast.sources import http, open_source

SOURCE = "hf://owner/repo/layer_3/sae"


@pytest.mark.parametrize("fault", [503, 429, 500, "cut", "reset"])
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "ranges"])
def test_passing_faults_are_survived(
    hub: FileServer, folder: Path, weights: dict[str, Tensor], fault: object, is_whole: bool
) -> None:
    """A server that is busy or breaks off, twice, is asked again and the content is right."""
    source = open_source(SOURCE)
    hub.faults["weights.safetensors"] = [fault, fault]

    if is_whole:
        source.folder.bring(["weights.safetensors"])
    found = source.folder.tensors("weights.safetensors")

    assert torch.equal(found.read("W_enc"), weights["W_enc"])
    assert hub.faults["weights.safetensors"] == []


def test_a_server_that_stays_away_is_given_up(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a number of attempts with growing waits, the error names the file and the reason."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.faults["cfg.json"] = [503] * 50

    with pytest.raises(UnreachableError, match=r"hf://owner/repo/layer_3/sae/cfg.json: .* cannot be reached \(503"):
        open_source(SOURCE).folder.read("cfg.json")

    assert len(waits) == http.ATTEMPTS - 1
    assert waits[-1] > 4 * waits[0]


def test_a_server_may_say_how_long_to_wait(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is honoured."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.faults["cfg.json"] = [429]
    hub.retry_after = "7"

    assert open_source(SOURCE).folder.read("cfg.json") == b'{"k": 5}'
    assert waits == [7.0]


def test_a_final_answer_is_not_asked_for_again(hub: FileServer, folder: Path) -> None:
    """404 and 403 are told at the first request."""
    hub.faults["cfg.json"] = [403]
    source = open_source(SOURCE)
    hub.forget()

    with pytest.raises(SourceError, match="the server answered 403"):
        source.folder.read("cfg.json")

    assert len([path for path, _ in hub.requests if path.startswith("/files/")]) == 1


def test_a_wrong_length_is_refused(hub: FileServer, folder: Path) -> None:
    """A server that announces another length than the hub's listing sends another file."""
    hub.faults["weights.safetensors"] = ["short"]
    size = (folder / "weights.safetensors").stat().st_size

    with pytest.raises(SourceError, match=f"length of the file: expected {size} bytes, got {size + 7}"):
        open_source(SOURCE).folder.bring(["weights.safetensors"])


def test_a_broken_range_goes_on_where_it_broke(hub: FileServer, folder: Path, weights: dict[str, Tensor]) -> None:
    """The second request for a range begins behind what has come."""
    found = open_source(SOURCE).folder.tensors("weights.safetensors")
    hub.forget()
    hub.faults["weights.safetensors"] = ["cut"]

    assert torch.equal(found.read("b_enc"), weights["b_enc"])

    first, second = [asked for path, asked in hub.requests if path.startswith("/files/")]
    assert first is not None
    assert second is not None
    assert int(second.split("=")[1].split("-")[0]) - int(first.split("=")[1].split("-")[0]) == weights["b_enc"].nbytes // 2
    assert hub.sent["weights.safetensors"] == weights["b_enc"].nbytes


def test_a_file_that_changes_while_it_is_read_is_refused(hub: FileServer, folder: Path) -> None:
    """On a server without hashes, ranges of two versions are never put together."""
    found = open_source(f"{hub.address}/files/owner/repo/layer_3/sae").folder.tensors("weights.safetensors")
    hub.faults["weights.safetensors"] = [None, "change"]
    found.read("b_enc")

    with pytest.raises(SourceError, match="changed while it was read"):
        found.read("W_enc")


def test_a_server_without_ranges_sends_whole_files(hub: FileServer, folder: Path, weights: dict[str, Tensor]) -> None:
    """Where ranges are not served, the file is fetched whole and read from the cache."""
    hub.faults["*"] = ["whole"]

    found = open_source(SOURCE).folder.tensors("weights.safetensors")

    assert torch.equal(found.read("W_dec"), weights["W_dec"])
    assert Path(found.place).name == "weights.safetensors"


def test_the_token_goes_to_the_hub_alone(
    hub: FileServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token from the environment or the hub's token file is sent to the hub, and not to the store it redirects to."""
    (tmp_path / "hub-home").mkdir()
    (tmp_path / "hub-home" / "token").write_text("from-file\n")
    open_source(SOURCE).folder.read("cfg.json")
    assert {token for path, token in hub.tokens if not path.startswith("/files/")} == {"Bearer from-file"}
    assert {token for path, token in hub.tokens if path.startswith("/files/")} == {None}

    hub.tokens.clear()
    monkeypatch.setenv("HF_TOKEN", "from-environment")
    open_source(SOURCE)
    assert {token for _, token in hub.tokens} == {"Bearer from-environment"}


def test_the_hub_is_asked_once_where_a_file_is_stored(
    hub: FileServer, folder: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges after the first go to the store straight away; when its address no longer holds, the hub is asked again."""
    found = open_source(SOURCE).folder.tensors("weights.safetensors")
    hub.forget()
    found.read("W_enc")
    found.read_along("W_dec", 0, torch.tensor([3, 50]))
    assert all(path.startswith("/files/") for path, _ in hub.requests)

    hub.faults["weights.safetensors"] = [403]
    assert torch.equal(found.read("b_enc"), weights["b_enc"])
    assert "/resolve/" in hub.requests[-2][0]

    monkeypatch.setattr(http.time, "monotonic", lambda: 1e12)
    assert torch.equal(found.read("b_enc"), weights["b_enc"])
    assert "/resolve/" in hub.requests[-2][0]


def test_a_renamed_repository_is_found(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its former name leads to the present one, and the token comes along."""
    hub.renamed["owner/former"] = "owner/repo"
    monkeypatch.setenv("HF_TOKEN", "mine")

    assert open_source("hf://owner/former/layer_3/sae").folder.read_json("cfg.json") == {"k": 5}

    asked = [token for path, token in hub.tokens if not path.startswith("/files/")]
    assert set(asked) == {"Bearer mine"}


def test_a_closed_repository_says_what_to_do(hub: FileServer, folder: Path) -> None:
    """401 on a gated repository points to its licence and HF_TOKEN."""
    hub.closed.add("owner/repo")

    with pytest.raises(SourceError, match=r"refuses access \(401\).*licence.*HF_TOKEN"):
        open_source(SOURCE)
