"""Whole runs on a tiny model: what they leave behind, that they can be stopped anywhere, and that nothing depends on when."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sae_fast
from sae_fast import files
from sae_fast.corpus.tokens import COUNTED, TokenDataset
from sae_fast.errors import ArgumentError, ConfigError, DiskFullError, MismatchError, NonFiniteError, StoppedError, StoreError
from sae_fast.training import RunConfig, run, train
from sae_fast.training.checkpoint import checkpoints
from sae_fast.training.metrics_log import read_metrics
from sae_fast.training.trainer import StepMetrics, Trainer

Configure = Callable[..., RunConfig]
BATCHTOPK: dict[str, Any] = {"architecture": "batchtopk", "k": 5}
TOPK: dict[str, Any] = {"architecture": "topk", "k": 4}


class Killed(BaseException):
    """Stands in for a power cut."""


def quiet(config: RunConfig) -> dict[str, sae_fast.SAE]:
    return train(config, show_progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    """All that a finished run holds, but the path of its folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.html"
    }


def killed_after(monkeypatch: pytest.MonkeyPatch, n_steps: int, error: BaseException) -> None:
    """Let the step after `n_steps` of this process die."""
    taken, step = [0], Trainer._train

    def failing(self: Trainer, *arguments: Any) -> StepMetrics:
        if taken[0] == n_steps:
            raise error
        taken[0] += 1
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train", failing)


def test_a_run_leaves_tokens_saes_metrics_and_results(configure: Configure, tmp_path: Path) -> None:
    """The SAEs load with names and hook, metrics have a line for each logged step, and results are of the saved SAEs."""
    saes = quiet(configure(TOPK | {"name": "a"}, BATCHTOPK | {"name": "b"}))

    folder = tmp_path / "run"
    assert sorted(saes) == ["a", "b"]
    loaded = sae_fast.load(folder / "saes" / "a")
    assert (loaded.cfg.hook_name, loaded.cfg.context_size, loaded.cfg.k) == ("blocks.1.hook_resid_post", 32, 4)
    torch.testing.assert_close(loaded.W_dec, saes["a"].W_dec)
    lines = list(read_metrics(folder / "metrics.jsonl"))
    assert [(line["sae"], line["step"]) for line in lines] == [(n, s) for s in (5, 10, 15, 20) for n in ("a", "b")]
    assert lines[-1]["tokens"] == 2560
    results = json.loads((folder / "run.json").read_text())["results"]
    assert results["a"]["l0"] == pytest.approx(4, abs=0.1)
    assert results["b"]["l0"] == pytest.approx(5, rel=0.02)
    assert len(checkpoints(folder / "checkpoints")) == 2
    assert "Explained variance" in (folder / "report.html").read_text()


def test_a_second_call_only_finishes(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is taken, the LM does not run, and all files stay as they were."""
    quiet(configure())
    before = contents(tmp_path / "run")
    killed_after(monkeypatch, 0, Killed())

    quiet(configure())

    assert contents(tmp_path / "run") == before


def test_the_same_configuration_gives_the_same_bytes(configure: Configure, tmp_path: Path) -> None:
    """In another folder."""
    quiet(configure(TOPK, BATCHTOPK, folder="a"))
    quiet(configure(TOPK, BATCHTOPK, folder="b"))

    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("n_steps", [0, 3, 5, 13])
def test_a_killed_run_goes_on_to_the_same_bytes(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int
) -> None:
    """Wherever it dies; metrics of steps that are taken again are cut back."""
    jumprelu = {"architecture": "jumprelu", "target_l0": 6, "dead_after_tokens": 500}
    quiet(configure(TOPK, jumprelu, folder="whole"))
    with monkeypatch.context() as patched:
        killed_after(patched, 2 * n_steps, Killed())
        with pytest.raises(Killed):
            quiet(configure(TOPK, jumprelu, folder="killed"))

    quiet(configure(TOPK, jumprelu, folder="killed"))

    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", range(20))
def test_a_run_killed_at_any_step_goes_on_to_the_same_bytes(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int
) -> None:
    """Every step, three SAEs."""
    saes = (TOPK, BATCHTOPK, {"architecture": "gated", "l1_coefficient": 1.0})
    quiet(configure(*saes, folder="whole"))
    with monkeypatch.context() as patched:
        killed_after(patched, 3 * n_steps + 1, Killed())
        with pytest.raises(Killed):
            quiet(configure(*saes, folder="killed"))

    quiet(configure(*saes, folder="killed"))

    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """After its step; the error says how to go on, and going on gives what an uninterrupted run gives."""
    step = Trainer._train

    def signalled(self: Trainer, *arguments: Any) -> StepMetrics:
        if self.step == 6:
            os.kill(os.getpid(), number)
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train", signalled)
        with pytest.raises(StoppedError, match=r"stopped after step 7 of 20.*The same command goes on"):
            quiet(configure(folder="stopped"))
    assert checkpoints(tmp_path / "stopped" / "checkpoints")[-1].name == "checkpoint-00000007.safetensors"
    quiet(configure(folder="stopped"))
    quiet(configure(folder="whole"))

    assert contents(tmp_path / "stopped" / "saes") == contents(tmp_path / "whole" / "saes")


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Cut short or with one bit changed; the result is the same."""
    quiet(configure(folder="whole"))
    with monkeypatch.context() as patched:
        killed_after(patched, 12, Killed())
        with pytest.raises(Killed):
            quiet(configure(folder="damaged"))
    newest = checkpoints(tmp_path / "damaged" / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content[:-50] if damage == "cut" else content)

    quiet(configure(folder="damaged"))

    assert contents(tmp_path / "damaged" / "saes") == contents(tmp_path / "whole" / "saes")


def test_damaged_checkpoints_alone_are_an_error(configure: Configure, tmp_path: Path) -> None:
    """A run does not begin anew in silence."""
    quiet(configure())
    for file in checkpoints(tmp_path / "run" / "checkpoints"):
        file.write_bytes(b"nothing")

    with pytest.raises(StoreError, match="no checkpoint can be read"):
        quiet(configure())


@pytest.mark.parametrize("tables", [{"train": {"lr": 2e-3}}, {"train": {"tokens": 5120}}])
def test_other_settings_are_refused(configure: Configure, tables: Mapping[str, Any]) -> None:
    """A checkpoint belongs to its settings; the message names what differs."""
    quiet(configure())

    with pytest.raises(MismatchError, match=r"other settings.*train"):
        quiet(configure(**tables))


def test_a_changed_corpus_is_refused(configure: Configure, tmp_path: Path) -> None:
    """Tokens of other texts are not trained on in silence."""
    texts = tmp_path / "texts.jsonl"
    config = configure()
    texts.write_bytes(Path(config.corpus.source).read_bytes())
    config = replace(config, corpus=replace(config.corpus, source=str(texts)))
    quiet(config)
    texts.write_text(texts.read_text() + '{"text": "One more."}\n')

    with pytest.raises(MismatchError, match="tokens of another corpus"):
        quiet(config)


def test_a_full_disk_keeps_the_last_checkpoint(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops, the checkpoint before is whole, and the run goes on from it to the same SAE."""
    quiet(configure(folder="whole"))
    written, write_whole = [0], files.write_whole

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".safetensors":
            written[0] += 1
            if written[0] == 2:
                path.with_name(path.name + ".new").write_bytes(content[:100])
                raise DiskFullError(f"No space left for {path}")
        write_whole(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("sae_fast.training.checkpoint.write_whole", full)
        with pytest.raises(DiskFullError):
            quiet(configure(folder="full"))
    (kept,) = checkpoints(tmp_path / "full" / "checkpoints")
    assert load_file(kept)["step"] == 5
    quiet(configure(folder="full"))

    assert contents(tmp_path / "full" / "saes") == contents(tmp_path / "whole" / "saes")


def test_an_exploding_loss_keeps_the_last_checkpoint(configure: Configure, tmp_path: Path) -> None:
    """With a learning rate that no SAE stands, the run ends with an error and what was good before is there."""
    config = configure(train={"lr": 1e30, "warmup": 0.0, "clip_norm": 1e30}, output={"checkpoint_tokens": 128})

    with pytest.raises(NonFiniteError, match="Lower the learning rate"):
        quiet(config)
    assert checkpoints(tmp_path / "run" / "checkpoints")


def test_a_run_beyond_memory_is_refused_before_it_begins(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what it needs and what there is."""
    monkeypatch.setattr("sae_fast.training.estimate.machine_bytes", lambda: 10_000)

    with pytest.raises(ArgumentError, match=r"the run needs .* kB .* and there are 10.0 kB"):
        quiet(configure())


def test_streaming_needs_no_store(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a store the run learns as well, is as reproducible, and goes on from a kill to the same bytes."""
    tables: Any = {"activations": {"on_disk": False, "buffer_tokens": 600, "folder": str(tmp_path / "none")}}
    quiet(configure(BATCHTOPK, folder="whole", **tables))
    with monkeypatch.context() as patched:
        killed_after(patched, 13, Killed())
        with pytest.raises(Killed):
            quiet(configure(BATCHTOPK, folder="killed", **tables))
    quiet(configure(BATCHTOPK, folder="killed", **tables))
    quiet(configure(BATCHTOPK, folder="stored"))

    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / "none").exists()
    (streamed,), (stored,) = (
        json.loads((tmp_path / name / "run.json").read_text())["results"].values() for name in ("whole", "stored")
    )
    assert streamed["l0"] == pytest.approx(5, rel=0.02)
    assert streamed["explained_variance"] == pytest.approx(stored["explained_variance"], abs=0.1)


def test_fine_tuning_brings_the_predictions_closer(configure: Configure, tmp_path: Path) -> None:
    """KL with the SAE spliced in falls, metrics go on where training ended, and a second call changes nothing."""
    tables: Any = {"finetune": {"tokens": 40 * 4 * 32, "contexts": 4, "lr": 1e-3}}
    quiet(configure(TOPK, **tables))
    before = contents(tmp_path / "run")
    quiet(configure(TOPK, **tables))

    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "kl" in line["terms"]]
    assert [line["step"] for line in lines] == list(range(25, 61, 5))
    assert lines[-1]["terms"]["kl"] < 0.9 * lines[0]["terms"]["kl"]
    assert contents(tmp_path / "run") == before


def test_fine_tuning_several_hooks_is_refused(configure: Configure) -> None:
    """Only what writes at one hook can be spliced in."""
    crosscoder = {"architecture": "crosscoder", "hook_names": [f"blocks.{i}.hook_resid_post" for i in (0, 1)]}

    with pytest.raises(ConfigError, match="writes at several hooks"):
        quiet(configure(crosscoder | {"l1_coefficient": 1.0}, finetune={"tokens": 100}))


def test_transcoders_of_one_and_of_several_layers(configure: Configure, tmp_path: Path) -> None:
    """A skip transcoder, a cross-layer transcoder and a crosscoder come out of one pass, and load again."""
    reads = [f"blocks.{i}.ln2.hook_normalized" for i in (0, 1)]
    writes = [f"blocks.{i}.hook_mlp_out" for i in (0, 1)]
    saes = quiet(
        configure(
            TOPK | {"name": "skip", "hook_name": reads[1], "hook_name_out": writes[1], "skip": True},
            {"name": "clt", "architecture": "clt", "hook_names": reads, "hook_names_out": writes},
            {"name": "cross", "architecture": "batchtopk_crosscoder", "hook_names": writes, "k": 5},
            train={"tokens": 60 * 128, "lr": 1e-2},
        )
    )

    assert sorted(saes) == ["clt/layer-0", "clt/layer-1", "cross", "skip"]
    assert saes["clt/layer-0"].cfg.hook_names_out == tuple(writes)
    assert saes["clt/layer-1"].cfg.hook_names_out == (writes[1],)
    assert saes["cross"].cfg.hook_names == tuple(writes)
    assert saes["cross"].cfg.hook_widths == (32, 32)
    for name, sae in saes.items():
        torch.testing.assert_close(sae_fast.load(tmp_path / "run" / "saes" / name).W_dec, sae.W_dec)
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert results["cross"]["l0"] == pytest.approx(5, rel=0.02)
    assert all(0 < result["explained_variance"] < 1 for result in results.values())


def test_the_hooks_of_all_saes_are_collected_once(configure: Configure) -> None:
    """Whatever reads and writes there."""
    config = configure(TOPK, TOPK | {"hook_name_out": "blocks.2.hook_mlp_out", "name": "t"})

    assert run.hooks_of(config) == ["blocks.1.hook_resid_post", "blocks.2.hook_mlp_out"]


def test_contexts_begin_with_a_bos_where_there_is_one(configure: Configure, tmp_path: Path) -> None:
    """Though the tokenizer writes none by itself; the SAE says so, and the BOS is not trained on."""
    trained = quiet(configure(corpus={"prepend_bos": "auto"}, activations={"folder": str(tmp_path / "store")}))
    dataset = TokenDataset.open(tmp_path / "run" / "tokens")

    assert {sae.cfg.prepend_bos for sae in trained.values()} == {True}
    assert (dataset.tokens[:, 0] == dataset.tokens[0, 0]).all()
    assert (dataset.kind[:, 0] != COUNTED).all()
