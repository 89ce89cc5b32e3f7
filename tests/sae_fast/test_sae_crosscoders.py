"""Crosscoders: several activations side by side."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from operands import integers, normal

import sae_fast
from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import ArgumentError
from sae_fast.formats import info
from sae_fast.sae import SAE

HOOKS, WIDTHS = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_post"), (4, 3, 4)


def build(**settings: Any) -> SAE:
    given = {"architecture": "standard", "d_in": 11, "d_sae": 24, "hook_names": HOOKS, "hook_widths": WIDTHS}
    cfg = SAEConfig(**given | settings)
    return SAE(cfg, **{name: normal(seed, *shape) for seed, (name, shape) in enumerate(tensor_shapes(cfg).items())})


def test_it_is_the_sum_of_its_encoders_and_a_decoder_a_hook() -> None:
    """`relu(Σ x_h W_h + b)`, decoded to each hook by itself."""
    sae = build()
    x = [normal(20 + i, 5, width) for i, width in enumerate(WIDTHS)]

    acts = sae.encode(torch.cat(x, 1))
    y = sae.parts(sae.decode(acts))

    encoders, decoders, biases = sae.W_enc.split(WIDTHS, 0), sae.W_dec.split(WIDTHS, 1), sae.b_dec.split(WIDTHS)
    hidden = sum(part @ weights for part, weights in zip(x, encoders, strict=True)) + sae.b_enc
    torch.testing.assert_close(acts.to_dense(), hidden.relu())
    for part, decoder, bias in zip(y, decoders, biases, strict=True):
        torch.testing.assert_close(part, hidden.relu() @ decoder + bias)


def test_where_every_sae_reads_and_writes() -> None:
    """`hooks_read` and `hooks_written` say it of an SAE, a transcoder, a cross-layer transcoder and a crosscoder alike."""

    def of(**settings: Any) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
        cfg = SAEConfig(architecture="standard", d_in=4, d_sae=6, **settings)
        return cfg.hooks_read, cfg.hooks_written, cfg.reads_at

    assert of(hook_name="a") == (("a",), ("a",), "a")
    assert of(hook_name="a", hook_name_out="b", transcoder=True) == (("a",), ("b",), "a")
    assert of(hook_name="a", hook_names_out=("b", "c")) == (("a",), ("b", "c"), "a")
    assert of(hook_names=["a", "b"]) == (("a", "b"), ("a", "b"), "a+b")
    assert of() == of(hook_widths=(1, 3)) == ((), (), None)


@pytest.mark.parametrize("hooks", [{}, {"hook_name": "a", "hook_names": (), "hook_widths": ()}], ids=["crosscoder", "one hook"])
def test_outputs_by_hook_join_to_the_whole(hooks: dict[str, Any]) -> None:
    """Nothing is lost or reordered."""
    y = integers(1, 2, 11).float()

    assert torch.equal(torch.cat(build(**hooks).parts(y), -1), y)


def test_equal_widths_need_not_be_given() -> None:
    """d_in is shared out evenly."""
    assert SAEConfig(architecture="standard", d_in=12, d_sae=6, hook_names=("a", "b", "c")).hook_widths == (4, 4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook_names": ("a",), "hook_widths": (11,)}, "hook_names: expected two or more different hooks"),
        ({"hook_names": ("a", "b", "a")}, "hook_names: expected two or more different hooks"),
        ({"hook_widths": (4, 7)}, "hook_widths: expected a positive width of each of 3 hooks, d_in = 11 together"),
        ({"hook_widths": (4, 4, 4)}, "hook_widths: expected a positive width of each"),
        ({"hook_widths": (11, 1, -1)}, "hook_widths: expected a positive width of each"),
        ({"hook_widths": ()}, "hook_widths: expected a positive width of each"),
        ({"hook_names": (), "hook_widths": (11,)}, "hook_widths: expected a positive width of each of two or more hooks"),
        ({"hook_name": "a"}, "hook_name: a crosscoder reconstructs what it reads"),
        ({"hook_name_out": "a"}, "hook_name_out: a crosscoder"),
        ({"hook_names_out": ("a", "b")}, "hook_names_out: a crosscoder"),
        ({"skip": True}, "skip: a crosscoder"),
        ({"d_out": 5}, "d_out: a crosscoder"),
        ({"reshape_activations": "hook_z"}, "reshape_activations: expected none for a crosscoder"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_a_crosscoder_cannot_be(changes: dict[str, Any], message: str) -> None:
    """Refused at construction."""
    with pytest.raises(ArgumentError, match=message):
        build(**changes)


@pytest.mark.parametrize("format_name", ["sae_fast", "saelens"])
def test_an_older_folder_is_a_crosscoder_still(format_name: str, tmp_path: Path) -> None:
    """Its hooks were in the metadata then."""
    metadata = {"training_architecture": "crosscoder", "hook_names": list(HOOKS), "hook_widths": list(WIDTHS), "threshold": 0.5}
    older = build(hook_names=(), hook_widths=(), metadata=metadata)
    older.save(tmp_path, format_name)

    cfg = sae_fast.load(tmp_path).cfg

    assert (cfg.hook_names, cfg.hook_widths, cfg.hook_name) == (HOOKS, WIDTHS, None)
    assert (cfg.metadata["threshold"], "hook_names" in cfg.metadata) == (0.5, False)
    assert info(tmp_path).cfg == cfg


def test_hooks_are_given_where_the_files_do_not_say(tmp_path: Path) -> None:
    """`load(hook_names=…)`, one of each width, and for crosscoders only."""
    build(hook_names=()).save(tmp_path / "unnamed", "sae_fast")
    build(hook_names=(), hook_widths=(), hook_name="a").save(tmp_path / "sae", "sae_fast")

    assert sae_fast.load(tmp_path / "unnamed", hook_names=HOOKS).cfg.hooks_read == HOOKS
    with pytest.raises(ArgumentError, match="hook_widths: expected a positive width of each of 2 hooks"):
        sae_fast.load(tmp_path / "unnamed", hook_names=HOOKS[:2])
    with pytest.raises(ArgumentError, match=r"hook_name: a crosscoder reads at several hooks.*hook_names, 3 of them"):
        sae_fast.load(tmp_path / "unnamed", hook_name="a")
    with pytest.raises(ArgumentError, match="hook_names: this SAE is no crosscoder"):
        sae_fast.load(tmp_path / "sae", hook_names=HOOKS)


def test_info_names_all_hooks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With their widths; as JSON, in the configuration."""
    from sae_fast.cli import main

    build().save(tmp_path, "sae_fast")

    assert main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert main(["info", "--json", str(tmp_path)]) == 0
    config = json.loads(capsys.readouterr().out)["config"]

    assert "standard crosscoder" in shown
    assert "4 + 3 + 4" in shown
    assert ", ".join(HOOKS) in shown
    assert (config["hook_names"], config["hook_widths"]) == (list(HOOKS), list(WIDTHS))
