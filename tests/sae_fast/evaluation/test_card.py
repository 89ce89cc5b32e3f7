"""Model cards: the section that an evaluation writes, and what it leaves alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from sae_fast import cli
from sae_fast.errors import FormatError
from sae_fast.evaluation.card import BEGIN, END, check_card, environment, section, write_card
from sae_fast.evaluation.report import EvaluationReport, SaeReport

HOOK = "blocks.1.hook_resid_post"


def measured(name: str, hooks_out: tuple[str, ...] = (HOOK,), n_dead: int | None = None) -> SaeReport:
    """One SAE with a few numbers."""
    metrics = {"l0": 24.0, "explained_variance": 0.91534, "delta_ce": -0.0002, "ce_clean": 2.60321, "kl_sae": None}
    intervals = {"l0": [23.5, 24.5], "explained_variance": [0.9101, 0.92], "delta_ce": None}
    return SaeReport(
        name, "saes/a", HOOK, [*hooks_out], "topk", 32, 4096, 24, None, metrics, intervals, 7, n_dead, 1, [0] * 48, [], []
    )  # fmt: skip


REPORT = EvaluationReport("tiny", "a.jsonl", 9000, 8900, 12, 12, 32, "float32", 0, 100, (measured("a"),), ("A note.",))


def cells(report: EvaluationReport) -> list[list[str]]:
    """The rows of the table, without head and rule."""
    lines = [line for line in section(report).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_section_says_what_was_measured_on_what() -> None:
    """Tokens, texts, model and versions; each number with its interval, and a dash where there is none."""
    text = section(REPORT, "torch 9")

    assert "on 9,000 tokens of 12 documents of a.jsonl, in contexts of 32 tokens, with tiny in float32 (torch 9)." in text
    assert "model as it is: 2.603 nats. In brackets: 95 % intervals, from 100 resamples" in text
    assert "A note." in text
    numbers = ["24.0 [23.5, 24.5]", "0.915 [0.910, 0.920]", "−2.0e−4", "–", "–", "–"]
    assert cells(REPORT) == [["`a` (topk, k = 24)", f"`{HOOK}`", "4,096", *numbers, "7", "1"]]


def test_transcoders_dead_features_and_strange_names() -> None:
    """Where it reads and writes, what counts as dead, and no cell that a name could end."""
    saes = (measured("a | <b>`", ("blocks.2.hook_mlp_out",), n_dead=5),)
    ((name, hooks, *_, dead, _),) = cells(replace(REPORT, saes=saes, corpus="x | <y>"))

    assert name == r"`a \| <b>'` (topk, k = 24)".replace(r"\|", "\\|")
    assert hooks == f"`{HOOK}` → `blocks.2.hook_mlp_out`"
    assert dead == "5 dead"
    assert r"of x \| \<y>, in contexts" in section(replace(REPORT, corpus="x | <y>"))


def test_a_card_keeps_everything_but_the_section(tmp_path: Path) -> None:
    """Text before and after stays, byte for byte; writing twice gives the same file."""
    card = tmp_path / "README.md"
    card.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\n## Licence\n\nMIT  \n")

    assert write_card(tmp_path, REPORT) == card
    once = card.read_text()
    write_card(card, REPORT)

    assert card.read_text() == once == f"# Mine\n\n{BEGIN}\n{section(REPORT)}\n{END}\n\n## Licence\n\nMIT  \n"


def test_a_card_without_section_gets_one(tmp_path: Path) -> None:
    """At its end, under a heading; a card that is not there is made."""
    write_card(tmp_path / "new.md", REPORT)
    (tmp_path / "README.md").write_text("# Mine\n\nWords.\n\n\n")
    write_card(tmp_path, REPORT)

    block = f"## Evaluation\n\n{BEGIN}\n{section(REPORT)}\n{END}\n"
    assert (tmp_path / "new.md").read_text() == block
    assert (tmp_path / "README.md").read_text() == f"# Mine\n\nWords.\n\n{block}"


@pytest.mark.parametrize("content", [BEGIN, END, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_markers_that_cannot_be_meant_are_refused(tmp_path: Path, content: str) -> None:
    """Before anything is measured, and the file stays as it is."""
    card = tmp_path / "README.md"
    card.write_text(content)
    for act in (lambda: check_card(card), lambda: write_card(card, REPORT)):
        with pytest.raises(FormatError, match="once"):
            act()
    assert card.read_text() == content
    card.write_bytes(b"\xff")
    with pytest.raises(FormatError, match="UTF-8"):
        check_card(card)
    with pytest.raises(FormatError, match="a folder that exists"):
        check_card(tmp_path / "none" / "README.md")


def test_the_command_writes_a_card(tmp_path: Path, gpt2_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the numbers of its report and what they were measured with; a damaged card is told before the model is loaded."""
    tiny.jsonl(tmp_path / "texts.jsonl", tiny.texts(12))
    tiny.sae(tmp_path / "sae")
    arguments = ["eval", "--corpus", str(tmp_path / "texts.jsonl"), "--sae", str(tmp_path / "sae"), "--tokens", "100"]
    arguments += ["--context-length", "32", "--resamples", "20", "--quiet", "--out", str(tmp_path / "out")]
    arguments += ["--card", str(tmp_path / "sae")]

    assert cli.main([*arguments, "--model", str(gpt2_folder), "--model-name", "the-model"]) == 0
    text = (tmp_path / "sae" / "README.md").read_text()
    assert section(EvaluationReport.read(tmp_path / "out"), environment()) in text
    assert "with the-model in float32 (Python 3" in text

    (tmp_path / "sae" / "README.md").write_text(BEGIN)
    assert cli.main([*arguments, "--model", str(tmp_path / "no-model")]) == 2
    assert "README.md" in capsys.readouterr().err
