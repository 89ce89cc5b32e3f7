"""What the catalogue tells of an SAE is what its reader finds where the catalogue says that it lies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import published
import pytest
from published import Sample

from sae_fast import catalogue, formats
from sae_fast.catalogue import Entry

CASES: dict[str, Callable[[], Sample]] = {
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": published.gemma_scope,
    "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6": published.gemma_scope,
    "gemma-scope-2b-pt-att-canonical/layer_0/width_16k/canonical": published.gemma_scope,
    "gemma-scope-2b-pt-mlp/layer_0/width_16k/average_l0_119": published.gemma_scope,
    "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54": published.gemma_scope,
    "gemma-scope-9b-it-res/layer_20/width_131k/average_l0_13": published.gemma_scope,
    "gemma-scope-2-4b-pt-res-all/layer_0_width_16k_l0_big": published.gemma_scope_2,
    "gemma-scope-2-4b-pt-att/layer_17_width_16k_l0_big": published.gemma_scope_2,
    "gemma-scope-2-4b-pt-mlp-all/layer_3_width_16k_l0_big": published.gemma_scope_2,
    "gemma-scope-2-270m-it-transcoders-all/layer_7_width_16k_l0_big": published.gemma_scope_2,
    "goodfire-llama-3.1-8b-instruct/layer_19": published.goodfire,
    "deepseek-r1-distill-llama-8b-qresearch/blocks.19.hook_resid_post": published.deepseek,
    "mwhanna-qwen3-4b-transcoders/layer_3": published.circuit_tracer_plt,
    "mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_1": published.circuit_tracer_clt,
    "sae_bench_pythia70m_sweep_gated_ctx128_0730/blocks.3.hook_resid_post__trainer_0": published.SAMPLES["dictionary_learning"],
    "temporal-sae-gemma-2-2b/blocks.12.hook_resid_post": published.temporal,
    "qwen-scope-3-1.7b-base-w32k-l50/layer5": published.qwen_scope,
}
"""SAEs of the catalogue, and samples of their files."""


def published_at(entry: Entry, sample: Sample, mirror: Path, work: Path) -> None:
    """Put the files of a sample where the catalogue says that the SAE lies."""
    path = sample.write(work)
    if path.is_dir():
        shutil.copytree(path, mirror / entry.repo / entry.path)
        return
    shutil.copytree(path.parent, mirror / entry.repo)
    present = mirror / entry.repo / Path(entry.source).name
    if not present.exists():
        (mirror / entry.repo / path.name).rename(present)


@pytest.mark.parametrize("name", CASES)
def test_readers_agree_with_the_catalogue(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Format, hook, layer and files are those that the reader finds, and the metadata names the SAE."""
    entry = catalogue.get(name)
    published_at(entry, CASES[name](), tmp_path / "mirror", tmp_path / "work")
    monkeypatch.setenv("SAE_FAST_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    found = formats.info(name)

    assert found.format == entry.format
    assert entry.hook_name in (None, found.cfg.hook_name)
    assert entry.layer is None or f"blocks.{entry.layer}." in str(found.cfg.hook_name)
    assert found.cfg.metadata["catalogue_name"] == name
    assert {Path(file).name for file in found.file_bytes} <= {Path(file).name for file in entry.files}
