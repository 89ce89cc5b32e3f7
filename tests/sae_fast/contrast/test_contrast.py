"""A whole contrast on a tiny language model: numbers by hand, files, page, command."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sae_fast
from sae_fast import cli
from sae_fast.contrast import Contrast, contrast
from sae_fast.contrast.page import content
from sae_fast.contrast.report import COLUMNS
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.lm import LanguageModel

WITH_BOATS = [f"Nobody lost seven boats on day {n}. " + "The map of the town." * (n % 3) for n in range(9)]
WITHOUT = [f"The engine painted a broken clock {n} times, every letter." + " Two dogs." * (n % 4) for n in range(11)]


@pytest.fixture(scope="module")
def lm(llama_folder: Path) -> LanguageModel:
    """A tiny Llama with a chat template."""
    return sae_fast.lm.load(llama_folder, dtype="float32")


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sae_fast.SAE]:
    """Two SAEs at two layers, of two architectures."""
    folder = tmp_path_factory.mktemp("saes")
    return {
        "topk": sae_fast.load(tiny.sae(folder / "topk")),
        "jumprelu": sae_fast.load(
            tiny.sae(folder / "jumprelu", architecture="jumprelu", hook_name="blocks.0.hook_resid_post", seed=3)
        ),
    }


@pytest.fixture(scope="module")
def result(lm: LanguageModel, saes: dict[str, sae_fast.SAE]) -> Contrast:
    """The contrast of the two lists above."""
    return contrast(WITH_BOATS, WITHOUT, lm=lm, saes=saes, names=("boats", "clocks"), resamples=50, batch_size=4)


@pytest.mark.parametrize("pooling", ["mean", "max", "frequency"])
def test_pooled_values_equal_a_loop_over_texts(lm: LanguageModel, saes: dict[str, sae_fast.SAE], pooling: Any) -> None:
    """Means over texts equal a pass text by text, without padding, over dense activations, whatever the batches are."""
    found = contrast(WITH_BOATS, WITHOUT, lm=lm, saes=saes, pooling=pooling, resamples=5, batch_size=7)
    for name, sae in saes.items():
        means = []
        for texts in (WITH_BOATS, WITHOUT):
            values = []
            for text in texts:
                ids = torch.tensor([lm.tokenizer(text).input_ids])
                x = lm.activations(ids, [sae.cfg.hook_name])[sae.cfg.hook_name]
                acts = sae.encode(x).to_dense()[0, 1:].double()
                how = {"mean": acts.mean(0), "max": acts.amax(0), "frequency": (acts != 0).double().mean(0)}
                values.append(how[pooling])
            means.append(torch.stack(values).mean(0).numpy())
        features = np.array(found[name].columns["feature"])
        for column, mean in zip(("mean_a", "mean_b"), means, strict=True):
            # Padding and batch shape change the products' rounding; columns keep six digits.
            np.testing.assert_allclose(found[name].columns[column], mean[features], rtol=1e-4, atol=1e-6)
        assert set(features) == set(np.flatnonzero(means[0] + means[1]))
        assert len(features) + found[name].n_never == sae.cfg.d_sae


def test_a_crosscoder_reads_all_its_hooks(lm: LanguageModel) -> None:
    """Its means over texts are those of activations side by side."""
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    cfg = sae_fast.SAEConfig(architecture="topk", k=4, d_in=2 * lm.d_model, d_sae=48, hook_names=hooks)
    W_dec = torch.randn(48, cfg.d_in, generator=torch.Generator().manual_seed(0))
    sae = sae_fast.SAE(cfg, W_enc=W_dec.T, W_dec=W_dec, b_enc=torch.zeros(48), b_dec=torch.zeros(cfg.d_in))

    found = contrast(WITH_BOATS, WITHOUT, lm=lm, saes={"x": sae}, resamples=5)["x"]

    means = []
    for text in WITH_BOATS:
        x = lm.activations(torch.tensor([lm.tokenizer(text).input_ids]), hooks)
        means.append(sae.encode(torch.cat([x[hook] for hook in hooks], -1)).to_dense()[0, 1:].mean(0))
    expected = torch.stack(means).mean(0).numpy()[found.columns["feature"]]
    np.testing.assert_allclose(found.columns["mean_a"], expected, rtol=1e-3, atol=1e-4)
    assert found.hook_name == "+".join(hooks)


def test_sizes_are_told(result: Contrast) -> None:
    """Texts and chosen tokens of both sides are counted, and density is over all chosen tokens."""
    assert (result.a.name, result.a.n_texts, result.b.name, result.b.n_texts) == ("boats", 9, "clocks", 11)
    assert result.a.n_tokens > 9 * 5
    # Each token has four active features.
    assert sum(result["topk"].columns["density"]) == pytest.approx(4, rel=1e-4)  # type: ignore[arg-type]


def test_a_role_that_nobody_has_is_told(lm: LanguageModel, saes: dict[str, sae_fast.SAE]) -> None:
    """A misspelt role leaves no token; the roles that are there are named."""
    chats = [{"messages": [{"role": "user", "content": text}]} for text in WITH_BOATS]
    with pytest.raises(ArgumentError, match="The roles in them are user"):
        contrast(chats, chats, lm=lm, saes=saes, tokens="role:usr")


def test_roles_choose_tokens(lm: LanguageModel, saes: dict[str, sae_fast.SAE]) -> None:
    """With `role:user`, what the assistant says changes nothing: a causal LM reads it afterwards."""
    chats = [
        [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]} for text in texts]
        for texts in (WITH_BOATS[:4], WITHOUT[:4])
        for reply in ("Yes.", "No, never, not at all.")
    ]
    options = {"lm": lm, "saes": saes, "tokens": "role:user", "resamples": 5}
    one = contrast(chats[0], chats[2], **options)  # type: ignore[arg-type]
    other = contrast(chats[1], chats[3], **options)  # type: ignore[arg-type]

    assert one.a == other.a
    for name in ("mean_a", "mean_b"):
        np.testing.assert_allclose(one["topk"].columns[name], other["topk"].columns[name], rtol=1e-4, atol=1e-6)


def test_pairs_go_by_id(lm: LanguageModel, saes: dict[str, sae_fast.SAE]) -> None:
    """The order of the texts does not matter; ids without partner, missing or twice are errors."""
    a = [{"id": i, "text": text} for i, text in enumerate(WITH_BOATS)]
    b = [{"id": i, "text": text} for i, text in enumerate(WITHOUT[:9])]
    options: dict[str, Any] = {"lm": lm, "saes": {"topk": saes["topk"]}, "paired": True, "resamples": 5}

    assert contrast(a, b, **options).to_json() == contrast(a, b[::-1], **options).to_json()
    with pytest.raises(
        ArgumentError, match=r"1 texts have no partner with the same id: expected each id in both, got '8' of b"
    ):
        contrast(a[:8], b, **options)
    with pytest.raises(FormatError, match=r"a\[1\]: id '0': expected an id of its own"):
        contrast([a[0], a[0]], b, **options)
    with pytest.raises(FormatError, match=r'a\[0\]: expected a key "id"'):
        contrast(WITH_BOATS, b, **options)


def test_texts_without_a_chosen_token_are_left_out(lm: LanguageModel, saes: dict[str, sae_fast.SAE]) -> None:
    """They are counted; a set with nothing left is an error."""
    options: dict[str, Any] = {"lm": lm, "saes": saes, "resamples": 5}
    found = contrast([*WITH_BOATS, ""], WITHOUT, **options)

    assert (found.a.n_texts, found.a.n_empty) == (9, 1)
    with pytest.raises(ArgumentError, match="a: no token was chosen in any of the 1 texts"):
        contrast([""], WITHOUT, **options)


def test_an_sae_without_hook_is_refused(lm: LanguageModel, saes: dict[str, sae_fast.SAE]) -> None:
    """Nothing is guessed: the SAE is named."""
    homeless = sae_fast.SAE(replace(saes["topk"].cfg, hook_name=None), **saes["topk"].tensors())
    with pytest.raises(ArgumentError, match="SAE 'x': hook_name"):
        contrast(WITH_BOATS, WITHOUT, lm=lm, saes={"x": homeless})
    with pytest.raises(ArgumentError, match="at least one SAE"):
        contrast(WITH_BOATS, WITHOUT, lm=lm, saes={})


def test_files_hold_everything(result: Contrast, tmp_path: Path) -> None:
    """JSON comes back equal, CSV has a line a tested feature, and writing twice gives the same bytes."""
    paths = result.write(tmp_path / "one")
    result.write(tmp_path / "two")

    assert [path.name for path in paths] == ["contrast.json", "contrast.csv", "contrast.html"]
    assert Contrast.read(tmp_path / "one").to_json() == result.to_json()
    for path in paths:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    with paths[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result["topk"]) + len(result["jumprelu"])
    assert list(rows[0]) == ["sae", *COLUMNS]
    assert float(rows[0]["d"]) == result["topk"].row(0)["d"]
    with pytest.raises(KeyError, match="the SAEs of this contrast are topk, jumprelu"):
        result["other"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.update(kind="else"), 'expected "kind": "sae_fast.contrast"'),
        (lambda c: c.update(version=99), "version: expected 1, got 99"),
        (lambda c: c.pop("a"), "KeyError"),
        (lambda c: c["saes"][0]["columns"]["p"].pop(), "differ in length"),
        (lambda c: c["saes"][0]["columns"]["feature"].__setitem__(0, 64), "not from 0 to 63"),
        (lambda c: c["saes"][0]["columns"]["q"].__setitem__(0, "<b>"), "something else than numbers"),
        (lambda c: c["a"].update(n_texts="<script>"), "expected the form"),
    ],
)
def test_damaged_files_are_refused(result: Contrast, tmp_path: Path, damage: Any, message: str) -> None:
    """A file of another kind, version or form is one clear error."""
    content = json.loads(result.to_json())
    damage(content)
    (tmp_path / "contrast.json").write_text(json.dumps(content))

    with pytest.raises(FormatError, match=message):
        Contrast.read(tmp_path)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.features: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))
        self.links += [str(attributes[name]) for name in ("href", "src") if attributes.get(name)]
        if attributes.get("data-column") == "feature" and "data-value" in attributes:
            self.features.append(str(attributes["data-value"]))


def test_the_page_stands_alone(result: Contrast, tmp_path: Path) -> None:
    """It shows the features in order, every link leads to a definition on it, and names are escaped."""
    named = replace(result, a=replace(result.a, name="<script>alert(1)</script>"))
    named.write(tmp_path)
    text = (tmp_path / "contrast.html").read_text(encoding="utf-8")
    page = _Page(text)

    assert "<script>alert" not in text
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    first = [str(row["feature"]) for row in result["topk"].top(50)]
    assert page.features[: len(first)] == first


def test_a_site_adds_links_and_labels(result: Contrast) -> None:
    """With a function each, features are links, labels have a column, and what they quote is code; nothing is inline."""
    feature = result["topk"].row(0)["feature"]
    html = content(result, link=lambda sae, f: f"{sae}?f={f}", label=lambda sae, f: f"<b> `x{f}`", title="A & B")

    assert f'<a href="topk?f={feature}">{feature}</a>' in html
    assert f"&lt;b&gt; <code>x{feature}</code>" in html
    assert "A &amp; B" in html
    assert 'id="label"' in html
    assert "<script" not in html
    assert "style=" not in html
    assert 'id="label"' not in content(result)


def test_the_command(llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sae-fast contrast` prints the sizes and a table, and writes the three files; another run writes the same."""
    a, b = tiny.jsonl(tmp_path / "boats.jsonl", WITH_BOATS), tiny.jsonl(tmp_path / "clocks.jsonl", WITHOUT)
    sae = tiny.sae(tmp_path / "sae")
    for out in ("out", "again"):
        arguments = ["contrast", a, b, "--sae", sae, "--model", llama_folder, "--resamples", "5", "--out", tmp_path / out]
        assert cli.main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out

    assert "boats: 9 texts" in printed
    assert "sae (blocks.1.hook_resid_post):" in printed
    for name in ("contrast.json", "contrast.csv", "contrast.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_command_names_a_bad_line_before_it_loads_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad input file ends with status 2 and one line, although the model does not exist either."""
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": "a"}\n')
    sae = tiny.sae(tmp_path / "sae")
    path = str(tmp_path / "a.jsonl")

    assert cli.main(["contrast", path, path, "--sae", str(sae), "--model", str(tmp_path / "no-model")]) == 2
    assert "a.jsonl, line 2: expected a key text or messages, got keys txt" in capsys.readouterr().err


def test_reading_a_result_needs_no_torch() -> None:
    """What the site's writer imports of a contrast loads neither torch nor numpy."""
    import subprocess
    import sys

    code = "import sys, sae_fast.contrast.page; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
