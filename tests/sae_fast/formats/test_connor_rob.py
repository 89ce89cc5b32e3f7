from pathlib import Path

import published
import torch

import sae_fast
from sae_fast.formats import info


def test_relu_of_the_centred_heads(tmp_path: Path) -> None:
    """relu((x - b_dec) W_enc + b_enc), of heads side by side or one by one."""
    sample = published.connor_rob()
    w, x = published.doubles(sample.files[str(sample.file)]), published.inputs()
    acts = ((x.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, acts @ w["W_dec"] + w["b_dec"])
    assert torch.equal(sae(x.unflatten(1, (2, 4))).flatten(1), sae(x))
    assert (sae.cfg.hook_name, sae.cfg.model_name) == ("blocks.0.attn.hook_z", "gpt2-small")


def test_the_configuration_or_the_folder_will_do(tmp_path: Path) -> None:
    """Either file names it, and so does a folder that holds nothing else."""
    path = published.connor_rob().write(tmp_path)

    named = [path, path.with_name(f"{path.stem}_cfg.json"), path.parent]

    assert [info(name).format for name in named] == ["connor_rob"] * 3
