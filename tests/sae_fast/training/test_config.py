"""Configurations: every key, sweeps, names, paths, and what is refused."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sae_fast.corpus.options import CorpusOptions
from sae_fast.errors import ConfigError
from sae_fast.model_options import ModelOptions
from sae_fast.training import VARIANTS, RunConfig
from sae_fast.training.config import ActivationOptions, OutputOptions
from sae_fast.training.finetune import FinetuneOptions
from sae_fast.training.template import TEMPLATE
from sae_fast.training.trainer import TrainOptions

TABLES = {
    "model": ModelOptions,
    "corpus": CorpusOptions,
    "activations": ActivationOptions,
    "train": TrainOptions,
    "finetune": FinetuneOptions,
    "output": OutputOptions,
}


def config(*saes: dict[str, Any], **tables: Any) -> RunConfig:
    given = saes or ({"architecture": "topk", "k": 4},)
    where = [sae if "hook_names" in sae else {"hook_name": "blocks.8.hook_resid_post"} | sae for sae in given]
    content: dict[str, Any] = {"model": {"source": "gpt2"}, "corpus": {"source": "standard-library"}}
    return RunConfig.from_dict(content | {"sae": [{"d_sae": 64} | sae for sae in where]} | tables)


def test_a_list_makes_an_saes_of_each_value() -> None:
    """Every combination, each with a name of its own, in the order of the file."""
    made = config({"architecture": "topk", "k": [4, 8], "seed": [0, 1]}, {"architecture": "batchtopk", "k": 4})

    assert list(made.sae) == [
        "8-resid-post-topk-64-k4",
        "8-resid-post-topk-64-k4-seed1",
        "8-resid-post-topk-64-k8",
        "8-resid-post-topk-64-k8-seed1",
        "8-resid-post-batchtopk-64-k4",
    ]
    assert made.sae["8-resid-post-topk-64-k8-seed1"][1].seed == 1


def test_what_varies_tells_saes_of_one_name_apart() -> None:
    """Whatever key it is, and whether a name was given or not."""
    named = config({"architecture": "topk", "k": [4, 8], "name": "mine"})
    default = config({"architecture": "topk", "k": 4, "lr": [1e-3, 1e-4]})

    assert list(named.sae) == ["mine-k4", "mine-k8"]
    assert list(default.sae) == ["8-resid-post-topk-64-k4", "8-resid-post-topk-64-k4-lr0.0001"]


def test_an_array_is_a_value_and_arrays_are_a_sweep() -> None:
    """Of keys that take arrays."""
    one = config({"architecture": "matryoshka", "k": 4, "group_sizes": [16, 48]})
    two = config({"architecture": "matryoshka", "k": 4, "group_sizes": [[16, 48], [0.5, 0.5]]})
    crosscoder = config({"architecture": "crosscoder", "hook_names": ["a.b", "c.d"], "l1_coefficient": 1})

    assert [options.group_sizes for _, options in one.sae.values()] == [(16, 48)]  # type: ignore[attr-defined]
    assert [options.group_sizes for _, options in two.sae.values()] == [(16, 48), (0.5, 0.5)]  # type: ignore[attr-defined]
    ((_, options),) = crosscoder.sae.values()
    assert options.reads == options.writes == ("a.b", "c.d")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Sources that are there, the output, and the store within it."""
    (tmp_path / "lm").mkdir()
    (tmp_path / "texts.jsonl").touch()
    file = tmp_path / "config.toml"
    file.write_text(
        '[model]\nsource = "lm"\n[corpus]\nsource = "texts.jsonl"\n[output]\nfolder = "out"\n'
        '[[sae]]\narchitecture = "topk"\nhook_name = "a"\nd_sae = 8\nk = 2\n'
    )

    made = RunConfig.load(file)

    assert (made.model.source, made.corpus.source) == (str(tmp_path / "lm"), str(tmp_path / "texts.jsonl"))
    assert (made.output.folder, made.activations.folder) == (str(tmp_path / "out"), str(tmp_path / "out" / "activations"))


@pytest.mark.parametrize(
    ("saes", "tables", "message"),
    [
        ([{"architecture": "topk", "k": 4, "kk": 1}], {}, r"unknown key 'kk'.*Did you mean 'k'"),
        ([{"architecture": "top", "k": 4}], {}, "expected one of standard, gated"),
        ([{"architecture": "topk"}], {}, "'k' is missing"),
        ([{"architecture": "topk", "k": []}], {}, "at least one value"),
        ([{"architecture": "topk", "k": 4.5}], {}, "expected an integer, got a number"),
        ([{"architecture": "topk", "k": 4, "name": "a"}] * 2, {}, "another SAE is called 'a'"),
        ([{"architecture": "crosscoder", "hook_names": ["a"], "l1_coefficient": 1}], {}, "two or more"),
        ([{"architecture": "clt", "hook_names": ["a"], "hook_names_out": []}], {}, "as many hooks"),
        ([], {"train": {"tokens": 0}}, "tokens: expected at least 1"),
        ([], {"train": {"batch_tokens": 10, "accumulate": 3}}, "divisor of batch_tokens"),
        ([], {"train": {"lr": 0.0}}, "lr: expected a positive number"),
        ([], {"train": {"warmup": 0.6, "decay": 0.6}}, "expected at most 1"),
        ([], {"train": {"schedule": "step"}}, "'constant' or 'linear' or 'cosine'"),
        ([], {"activations": {"held_out": 1.0}}, "between 0 and 1"),
        ([], {"activations": {"dtype": "float8"}}, "'bfloat16' or"),
        ([], {"output": {"dtype": "int8"}}, "float32, bfloat16 or float16"),
        ([], {"finetune": {"loss": "mse"}}, "'kl' or 'ce'"),
        ([], {"trian": {}}, "unknown table .trian.*Did you mean 'train'"),
        ([], {"sae": {"architecture": "topk"}}, "two brackets"),
        ([], {"model": {}}, "table .model. is missing"),
        ([], {"corpus": {"source": "./nowhere"}}, "there is no /"),
    ],
)
def test_what_makes_no_sense_is_refused(saes: list[dict[str, Any]], tables: dict[str, Any], message: str) -> None:
    """Before anything begins, naming the key, and the nearest one that exists."""
    with pytest.raises(ConfigError, match=message):
        config(*saes, **tables)


@pytest.mark.parametrize(("content", "message"), [(None, "no such file.*--new"), ("[model", "not a TOML file")])
def test_files_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    """The error begins with the path."""
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_text(content)

    with pytest.raises(ConfigError, match=f"config.toml: {message}"):
        RunConfig.load(file)


@pytest.mark.parametrize("table", TABLES)
def test_the_template_names_every_key_with_its_default(table: str) -> None:
    """What is commented out is what holds without it."""
    uncommented = tomllib.loads(_uncommented(TEMPLATE.format(name="x")))[table]

    for option in fields(TABLES[table]):
        assert option.name in uncommented
        shown = uncommented[option.name]
        given = {"source", "arguments", "name", "max_tokens", "split", "folder", "wandb", "trackio", "tokens", "roles"}
        assert option.name in given or shown == option.default, option.name


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_template_names_every_key_of_an_sae(kind: str) -> None:
    """Of all architectures."""
    (table,) = tomllib.loads(_uncommented(TEMPLATE.format(name="x")).replace("\nd_sae", "\n# d_sae"))["sae"]

    assert {option.name for option in fields(VARIANTS[kind].Options)} - {"d_sae"} <= table.keys()
    assert kind in TEMPLATE


def test_the_template_is_a_configuration() -> None:
    """As it is written, with a source that exists."""
    content = tomllib.loads(TEMPLATE.format(name="x"))

    made = RunConfig.from_dict(content)

    assert [options.k for _, options in made.sae.values()] == [32, 64]  # type: ignore[attr-defined]


def _uncommented(text: str) -> str:
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_setting = bare.startswith("[") or (" = " in bare and bare.split(" = ")[0].replace("_", "").isalnum())
        lines.append(bare if line.startswith("# ") and is_setting else line)
    seen: set[str] = set()
    kept = []
    for line in lines:
        if line.startswith("["):
            seen = set()
        key = line.split(" = ")[0]
        if " = " in line and not line.startswith("#"):
            if key in seen:
                continue
            seen.add(key)
        kept.append(line)
    return "\n".join(kept)
