"""The pass over the LM: every non-zero activation, once, where it belongs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sae_fast
import sae_fast.lm
from sae_fast.activations import write_store
from sae_fast.config import Temporal, tensor_shapes
from sae_fast.corpus import Corpus
from sae_fast.corpus.batch import check_tokens
from sae_fast.corpus.options import CorpusOptions
from sae_fast.corpus.rows import ListRows
from sae_fast.corpus.tokenise import Tokeniser, write_tokens
from sae_fast.corpus.tokens import COUNTED, PADDING, TokenDataset
from sae_fast.errors import HookNotFoundError
from sitegen import collect
from sitegen.activation_index import ActivationIndex, ActivationIndexWriter
from sitegen.collect import Target, from_model
from sitegen.collect import collect as collect_all
from sitegen.errors import MismatchError, NonFiniteError

HOOKS = {"topk": "blocks.1.hook_resid_post", "jumprelu": "blocks.0.hook_mlp_out", "batchtopk": "blocks.2.hook_resid_pre"}


@pytest.fixture(scope="module")
def lm(gpt2_folder: Path) -> sae_fast.lm.LanguageModel:
    """The tiny GPT-2."""
    return sae_fast.lm.load(gpt2_folder)


@pytest.fixture(scope="module")
def dataset(lm: sae_fast.lm.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """Contexts of 24 tokens, BOS first."""
    rows = ListRows("texts", [{"text": text} for text in tiny.texts(14)])
    tokeniser = Tokeniser(lm.tokenizer, 24, lm.bos_token_id)
    return write_tokens(tmp_path_factory.mktemp("tokens"), Corpus(rows, CorpusOptions("texts")), tokeniser)


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sae_fast.SAE]:
    """One SAE of each of three architectures."""
    folder = tmp_path_factory.mktemp("saes")
    return {name: sae_fast.load(tiny.sae(folder / name, architecture=name, hook_name=hook)) for name, hook in HOOKS.items()}


def targets(folder: Path, saes: dict[str, sae_fast.SAE], dataset: TokenDataset) -> list[Target]:
    """A fresh or resumed index for each SAE."""
    return [
        Target(
            name,
            sae,
            HOOKS[name],
            ActivationIndexWriter(folder / name, sae.cfg.d_sae, dataset.context_length, dataset.n_positions, "fingerprint"),
        )
        for name, sae in saes.items()
    ]


@pytest.mark.parametrize("name", HOOKS)
def test_the_index_is_the_dense_computation(
    tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset, saes: dict[str, sae_fast.SAE], name: str
) -> None:
    """Every non-zero activation at a counted token is in the index with its position and value, and nothing else is."""
    collect_all(from_model(lm), dataset, targets(tmp_path, saes, dataset), batch_size=5, part_tokens=200)
    index = ActivationIndex.open(tmp_path / name)
    found = np.zeros((dataset.n_positions, index.d_sae), dtype=np.float32)
    entries = index.features(0, index.d_sae)
    found[entries.positions, np.repeat(np.arange(index.d_sae), np.diff(entries.feature_ptr))] = entries.values

    token_ids = torch.from_numpy(dataset.tokens.astype(np.int64))
    mask = torch.from_numpy((np.asarray(dataset.kind) != PADDING).astype(np.int64))
    x = lm.activations(token_ids, [HOOKS[name]], mask)[HOOKS[name]]
    expected = saes[name].encode(x.nan_to_num()).to_dense().numpy().reshape(found.shape)
    expected[np.asarray(dataset.kind).reshape(-1) != COUNTED] = 0
    # Batches of other shapes round differently; a threshold may then fall on either side of an activation.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (index.n_counted, index.n_positions) == (dataset.n_counted, dataset.n_positions)
    assert len(index.parts) == -(-dataset.n_contexts // (200 // 24))
    assert entries.values.all()


def test_a_resumed_pass_gives_the_same_bytes_and_keeps_what_is_there(
    tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset, saes: dict[str, sae_fast.SAE]
) -> None:
    """Parts that are missing in one SAE's index are computed again, to the byte; the others are not touched."""
    collect_all(from_model(lm), dataset, targets(tmp_path / "whole", saes, dataset), batch_size=4, part_tokens=200)
    collect_all(from_model(lm), dataset, targets(tmp_path / "resumed", saes, dataset), batch_size=4, part_tokens=200)
    lost = tmp_path / "resumed" / "topk" / "part-00001.safetensors"
    kept = tmp_path / "resumed" / "topk" / "part-00000.safetensors"
    lost.unlink()
    (tmp_path / "resumed" / "topk" / "index.json").unlink()
    before = kept.stat().st_mtime_ns
    collect_all(from_model(lm), dataset, targets(tmp_path / "resumed", saes, dataset), batch_size=4, part_tokens=200)

    assert before == kept.stat().st_mtime_ns
    for path in sorted((tmp_path / "whole").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "resumed" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_an_sae_alone_gives_what_it_gives_among_others(
    tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset, saes: dict[str, sae_fast.SAE]
) -> None:
    """An index does not depend on which other SAEs were collected in the same pass."""
    collect_all(from_model(lm), dataset, targets(tmp_path / "all", saes, dataset), batch_size=4, part_tokens=200)
    collect_all(
        from_model(lm),
        dataset,
        targets(tmp_path / "one", {"topk": saes["topk"]}, dataset),
        batch_size=4,
        part_tokens=200,
    )

    for path in (tmp_path / "one" / "topk").iterdir():
        assert path.read_bytes() == (tmp_path / "all" / "topk" / path.name).read_bytes()


class LeftPadding:
    """An LM that is given the same contexts with their padding on the left, and answers for the right."""

    def __init__(self, lm: sae_fast.lm.LanguageModel) -> None:
        self.lm = lm

    def activations(
        self, token_ids: torch.Tensor, hook_names: list[str], attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        shifts = token_ids.shape[1] - attention_mask.sum(1)
        roll = torch.stack([torch.arange(token_ids.shape[1]).roll(int(shift)) for shift in shifts])
        back = torch.stack([torch.arange(token_ids.shape[1]).roll(-int(shift)) for shift in shifts])
        found = self.lm.activations(token_ids.gather(1, roll), hook_names, attention_mask.gather(1, roll))
        return {name: x.gather(1, back[:, :, None].expand_as(x)) for name, x in found.items()}


def test_left_padding_gives_the_same_index(
    tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset, saes: dict[str, sae_fast.SAE]
) -> None:
    """Where padding lies does not change which features fire where."""
    only = {"topk": saes["topk"]}
    collect_all(from_model(lm), dataset, targets(tmp_path / "right", only, dataset), batch_size=6, part_tokens=500)
    left: Any = LeftPadding(lm)
    collect_all(from_model(left), dataset, targets(tmp_path / "left", only, dataset), batch_size=6, part_tokens=500)
    right_index, left_index = (
        ActivationIndex.open(tmp_path / "right" / "topk"),
        ActivationIndex.open(tmp_path / "left" / "topk"),
    )
    expected, found = right_index.features(0, 64), left_index.features(0, 64)

    np.testing.assert_array_equal(expected.feature_ptr, found.feature_ptr)
    np.testing.assert_array_equal(expected.positions, found.positions)
    np.testing.assert_allclose(expected.values, found.values, rtol=1e-4, atol=1e-5)


def test_activations_that_are_not_finite_are_named(
    tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset, saes: dict[str, sae_fast.SAE]
) -> None:
    """NaN at a counted token stops the pass with the hook and the document; NaN at padding does not."""

    class Broken:
        def __init__(self, context: int, only_padding: bool) -> None:
            self.context, self.only_padding, self.seen = context, only_padding, 0

        def activations(self, token_ids: torch.Tensor, hook_names: list[str], mask: torch.Tensor) -> dict[str, torch.Tensor]:
            found = {name: x.clone() for name, x in lm.activations(token_ids, hook_names, mask).items()}
            for x in found.values():
                x[mask == 0] = torch.nan
                if not self.only_padding and self.seen <= self.context < self.seen + len(x):
                    x[self.context - self.seen, 1] = torch.inf
            self.seen += len(token_ids)
            return found

    padding: Any = Broken(7, True)
    collect_all(from_model(padding), dataset, targets(tmp_path / "a", saes, dataset), batch_size=4, part_tokens=10**6)
    token: Any = Broken(7, False)
    with pytest.raises(NonFiniteError, match="context 7") as caught:
        collect_all(from_model(token), dataset, targets(tmp_path / "b", saes, dataset), batch_size=4, part_tokens=10**6)
    assert dataset.documents[dataset.document[7]] in str(caught.value)


def test_what_does_not_fit_is_told_before_the_pass(tmp_path: Path, lm: sae_fast.lm.LanguageModel) -> None:
    """An SAE of another width names both widths; a hook that does not exist names the nearest ones."""
    wide = sae_fast.load(tiny.sae(tmp_path / "wide", d_in=48))
    with pytest.raises(MismatchError, match=r"(?s)48.*32"):
        collect.check_fit(lm, "wide", wide, "blocks.1.hook_resid_post")
    with pytest.raises(HookNotFoundError, match=r"blocks\.1\.hook_resid_post"):
        collect.check_fit(lm, "wide", wide, "blocks.1.hook_resid_pots")


@pytest.mark.parametrize(("highest", "length", "message"), [(9_999, 24, "9999"), (3, 4096, "4096")])
def test_a_dataset_that_the_lm_cannot_read_is_refused(
    lm: sae_fast.lm.LanguageModel, highest: int, length: int, message: str
) -> None:
    """Ids beyond the embedding and contexts beyond the positions are errors."""
    dataset = TokenDataset(
        np.full((2, length), highest, dtype=np.int32),
        np.full((2, length), COUNTED, dtype=np.uint8),
        np.zeros(2, dtype=np.int32),
        np.zeros(2, dtype=np.int32),
        ["a"],
    )
    with pytest.raises(sae_fast.errors.MismatchError, match=message):
        check_tokens(dataset, lm.n_ctx, lm.d_vocab)


def test_a_store_of_activations_gives_the_same_index(
    tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset, saes: dict[str, sae_fast.SAE]
) -> None:
    """Stored float32 activations give the features and, but for rounding, the values that the model gives."""
    store = write_store(tmp_path / "store", lm, dataset, list(HOOKS.values()), "float32", 4, 200, show_progress=False)
    for folder, read in (("model", from_model(lm)), ("store", collect.from_store(store, dataset))):
        collect_all(read, dataset, targets(tmp_path / folder, saes, dataset), batch_size=4, part_tokens=200)

    for name, sae in saes.items():
        slices = [ActivationIndex.open(tmp_path / folder / name).features(0, sae.cfg.d_sae) for folder in ("model", "store")]
        assert np.array_equal(slices[0].positions, slices[1].positions)
        assert np.allclose(slices[0].values, slices[1].values, rtol=1e-5, atol=1e-6)
    other = TokenDataset(dataset.tokens[:-1], dataset.kind[:-1], dataset.document[:-1], dataset.start[:-1], dataset.documents)
    with pytest.raises(MismatchError, match="other tokens"):
        collect.from_store(store, other)


def test_a_temporal_sae_reads_whole_contexts(tmp_path: Path, lm: sae_fast.lm.LanguageModel, dataset: TokenDataset) -> None:
    """Its features depend on earlier positions, BOS among them; a store of counted tokens alone is refused."""
    cfg = sae_fast.SAEConfig(
        architecture="temporal",
        d_in=32,
        d_sae=64,
        k=4,
        hook_name=HOOKS["topk"],
        temporal=Temporal(n_heads=2, bottleneck_factor=8),
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in tensor_shapes(cfg).items()}
    sae = sae_fast.SAE(cfg, **tensors)
    collect_all(from_model(lm), dataset, targets(tmp_path, {"topk": sae}, dataset), batch_size=4, part_tokens=200)

    found = ActivationIndex.open(tmp_path / "topk").features(0, 64)
    context = 3
    real = torch.from_numpy(np.array(dataset.kind[context] != PADDING))
    ids = torch.from_numpy(dataset.tokens[context].astype(np.int64))[real][None]
    dense = sae.encode(lm.activations(ids, [HOOKS["topk"]])[HOOKS["topk"]]).to_dense()[0]
    dense[torch.from_numpy(np.array(dataset.kind[context]))[real] != COUNTED] = 0
    first = context * dataset.context_length
    for feature in range(64):
        entries = slice(*found.feature_ptr[feature : feature + 2])
        here = (found.positions[entries] >= first) & (found.positions[entries] < first + dataset.context_length)
        active = dense[:, feature].nonzero()[:, 0]
        assert (found.positions[entries][here] - first).tolist() == active.tolist()
        assert np.allclose(found.values[entries][here], dense[active, feature], rtol=1e-3, atol=1e-4)

    store = write_store(tmp_path / "store", lm, dataset, [HOOKS["topk"]], "float32", 4, 200, show_progress=False)
    with pytest.raises(MismatchError, match="temporal"):
        collect_all(collect.from_store(store, dataset), dataset, targets(tmp_path / "b", {"topk": sae}, dataset), 4, 200)
