"""Crosscoders on a site: every number against the dense computation over all hooks."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import D_MODEL

import sae_fast
import sae_fast.lm
import sitegen
from sae_fast.corpus.tokens import COUNTED, PADDING, TokenDataset
from sae_fast.errors import ArgumentError, HookNotFoundError
from sitegen.errors import MismatchError, ReleaseError
from sitegen.facts.decoder import into_stream
from sitegen.hooks import compact
from sitegen.recipe import build
from sitegen.release import Release

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
SIZES: dict[str, Any] = {"architecture": "standard", "d_in": 2 * D_MODEL, "d_sae": 24}


def write_crosscoder(folder: Path, **settings: Any) -> sae_fast.SAE:
    """A random crosscoder that fires on about a fifth of the tokens."""
    cfg = sae_fast.SAEConfig(**SIZES | {"hook_names": HOOKS} | settings)
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
    sae = sae_fast.SAE(cfg, W_enc=W_dec.T / 8, W_dec=W_dec, b_enc=torch.full((cfg.d_sae,), -1.0), b_dec=torch.zeros(cfg.d_in))
    sae.save(folder, "sae_fast")
    return sae


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Any:
    """Writes a release of one SAE in a folder of its own."""

    def make(sae: str = "", **settings: Any) -> tuple[Release, Path, sae_fast.SAE]:
        folder = tmp_path_factory.mktemp("release")
        crosscoder = write_crosscoder(folder / "sae", **settings)
        texts = [{"text": f"one two {word} three\n" * 6} for word in ("four", "five", "six", "seven")]
        (folder / "corpus.jsonl").write_text("\n".join(json.dumps(text) for text in texts))
        (folder / "release.toml").write_text(
            f'[model]\nsource = "{gpt2_folder}"\n[corpus]\nsource = "corpus.jsonl"\ncontext_length = 24\n'
            f'[evaluation]\ntokens = 100\n[[sae]]\nsource = "sae"\n{sae}\n'
        )
        return Release.load(folder / "release.toml"), folder, crosscoder

    return make


@pytest.fixture(scope="module")
def site(write: Any) -> tuple[Path, sae_fast.SAE]:
    release, folder, sae = write()
    build(release, folder / "site", cache=folder / "cache", progress=False)
    return folder, sae


def test_activations_are_those_over_all_hooks(site: tuple[Path, sae_fast.SAE], gpt2_folder: Path) -> None:
    """Density and largest activation of each feature, from one encoding of both hooks side by side."""
    folder, sae = site
    dataset = TokenDataset.open(next((folder / "cache").glob("tokens-*")))
    mask = torch.from_numpy((np.asarray(dataset.kind) != PADDING).astype(np.int64))
    found = sae_fast.lm.load(gpt2_folder).activations(torch.from_numpy(dataset.tokens.astype(np.int64)), HOOKS, mask)
    x = torch.cat([found[hook] for hook in HOOKS], -1).nan_to_num()
    acts = sae.encode(x).to_dense().numpy()[np.asarray(dataset.kind) == COUNTED]

    records = sitegen.open(folder / "site")["0-1-resid-post-standard"]
    assert (acts > 0).any()
    for feature in range(sae.cfg.d_sae):
        record = records[feature].record
        assert abs(record.density * len(acts) - (acts[:, feature] > 0).sum()) <= 1
        assert (record.max_act or 0) == pytest.approx(acts[:, feature].max(), rel=1e-3, abs=1e-3)


def test_the_decoder_is_shown_by_hook(site: tuple[Path, sae_fast.SAE], gpt2_folder: Path) -> None:
    """A norm a hook, promoted tokens of the last, neighbours by all hooks together."""
    folder, sae = site
    W_U = sae_fast.lm.load(gpt2_folder).unembed().W_U
    first, last = (rows.double() for rows in sae.parts(sae.W_dec))
    whole = torch.nn.functional.normalize(sae.W_dec.double(), dim=1)
    cosines = (whole @ whole.T).fill_diagonal_(-1)

    records = sitegen.open(folder / "site")["0-1-resid-post-standard"]
    for feature in (0, 7, 23):
        record = records[feature].record
        assert record.decoder_norms == pytest.approx([float(part[feature].norm()) for part in (first, last)], rel=1e-4)
        assert record.logits is not None
        assert record.neighbours is not None
        token, value = record.logits.top[0]
        effects = last[feature] @ W_U.double()
        assert (token, value) == (int(effects.argmax()), pytest.approx(float(effects.max()), rel=1e-4))
        assert record.neighbours[0][0] == int(cosines[feature].argmax())


def test_pages_say_which_hooks(site: tuple[Path, sae_fast.SAE]) -> None:
    """In the manifest in full, on pages in few words; metrics are there as for any SAE."""
    folder, _ = site
    (info,) = json.loads((folder / "site" / "data" / "manifest.json").read_text())["saes"]
    home = (folder / "site" / "index.html").read_text()
    page = (folder / "site" / "sae" / info["slug"] / "index.html").read_text()

    assert (info["hook_names"], info["decoder_hooks"], info["hook_name"]) == (list(HOOKS), list(HOOKS), "+".join(HOOKS))
    assert (info["slug"], info["name"]) == ("0-1-resid-post-standard", "blocks.0,1.hook_resid_post (standard crosscoder)")
    assert info["metrics"]["explained_variance"] < 1
    assert "blocks.0,1.hook_resid_post</code> · standard crosscoder" in home
    assert "#crosscoder" in page


_UNNAMED: dict[str, Any] = {"hook_names": (), "hook_widths": (D_MODEL, D_MODEL)}
_NARROW = "hook_widths = 32, but blocks.0.mlp.hook_post of the model has width 128"


@pytest.mark.parametrize(
    ("sae", "settings", "error", "message"),
    [
        ("", _UNNAMED, ReleaseError, "where in the model this crosscoder reads. Add hook_names with its 2 hooks"),
        ("", _UNNAMED | {"metadata": {"models": ["base", "chat"]}}, ReleaseError, "crosscoder of several models (base, chat)"),
        ('hook_name = "blocks.0.hook_resid_post"', {}, ArgumentError, "hook_name: a crosscoder reads at several hooks"),
        ('hook_names = ["blocks.0.hook_resid_post", "blocks.9.hook_resid_post"]', {}, HookNotFoundError, "blocks.9"),
        ('hook_names = ["blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"]', {}, MismatchError, _NARROW),
    ],
    ids=["unnamed", "of two models", "one hook", "unknown hook", "width"],
)
def test_what_cannot_be_shown_is_said(
    write: Any, sae: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Before anything is computed."""
    release, folder, _ = write(sae, **settings)

    with pytest.raises(error, match=re.escape(message)):
        build(release, folder / "site", cache=folder / "cache", progress=False)
    assert not (folder / "site").exists()


def test_hooks_in_few_words() -> None:
    """Runs, lists and mixtures."""
    assert compact(["blocks.3.hook_resid_post"]) == "blocks.3.hook_resid_post"
    assert compact([f"blocks.{i}.hook_resid_post" for i in range(2, 9)]) == "blocks.2–8.hook_resid_post"
    assert compact(["blocks.1.hook_mlp_out", "blocks.5.hook_mlp_out"]) == "blocks.1,5.hook_mlp_out"
    assert compact(["blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"]) == "blocks.1.hook_mlp_out + blocks.1.hook_attn_out"


def test_what_is_added_to_the_stream_adds_up() -> None:
    """MLP outputs are summed, the stream itself is that of its last hook, other widths do not count."""
    W_dec = torch.arange(24.0).reshape(2, 12)

    def written(*hooks: str, widths: tuple[int, ...] = (4, 4, 4)) -> torch.Tensor | None:
        cfg = sae_fast.SAEConfig(architecture="standard", d_in=12, d_sae=2, hook_names=hooks, hook_widths=widths)
        return into_stream(W_dec, cfg, 4)

    outs = written("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out", "blocks.2.hook_attn_out")
    stream = written("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out")
    assert outs is not None
    assert stream is not None
    assert torch.equal(outs, W_dec[:, :4] + W_dec[:, 4:8] + W_dec[:, 8:])
    assert torch.equal(stream, W_dec[:, 4:8])
    assert written("blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post", widths=(6, 6)) is None
