"""docs/training.md: its guide is carried out, and its tables say what the code says. And the demo trains by it."""

import re
import shlex
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

import sae_fast
from sae_fast import cli
from sae_fast.training.config import ActivationOptions, OutputOptions
from sae_fast.training.finetune import FinetuneOptions
from sae_fast.training.trainer import TrainOptions
from sae_fast.training.variants import VARIANTS, SharedOptions, VariantOptions
from sitegen import cli as sitegen_cli
from sitegen.check import check
from sitegen.demo import train_saes

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
TABLES = {
    "`[activations]`": ActivationOptions,
    "`[train]`": TrainOptions,
    "`[finetune]`": FinetuneOptions,
    "`[output]`": OutputOptions,
}


def keys_of(section: str) -> dict[str, str]:
    """Key and default of every row below a heading."""
    found = re.split(r"^### ", PAGE, flags=re.MULTILINE)
    (text,) = (part for part in found if part.startswith(section))
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))


def documented(option: "Field[Any]") -> str:
    """A default as the page writes it."""
    if option.default is MISSING:
        return "required"
    if option.default is None:
        return "–"
    if isinstance(option.default, bool):
        return f"`{str(option.default).lower()}`"
    return f'`"{option.default}"`' if isinstance(option.default, str) else f"`{option.default}`"


@pytest.mark.parametrize("section", TABLES)
def test_every_key_is_documented_with_its_default(section: str) -> None:
    """All of a table, in order, and no other."""
    rows = [(key, re.sub(r"(\d)_(\d)", r"\1\2", default)) for key, default in keys_of(section).items()]

    assert [key for key, _ in rows] == [option.name for option in fields(TABLES[section])]
    for (key, default), option in zip(rows, fields(TABLES[section]), strict=True):
        shown = default.strip("`")
        assert default == documented(option) or float(shown) == option.default, key


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_key_of_an_sae_is_documented(kind: str) -> None:
    """Below the heading of its architecture, or of all."""
    everywhere = keys_of("`[[sae]]`, all").keys()
    (heading,) = (line for line in re.findall(r"^### (.+)$", PAGE, re.MULTILINE) if f"`{kind}`" in line)
    names = {option.name for option in fields(VARIANTS[kind].Options)}

    assert names <= everywhere | keys_of(heading).keys()
    assert everywhere == {option.name for option in (*fields(SharedOptions), *fields(VariantOptions))}
    assert f"| `{kind}` |" in PAGE


def test_the_guide_is_carried_out(
    tmp_path: Path,
    gpt2_folder: Path,
    training_texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its two files and three commands, on a tiny model and fewer tokens, give an SAE, a report and a site."""
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(gpt2_folder)
    Path("texts.jsonl").symlink_to(training_texts)
    for name, content in re.findall(r'```toml title="(\S+)"\n(.+?)```', PAGE, re.DOTALL):
        smaller = content.replace("20_000_000", "5000\nbatch_tokens = 250").replace("k = 32", "k = 4")
        Path(name).write_text(smaller.replace("[[sae]]\nname", "[activations]\nheld_out = 0.2\n\n[[sae]]\nname"))
    guide = PAGE[PAGE.index("Three commands") :]
    block = re.search(r"```sh\n(.+?)```", guide, re.DOTALL)
    assert block is not None
    for command in block[1].splitlines():
        program, *arguments = shlex.split(command)
        main = {"sae-fast": cli.main, "sitegen": sitegen_cli.main}[program]
        assert main(arguments) == 0, (command, capsys.readouterr().err)

    assert sae_fast.load("run/saes/topk").cfg.d_sae == 16 * 32
    assert "finished" in Path("run/report.html").read_text()
    assert "training/run/index.html" in Path("site/index.html").read_text()
    assert "finished" in Path("site/training/run/index.html").read_text()
    assert check("site") == []


def test_the_demo_trains(tmp_path: Path) -> None:
    """Its configuration and script, on a few thousand tokens, give its three SAEs."""
    lm = ROOT / "sitegen" / "demo" / "lm"

    train_saes.run(lm, tmp_path / "saes", tmp_path / "run", 4096, corpus_tokens=20_000, held_out=0.4)

    found = {path.name: sae_fast.load(path).cfg for path in (tmp_path / "saes").iterdir()}
    assert {name: cfg.hook_name for name, cfg in found.items()} == {
        "topk": "blocks.1.hook_resid_post",
        "jumprelu": "blocks.2.hook_resid_post",
        "batchtopk": "blocks.3.hook_resid_post",
    }
    assert {cfg.d_sae for cfg in found.values()} == {4096}
    assert {(cfg.model_name, cfg.prepend_bos) for cfg in found.values()} == {("sitegen-demo-lm", True)}
