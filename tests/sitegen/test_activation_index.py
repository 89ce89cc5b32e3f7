"""The activation index: what is written is what is read, by feature and by token."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitegen.activation_index import ActivationIndex, ActivationIndexWriter
from sitegen.errors import CacheError

CONTEXT = 5


def write(folder: Path, acts: scipy.sparse.csr_matrix, part: int) -> ActivationIndex:
    """Write `acts [n_positions, d_sae]` in parts of `part` positions."""
    writer = ActivationIndexWriter(folder, acts.shape[1], CONTEXT, acts.shape[0], "fingerprint")
    for number, first in enumerate(range(0, acts.shape[0], part)):
        columns = acts[first : first + part].tocsc()
        columns.sort_indices()
        writer.write_part(
            number, first, columns.shape[0], columns.shape[0], columns.indptr, columns.indices.astype(np.int32), columns.data
        )
    return writer.finish()


def random_acts(n: int, d_sae: int, density: float, seed: int) -> scipy.sparse.csr_matrix:
    """Random activations, some negative."""
    acts = scipy.sparse.random(n, d_sae, density, "csr", rng=np.random.default_rng(seed), dtype=np.float32)
    acts.data -= 0.3
    return acts


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 60),
    d_sae=st.integers(1, 17),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    part=st.integers(1, 70),
    bounds=st.tuples(st.integers(0, 17), st.integers(0, 17)),
    seed=st.integers(0, 99),
)
def test_any_range_of_features_is_the_same_range_of_the_matrix(
    tmp_path_factory: pytest.TempPathFactory, n: int, d_sae: int, density: float, part: int, bounds: tuple[int, int], seed: int
) -> None:
    """Features come sorted by feature, then position, whatever the parts are."""
    acts = random_acts(n, d_sae, density, seed)
    index = write(tmp_path_factory.mktemp("index"), acts, part)
    first, last = sorted(min(bound, d_sae) for bound in bounds)
    expected = acts.tocsc()[:, first:last]
    expected.sort_indices()
    found = index.features(first, last)

    np.testing.assert_array_equal(expected.indptr, found.feature_ptr)
    np.testing.assert_array_equal(expected.indices, found.positions)
    np.testing.assert_array_equal(expected.data, found.values)
    assert (found.feature_ptr.dtype, found.positions.dtype, found.values.dtype) == (np.int64, np.int64, np.float32)
    np.testing.assert_array_equal(np.diff(acts.tocsc().indptr), index.n_active)


def test_a_part_by_token_is_its_rows(tmp_path: Path) -> None:
    """`tokens(part)` gives the rows of that part as CSR."""
    acts = random_acts(23, 9, 0.3, 1)
    index = write(tmp_path, acts, 10)

    for part, first in enumerate((0, 10, 20)):
        assert abs(index.tokens(part) - acts[first : first + 10]).nnz == 0


def test_positions_beyond_32_bits_are_kept(tmp_path: Path) -> None:
    """A part far into a large dataset gives its positions as int64."""
    first = 3 * 2**31
    writer = ActivationIndexWriter(tmp_path, 2, CONTEXT, first + 10, "fingerprint")
    writer.write_part(0, first, 10, 10, np.array([0, 0, 1]), np.array([7], dtype=np.int32), np.array([1.5], dtype=np.float32))

    assert writer.finish().features(1, 2).positions.tolist() == [first + 7]


def test_the_same_activations_give_the_same_bytes(tmp_path: Path) -> None:
    """Two indexes of the same activations are identical files."""
    acts = random_acts(40, 8, 0.4, 2)
    for name in ("a", "b"):
        write(tmp_path / name, acts, 15)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())

    assert names == ["index.json", "part-00000.safetensors", "part-00001.safetensors", "part-00002.safetensors"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_parts_are_ordinary_safetensors(tmp_path: Path) -> None:
    """Any program that reads safetensors reads a part."""
    from safetensors.numpy import load_file

    acts = random_acts(12, 4, 0.5, 3)
    write(tmp_path, acts, 20)
    tensors = load_file(tmp_path / "part-00000.safetensors")

    assert {name: str(tensor.dtype) for name, tensor in tensors.items()} == {
        "feature_ptr": "int64",
        "positions": "int32",
        "values": "float32",
    }


def test_an_interrupted_index_keeps_its_parts_and_drops_what_is_not_whole(tmp_path: Path) -> None:
    """A writer finds the parts that are there; an unfinished file does not count, and no index is open before the end."""
    acts = random_acts(30, 4, 0.5, 4)
    write(tmp_path, acts, 10)
    (tmp_path / "index.json").unlink()
    (tmp_path / "part-00001.safetensors").unlink()
    (tmp_path / "part-00001.safetensors.new").write_bytes(b"half")

    with pytest.raises(CacheError, match=r"index\.json"):
        ActivationIndex.open(tmp_path)
    writer = ActivationIndexWriter(tmp_path, 4, CONTEXT, 30, "fingerprint")
    assert sorted(writer.parts) == [0, 2]
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize(("change", "message"), [("version", "version 99"), ("part", r"lacks part-00000\.safetensors")])
def test_a_damaged_index_is_refused(tmp_path: Path, change: str, message: str) -> None:
    """Another version or a missing part is an error that says so."""
    write(tmp_path, random_acts(10, 3, 0.5, 5), 10)
    if change == "version":
        path = tmp_path / "index.json"
        path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    else:
        (tmp_path / "part-00000.safetensors").unlink()
    with pytest.raises(CacheError, match=message):
        ActivationIndex.open(tmp_path)
