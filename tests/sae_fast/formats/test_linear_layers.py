"""DeepSeek-R1 (qresearch) and Goodfire: one file of two linear layers, and a name."""

from pathlib import Path

import published
import pytest

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info


@pytest.mark.parametrize(
    ("sample", "encoder", "decoder", "model_name"),
    [
        (published.deepseek(), "encoder", "decoder", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        (published.goodfire(), "encoder_linear", "decoder_linear", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
    ids=["deepseek", "goodfire"],
)
def test_relu_of_the_raw_input(sample: published.Sample, encoder: str, decoder: str, model_name: str, tmp_path: Path) -> None:
    """Nothing is subtracted; model and layer are in the file's name; a folder with one such file will do."""
    w, x = published.doubles(sample.files[str(sample.file)]), published.inputs()
    acts = (x.double() @ w[f"{encoder}.weight"].T + w[f"{encoder}.bias"]).relu()
    out = acts @ w[f"{decoder}.weight"].T + w[f"{decoder}.bias"]
    path = sample.write(tmp_path)

    sae = sae_fast.load(path, dtype="float32")

    published.assert_computes(sae, x, acts, out)
    assert (sae.cfg.hook_name, sae.cfg.model_name) == ("blocks.19.hook_resid_post", model_name)
    assert info(path.parent).cfg == info(path).cfg
    assert sae_fast.load(path).dtype == sample.files[str(sample.file)][f"{encoder}.weight"].dtype


def test_other_linear_layers_are_not_taken_for_one(tmp_path: Path) -> None:
    """The same tensors under another name are refused: any autoencoder might have them."""
    sample = published.deepseek()
    state = sample.files[str(sample.file)]
    published.write(tmp_path / "model.pt", state)
    with pytest.raises(FormatError, match=r"model.pt: no SAE found"):
        info(tmp_path / "model.pt")


def test_a_name_without_a_layer_leaves_the_hook_open(tmp_path: Path) -> None:
    """Goodfire's tensors are telling enough; what the name does not say stays unknown."""
    sample = published.goodfire()
    published.write(tmp_path / "sae.pt", sample.files[str(sample.file)])

    cfg = info(tmp_path / "sae.pt").cfg

    assert (cfg.hook_name, cfg.model_name, cfg.architecture) == (None, None, "standard")
