"""From texts to files: the command, what it writes, its page, and SAEBench's form."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import sae_fast.lm
from sae_fast import cli
from sae_fast.commands.evaluate import named_sources
from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.evaluation import DatasetBatches, evaluate
from sae_fast.evaluation.page import content, standalone
from sae_fast.evaluation.report import EvaluationReport
from sae_fast.evaluation.table import number
from sae_fast.sae import SAE

TOKENS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Path:
    """What `sae-fast eval` writes for two SAEs and a short corpus."""
    root = tmp_path_factory.mktemp("eval")
    tiny.jsonl(root / "texts.jsonl", tiny.texts(30))
    tiny.sae(root / "a" / "sae")
    tiny.sae(root / "b" / "sae", architecture="jumprelu", seed=1)
    arguments = ["eval", "--model", str(gpt2_folder), "--corpus", str(root / "texts.jsonl"), "--tokens", str(TOKENS)]
    arguments += ["--sae", str(root / "a" / "sae"), "--sae", f"second={root / 'b' / 'sae'}", "--out", str(root / "out")]
    rows = [{"text": text, "label": int("boat" in text)} for text in tiny.texts(40)]
    (root / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments += ["--probe", str(root / "labelled.jsonl"), "--probe-k", "1,2"]
    assert cli.main([*arguments, "--context-length", "32", "--resamples", "50", "--quiet"]) == 0
    return root


@pytest.fixture(scope="module")
def report(folder: Path) -> EvaluationReport:
    return EvaluationReport.read(folder / "out")


def test_the_command_measures_what_evaluate_does(folder: Path, report: EvaluationReport, gpt2_folder: Path) -> None:
    """The report holds the metrics of the SAEs over the counted tokens of the corpus, up to the context that reaches N."""
    from sae_fast.corpus import open_corpus
    from sae_fast.corpus.options import CorpusOptions
    from sae_fast.corpus.tokenise import Tokeniser, write_tokens

    lm = sae_fast.lm.load(gpt2_folder, dtype="float32")
    corpus = open_corpus(CorpusOptions(source=str(folder / "texts.jsonl")))
    dataset = write_tokens(folder / "tokens", corpus, Tokeniser(lm.tokenizer, 32, lm.tokenizer.bos_token_id), TOKENS)
    saes = {"sae": sae_fast.load(folder / "a" / "sae"), "second": sae_fast.load(folder / "b" / "sae")}

    found = evaluate(lm, saes, DatasetBatches(dataset, 16))

    assert [sae.name for sae in report.saes] == ["sae", "second"]
    assert TOKENS <= report.n_tokens < TOKENS + 32
    assert report.n_documents == report.n_blocks == len(dataset.documents) > 1
    for name, metrics in found.items():
        expected = {key: value for key, value in vars(metrics).items() if key in report[name].metrics}
        assert report[name].metrics == pytest.approx(expected, rel=1e-6)
        assert report[name].n_not_seen == metrics.n_not_seen
        assert sum(report[name].density) == saes[name].cfg.d_sae - metrics.n_not_seen
        low, high = report[name].intervals["explained_variance"] or (0, 0)
        assert low < (metrics.explained_variance or 0) < high
    assert sum(row["n_tokens"] for row in report["sae"].by_class) == report.n_tokens


def test_what_is_written_is_read_again(report: EvaluationReport, tmp_path: Path) -> None:
    """Writing what was read gives the same bytes."""
    first = report.write(tmp_path / "one")[0].read_bytes()

    assert EvaluationReport.read(tmp_path / "one").to_json().encode() == first
    with pytest.raises(KeyError, match="'third'; the SAEs of this evaluation are sae, second"):
        report["third"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "as `sae-fast eval` writes it"),
        ({"version": 9}, "version: expected 1, got 9"),
        ({"saes": []}, "no SAE"),
        ({"model": 7}, "model is 7"),
        ({"notes": None}, "the form that"),
    ],
)
def test_other_files_are_refused(report: EvaluationReport, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """One error that names the file and what is wrong with it."""
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(json.loads(report.to_json()) | change))
    with pytest.raises(FormatError, match=message):
        EvaluationReport.read(path)


def test_a_number_that_is_none_of_the_page_is_refused(report: EvaluationReport, tmp_path: Path) -> None:
    """What the page would print as it is cannot be a text, so that no markup comes in with a file."""
    changed = json.loads(report.to_json())
    changed["saes"][0]["metrics"]["l0"] = "<script>"
    (tmp_path / "evaluation.json").write_text(json.dumps(changed))
    with pytest.raises(FormatError, match="a number of sae is something else"):
        EvaluationReport.read(tmp_path)


def test_the_page_stands_alone_and_escapes_names(report: EvaluationReport) -> None:
    """Nothing from elsewhere, every SAE in both pictures and the table, an anchor behind every question mark."""
    named = replace(report, model="<m>", saes=(replace(report.saes[0], name="<i>x"), *report.saes[1:]))
    html = standalone(named)

    assert "<i>x" not in html
    assert "<m>" not in html
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    assert html.count("<circle ") == 2 * len(report.saes)
    for target in re.findall(r'href="#([^"]+)"', html):
        assert f'id="{target}"' in html, target
    assert "style=" not in html
    assert 'href="there"' in content(report, link=lambda name: "there" if name == "sae" else None)


def test_one_document_has_a_page_without_intervals(report: EvaluationReport) -> None:
    """Undefined numbers are dashes, and a picture of one SAE has finite axes."""
    alone = replace(
        report.saes[0],
        metrics=dict.fromkeys(report.saes[0].metrics, None) | {"l0": 4.0, "explained_variance": 0.5},
        intervals=dict.fromkeys(report.saes[0].intervals, None),
    )
    html = content(replace(report, saes=(alone,), n_blocks=1))

    assert html.count("<circle ") == 1  # no ΔCE, no second picture
    assert "nan" not in html
    assert "Not given: all texts are of one document." in html
    assert [number(value) for value in (None, 0.0, 0.5, -12345.6, 2e-5)] == ["–", "0", "0.5000", "−12,346", "2.0e−5"]


CATEGORIES = {
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"
    },
    "reconstruction_quality": {"explained_variance", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"},
    "misc_metrics": {
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent", "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim", "frac_alive",
    },
}  # fmt: skip
"""`CoreMetricCategories` of sae_bench/evals/core/eval_output.py (sae-bench 0.6.0), all of its fields required."""


def test_saebench_finds_every_field_of_its_core_evaluation(folder: Path, report: EvaluationReport) -> None:
    """Files lie where its plots look, hold its fields and no others, and its scores are against zero ablation."""
    paths = sorted((folder / "out" / "saebench" / "core").glob("*_eval_results.json"))
    found = {path.name: json.loads(path.read_text()) for path in paths}

    assert list(found) == ["gpt2_sae_eval_results.json", "gpt2_second_eval_results.json"]
    for name, sae in zip(found, report.saes, strict=True):
        content, metrics = found[name], found[name]["eval_result_metrics"]
        assert {category: set(values) for category, values in metrics.items()} == CATEGORIES
        assert all(isinstance(value, int | float) for values in metrics.values() for value in values.values())
        assert metrics["model_performance_preservation"]["ce_loss_score"] == sae.metrics["ce_recovered_zero"]
        assert metrics["sparsity"]["l0"] == sae.metrics["l0"]
        assert metrics["misc_metrics"]["frac_alive"] == 1 - sae.n_not_seen / sae.d_sae
        assert content["eval_type_id"] == "core"
        assert {"architecture", "d_sae"} <= set(content["sae_cfg_dict"])
        assert content["eval_config"]["context_size"] == 32


def test_labelled_texts_are_probed_on_the_way(folder: Path) -> None:
    """probing.json holds the dense baseline and each k of every SAE."""
    probes = json.loads((folder / "out" / "probing.json").read_text())

    assert [(probe["sae"], probe["k"]) for probe in probes] == [(s, k) for s in ("sae", "second") for k in (None, 1, 2)]
    assert [len(probe["features"]) for probe in probes] == [0, 1, 2] * 2
    assert cli.main(["eval", "--model", "m", "--corpus", "c", "--sae", "s", "--probe-k", "0"]) == 2


def test_texts_that_are_not_there_are_told_before_the_model_is_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model of this command does not exist either."""
    arguments = ["--model", str(folder / "no-model"), "--corpus", "none.jsonl", "--sae", str(folder / "a" / "sae")]

    assert cli.main(["eval", *arguments, "--out", str(folder / "other")]) == 2
    assert "'none.jsonl': there is no such file" in capsys.readouterr().err
    assert not (folder / "other").exists()


def test_sources_are_named_by_what_tells_them_apart() -> None:
    """The last part, more where that is shared, or the name that was given."""
    assert named_sources(["saes/a", "saes/b/"]) == {"a": "saes/a", "b": "saes/b/"}
    assert named_sources(["x/sae", "y/sae"]) == {"x/sae": "x/sae", "y/sae": "y/sae"}
    assert named_sources(["one=x/sae", "hf://a/b@c"]) == {"one": "x/sae", "b@c": "hf://a/b@c"}
    with pytest.raises(ArgumentError, match=r"one twice.*NAME=SOURCE"):
        named_sources(["one=x", "one=y"])


def test_help_loads_no_torch() -> None:
    """`sae-fast eval --help` answers at once."""
    run = "try: cli.main(['eval', '--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    code = f"import sys\nfrom sae_fast import cli\n{run}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip().endswith("False")
    assert "--corpus" in result.stdout


def test_the_table_on_the_terminal(report: EvaluationReport, capsys: pytest.CaptureFixture[str]) -> None:
    """Each SAE on a line, the ends of its intervals below."""
    from sae_fast.commands.evaluate import say_summary

    say_summary(replace(report, notes=("A note.",)))
    lines = capsys.readouterr().out.splitlines()

    assert lines[1].split()[:5] == ["SAE", "FEATURES", "L0", "EXPL.", "VARIANCE"]
    assert lines[2].startswith("sae")
    assert f"{report['sae'].metrics['explained_variance']:.4f}" in lines[2]
    assert f"{(report['sae'].intervals['l0'] or [0])[0]:.4g}" in lines[3]
    assert lines[-1] == "A note."


def test_a_folder_of_layers_is_measured_as_one(folder: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    """Explained variance at every hook and features of every layer are in the report and on the page."""
    for layer in range(2):
        hooks = tuple(f"blocks.{later}.hook_mlp_out" for later in range(layer, 2))
        read = f"blocks.{layer}.hook_resid_mid"
        places: dict[str, Any] = {"hook_name": read, "hook_names_out": hooks, "transcoder": True}
        cfg = SAEConfig(architecture="standard", d_in=tiny.D_MODEL, d_sae=24, **places)
        tensors = {name: torch.randn(shape) / 8 for name, shape in tensor_shapes(cfg).items()}
        SAE(cfg, **tensors).save(tmp_path / "clt" / f"layer-{layer}", "sae_fast")
    arguments = ["eval", "--model", str(gpt2_folder), "--corpus", str(folder / "texts.jsonl"), "--tokens", "200", "--quiet"]
    arguments += ["--sae", str(tmp_path / "clt"), "--resamples", "20"]

    assert cli.main([*arguments, "--out", str(tmp_path / "out"), "--card", str(tmp_path / "README.md")]) == 0

    (sae,) = EvaluationReport.read(tmp_path / "out").saes
    assert (sae.name, sae.d_sae) == ("clt", 48)
    assert sae.hooks_in == ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"]
    assert [row["name"] for row in sae.by_hook] == sae.hooks_out == ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    assert sum(row["l0"] for row in sae.by_layer) == pytest.approx(sae.metrics["l0"])
    html = (tmp_path / "out" / "evaluation.html").read_text()
    assert all(f">{row['name']}</th>" in html for row in (*sae.by_hook, *sae.by_layer))
    assert "2 layers" in (tmp_path / "README.md").read_text()
    tiny.sae(tmp_path / "clt" / "layer-2")
    assert cli.main([*arguments, "--out", str(tmp_path / "other")]) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--tokens", "0"], "--tokens: expected at least 1, got 0"),
        (["--resamples", "0"], "--resamples: expected at least 1, got 0"),
        (["--context-length", "0"], "--context-length: expected at least 1, got 0"),
        (["--device", "quantum"], "--device: expected a device that torch can use, got quantum"),
        (["--hook", "a", "--hook", "b"], "--hook: expected as many as --sae, 1, got 2"),
        (["--out", "{file}"], "--out: expected a folder, got {file}, a file"),
    ],
)
def test_mistakes_on_the_command_line_cost_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    """Each is one line that names the option; the model of this command does not exist."""
    file = str(folder / "texts.jsonl")
    arguments = ["eval", "--model", str(folder / "no-model"), "--corpus", file, "--sae", str(folder / "a" / "sae")]

    assert cli.main([*arguments, *(word.format(file=file) for word in wrong)]) == 2
    assert capsys.readouterr().err.startswith(f"sae-fast: error: {message.format(file=file)}")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_evaluation_leaves_nothing(
    folder: Path, gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Neither a file nor the folder; in a folder that was there, what was in it."""

    def stopping(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("sae_fast.evaluation.probing.probe_texts", stopping)
    arguments = ["eval", "--model", str(gpt2_folder), "--corpus", str(folder / "texts.jsonl"), "--tokens", "100", "--quiet"]
    arguments += ["--sae", str(folder / "a" / "sae"), "--probe", str(folder / "labelled.jsonl"), "--resamples", "5"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "evaluation.json").write_text("as it was")

    for name in ("new", "old"):
        with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
            cli.main([*arguments, "--out", str(tmp_path / name)])

    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["old", "evaluation.json"]
    assert (tmp_path / "old" / "evaluation.json").read_text() == "as it was"
