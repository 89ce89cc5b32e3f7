"""Tensors of files elsewhere are read right, and no more of the files than pays."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_server import FileServer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file
from torch import Tensor

from sae_fast.sources import open_source, ranged
from sae_fast.sources.ranged import RangedFile, open_ranged

SOURCE = "hf://owner/repo/layer_3/sae"


@dataclass
class Bytes:
    """A file in memory that counts what is read of it."""

    content: bytes
    place: str = "memory/weights.safetensors"
    n_read: int = 0
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        self.n_read += stop - start
        self.reads.append((start, stop))
        return self.content[start:stop]


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pt"])
def test_every_form_is_read_in_ranges(hub: FileServer, folder: Path, weights: dict[str, Tensor], ending: str) -> None:
    """Shapes and dtypes come from the header alone, and each tensor is what was written."""
    file = folder / f"other.{ending}"
    tensors = {"W": weights["W_enc"], "b": weights["b_enc"], "k": weights["k"]}
    if ending == "pt":
        torch.save(tensors | {"bf16": weights["W_dec"], "note": "text"}, file)
    elif ending == "npz":
        np.savez(file, **{key: tensor.numpy() for key, tensor in tensors.items()})
    else:
        save_file(tensors, file)

    found = open_source(SOURCE).folder.tensors(file.name)
    assert isinstance(found, RangedFile)
    assert {key: found.shapes[key] for key in tensors} == {"W": (48, 64), "b": (64,), "k": ()}
    assert {key: found.dtypes[key] for key in tensors} == {"W": torch.float32, "b": torch.float64, "k": torch.int32}
    for key, tensor in tensors.items():
        assert torch.equal(found.read(key), tensor)
    if ending == "pt":
        assert torch.equal(found.read("bf16"), weights["W_dec"])
        assert found.values == {"note": "text"}


@pytest.mark.parametrize("form", ["compressed", "fortran", "transposed", "old-pickle"])
def test_forms_that_cannot_be_read_apart_are_fetched_whole(hub: FileServer, folder: Path, form: str) -> None:
    """Compressed and Fortran-ordered arrays, transposed tensors and old pickles cost the whole file, and are right."""
    W = torch.randn(48, 64)
    if form == "compressed":
        np.savez_compressed(folder / "other.npz", W=W.numpy())
    elif form == "fortran":
        np.savez(folder / "other.npz", W=np.asfortranarray(W.numpy()))
    elif form == "transposed":
        torch.save({"W": W.T.contiguous().T}, folder / "other.pt")
    else:
        torch.save({"W": W}, folder / "other.pt", _use_new_zipfile_serialization=False)
    name = "other.npz" if form in {"compressed", "fortran"} else "other.pt"

    found = open_source(SOURCE).folder.tensors(name)

    assert not isinstance(found, RangedFile)
    assert torch.equal(found.read("W"), W)
    assert torch.equal(found.read_along("W", 1, torch.tensor([7, 3])), W[:, [7, 3]])


def test_rows_cost_their_own_bytes(hub: FileServer, folder: Path, weights: dict[str, Tensor]) -> None:
    """Rows far apart are read alone; neighbours in one request; nothing else."""
    found = open_source(SOURCE).folder.tensors("weights.safetensors")
    rows = torch.tensor([60, 2, 30, 31])
    hub.forget()

    assert torch.equal(found.read_along("W_dec", 0, rows), weights["W_dec"][rows])

    assert hub.sent["weights.safetensors"] == 4 * 48 * 2
    assert len([path for path, _ in hub.requests if path.startswith("/files/")]) == 3


def test_columns_cost_a_piece_of_each_row(hub: FileServer, folder: Path, weights: dict[str, Tensor]) -> None:
    """A column of a row-major tensor is read in one piece to a row where the rows are long."""
    found = open_source(SOURCE).folder.tensors("weights.safetensors")
    hub.forget()

    assert torch.equal(found.read_along("W_enc", 1, torch.tensor([9])), weights["W_enc"][:, 9:10])

    assert hub.sent["weights.safetensors"] == 48 * 4


def test_columns_of_short_rows_cost_the_tensor(
    hub: FileServer, folder: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where requests cost more than the bytes between the pieces, the tensor is read in one."""
    found = open_source(SOURCE).folder.tensors("weights.safetensors")
    monkeypatch.setattr(ranged, "GAP", 1 << 10)
    hub.forget()

    assert torch.equal(found.read_along("W_enc", 1, torch.tensor([9, 3])), weights["W_enc"][:, [9, 3]])

    assert hub.sent["weights.safetensors"] == 47 * 64 * 4 + 7 * 4
    assert len([path for path, _ in hub.requests if path.startswith("/files/")]) == 1


def test_large_tensors_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is longer than a block, and the blocks together are the tensor."""
    W = torch.randn(100, 37)
    file = Bytes(save_bytes({"W": W}))
    found = open_ranged(file)
    assert found is not None
    monkeypatch.setattr(ranged, "BLOCK", 1 << 10)
    file.reads.clear()

    assert torch.equal(found.read("W"), W)

    assert max(stop - start for start, stop in file.reads) == 1 << 10
    assert sum(stop - start for start, stop in file.reads) == W.nbytes


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_selection_is_an_index_select(data: st.DataObject) -> None:
    """Along any axis, in any order, with repetitions, whatever a request is worth and however long a block is."""
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    axis = data.draw(st.integers(0, len(shape) - 1))
    indices = torch.tensor(data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=9)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    tensor = torch.arange(np.prod(shape)).reshape(shape).to(dtype)
    file = Bytes(save_bytes({"a": torch.zeros(3), "t": tensor}))
    found = open_ranged(file)
    assert found is not None
    settings_of: Any = ranged
    before = settings_of.GAP, settings_of.BLOCK
    try:
        settings_of.GAP, settings_of.BLOCK = data.draw(st.integers(0, 64)), data.draw(st.integers(8, 256))
        file.n_read = 0
        assert torch.equal(found.read_along("t", axis, indices), tensor.index_select(axis, indices))
        assert file.n_read <= tensor.nbytes
    finally:
        settings_of.GAP, settings_of.BLOCK = before


def test_a_failure_in_one_range_stops_the_others(hub: FileServer, folder: Path) -> None:
    """An error in one of many requests is raised, and those that wait are not made."""
    file = Bytes(save_bytes({"W": torch.randn(1000, 100)}))
    found = open_ranged(file)
    assert found is not None

    def fail(start: int, stop: int) -> bytes:
        file.reads.append((start, stop))
        time.sleep(0.02)
        raise ValueError("no more")

    file.reads.clear()
    file.read = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no more"):
        found.read_along("W", 0, torch.arange(0, 1000, 3))

    assert len(file.reads) < 300
