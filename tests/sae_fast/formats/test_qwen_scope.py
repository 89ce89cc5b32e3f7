from pathlib import Path

import published
import pytest

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info
from sae_fast.formats._description import Given
from sae_fast.formats.qwen_scope import describe
from sae_fast.sources import open_source


@pytest.mark.parametrize("config", [True, False])
def test_the_k_largest_of_the_raw_input(config: bool, tmp_path: Path) -> None:
    """Both matrices are those of linear layers; nothing is subtracted; k comes from config.json or the repository's name."""
    sample = published.qwen_scope(config)
    w, x = published.doubles(sample.files["layer5.sae.pt"]), published.inputs()
    acts = published.largest(x.double() @ w["W_enc"].T + w["b_enc"], published.K)

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, acts @ w["W_dec"].T + w["b_dec"])
    assert (sae.cfg.hook_name, sae.cfg.model_name) == ("blocks.5.hook_resid_post", "Qwen/Qwen3-1.7B-Base")


def test_k_must_be_known(tmp_path: Path) -> None:
    """Elsewhere, without config.json, a catalogue may say k; otherwise the message says where it is expected."""
    sample = published.qwen_scope(config=False)
    sample.folder = "downloads"
    path = sample.write(tmp_path)
    with pytest.raises(FormatError, match=r"k, the number of active features, is not in the file: expected k in config.json"):
        info(path)

    description = describe(open_source(path), Given(metadata={"k": 7}))

    assert description is not None
    assert description.cfg.k == 7


def test_a_folder_of_layers_asks_for_one(tmp_path: Path) -> None:
    """A whole repository lists its layers."""
    sample = published.qwen_scope()
    sample.files |= {f"layer{n}.sae.pt": sample.files["layer5.sae.pt"] for n in (10, 9)}
    with pytest.raises(
        FormatError, match=r"several layers of Qwen Scope: expected one, got layer5.sae.pt, layer9.sae.pt, layer10"
    ):
        info(sample.write(tmp_path).parent)


def test_other_places_are_refused(tmp_path: Path) -> None:
    """config.json of another hook point."""
    sample = published.qwen_scope()
    sample.files["config.json"]["hook_point"] = "mlp_out"
    with pytest.raises(FormatError, match="hook_point: expected resid_post, got mlp_out"):
        info(sample.write(tmp_path))
