"""Training checkpoints of SAELens, whose inputs may have been scaled or whitened, and old finetuned files.

SAELens itself ignores the scale, or fails with a KeyError, when such a folder is loaded with `SAE.load_from_disk`.
"""

import json
from pathlib import Path

import pytest
import saelens_files
import torch
from operands import normal
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae_fast
from sae_fast.architectures import reference
from sae_fast.config import MatchingPursuit
from sae_fast.errors import FormatError

by_architecture = pytest.mark.parametrize("architecture", list(saelens_files.OF_TRAINING))


def x() -> Tensor:
    return 2 * normal(50, 40, saelens_files.D_IN) + 0.5


def trained(architecture: str, t: dict[str, Tensor], x: Tensor, b_dec_is_subtracted: bool = True) -> tuple[Tensor, Tensor]:
    """(activations, output) of SAELens's training classes at inference, on the inputs that training saw."""
    centred = x - t["b_dec"] if b_dec_is_subtracted else x
    norms = t["W_dec"].norm(dim=1) if "topk" in architecture else torch.ones(1)
    if architecture == "matching_pursuit":
        acts = reference.matching_pursuit(centred, t["W_dec"], MatchingPursuit(max_iterations=4))
    elif architecture == "gated":
        h = centred @ t["W_enc"]
        acts = (h + t["b_gate"] > 0) * (h * t["r_mag"].exp() + t["b_mag"]).relu()
    else:
        h = (centred @ t["W_enc"] + t["b_enc"]) * norms
        if "batchtopk" in architecture:
            acts = h * (h > t["topk_threshold"])
        elif "topk" in architecture:
            chosen = (h.abs() if architecture == "abstopk" else h).topk(4).indices
            acts = torch.zeros_like(h).scatter(-1, chosen, (h if architecture == "abstopk" else h.relu()).gather(-1, chosen))
        else:
            acts = h.relu() * (h > t.get("threshold", torch.zeros(1)))
    return acts, (acts / norms) @ t["W_dec"] + t["b_dec"]


@by_architecture
def test_a_checkpoint_computes_what_training_did(architecture: str, tmp_path: Path) -> None:
    """Keys of the training change nothing; the scalar threshold of BatchTopK holds for all features."""
    t = saelens_files.write_checkpoint(tmp_path, architecture)
    acts, output = trained(architecture, t, x())

    sae = sae_fast.load(tmp_path)

    torch.testing.assert_close(sae.encode(x()).to_dense(), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x()), output, rtol=1e-5, atol=1e-5)
    assert sae.cfg.architecture == architecture.removeprefix("matryoshka_")
    assert sae.cfg.group_sizes == ((8, 8, 16) if architecture == "matryoshka_batchtopk" else None)
    assert sae.cfg.metadata["training_architecture"] == architecture
    sae.save(tmp_path / "saved")
    assert sae_fast.load(tmp_path / "saved").cfg == sae.cfg


@pytest.mark.parametrize("given", [False, True], ids=["from-file", "from-argument"])
@by_architecture
def test_the_scale_of_training_inputs_is_folded(architecture: str, given: bool, tmp_path: Path) -> None:
    """The output is that of training on factor * x, divided by the factor, and the same features are active."""
    t = saelens_files.write_checkpoint(tmp_path, architecture, normalize_activations="expected_average_only_in")
    factor = 0.4
    acts, output = trained(architecture, t, x() * factor)
    if not given:
        (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))

    sae = sae_fast.load(tmp_path, norm_scaling_factor=factor if given else None)

    torch.testing.assert_close(sae(x()), output / factor, rtol=1e-5, atol=1e-5)
    assert torch.equal(sae.encode(x()).to_dense() != 0, acts != 0)
    assert sae.cfg.normalize_activations == "none"


@pytest.mark.parametrize("b_dec_is_subtracted", [True, False], ids=["centred", "raw"])
@pytest.mark.parametrize("architecture", [name for name in saelens_files.OF_TRAINING if name != "matching_pursuit"])
def test_whitened_training_inputs_are_folded(architecture: str, b_dec_is_subtracted: bool, tmp_path: Path) -> None:
    """Activations are those of the whitened input, the output is mapped back."""
    changes = {"normalize_activations": "covariance_whitening", "apply_b_dec_to_input": b_dec_is_subtracted}
    t = saelens_files.write_checkpoint(tmp_path, architecture, **changes)
    mean, matrix = normal(70, 8).double(), normal(71, 8, 8).double() + 2 * torch.eye(8).double()
    inverse = torch.linalg.inv(matrix).contiguous()
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": None, "has_whitening": True}))
    save_file({"mean": mean, "matrix": matrix, "inverse_matrix": inverse}, tmp_path / "activation_whitening.safetensors")
    t = {name: tensor.double() for name, tensor in t.items()}
    acts, output = trained(architecture, t, (x().double() - mean) @ matrix, b_dec_is_subtracted)

    sae = sae_fast.load(tmp_path, dtype="float64")

    torch.testing.assert_close(sae.encode(x()).to_dense(), acts, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sae.decode(sae.encode(x())), output @ inverse + mean, rtol=1e-6, atol=1e-6)
    assert sae.cfg.normalize_activations == "none"


def test_whitening_without_its_matrices(tmp_path: Path) -> None:
    """A missing file, a wrong shape, and an architecture that cannot fold it are named."""
    saelens_files.write_checkpoint(tmp_path, "standard", normalize_activations="covariance_whitening")
    with pytest.raises(FormatError, match=r"expected activation_whitening\.safetensors beside it"):
        sae_fast.load(tmp_path)
    save_file({"mean": torch.zeros(7), "matrix": torch.eye(8)}, tmp_path / "activation_whitening.safetensors")
    with pytest.raises(FormatError, match=r"activation_whitening.safetensors: mean: expected \[8\], got \[7\]"):
        sae_fast.load(tmp_path)
    saelens_files.write_checkpoint(tmp_path, "matching_pursuit", normalize_activations="covariance_whitening")
    with pytest.raises(FormatError, match="covariance_whitening of a matching_pursuit SAE that is tied"):
        sae_fast.load(tmp_path)


def test_a_missing_scale_is_an_error(tmp_path: Path) -> None:
    """Without the factor the SAE would be silently wrong, so load asks for it; info needs no factor."""
    saelens_files.write(tmp_path, "standard", normalize_activations="expected_average_only_in")

    with pytest.raises(FormatError, match="Pass norm_scaling_factor"):
        sae_fast.load(tmp_path)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": -1.0}))
    with pytest.raises(FormatError, match=r"activation_scaler.json: scaling_factor: expected a positive number, got -1.0"):
        sae_fast.load(tmp_path)
    assert sae_fast.formats.info(tmp_path).cfg.d_sae == 32


def test_the_encoder_alone_of_a_checkpoint(tmp_path: Path) -> None:
    """Where the decoder's norms are part of the encoder, they are read for it."""
    t = saelens_files.write_checkpoint(tmp_path, "batchtopk")

    sae = sae_fast.load(tmp_path, encoder_only=True)

    assert not sae.has_decoder
    torch.testing.assert_close(sae.encode(x()).to_dense(), trained("batchtopk", t, x())[0], rtol=1e-5, atol=1e-5)


def test_some_features_of_a_checkpoint(tmp_path: Path) -> None:
    """Folding a scale and the decoder's norms commutes with taking some features."""
    saelens_files.write_checkpoint(tmp_path, "batchtopk", normalize_activations="expected_average_only_in")

    some = sae_fast.load(tmp_path, features=[5, 1, 30], norm_scaling_factor=0.4)

    whole = sae_fast.load(tmp_path, norm_scaling_factor=0.4)
    torch.testing.assert_close(some.encode(x()).to_dense(), whole.encode(x()).features([5, 1, 30]))


def test_the_logarithm_of_a_threshold(tmp_path: Path) -> None:
    """Older JumpReLU checkpoints hold log_threshold."""
    t = saelens_files.write_checkpoint(tmp_path, "jumprelu")
    t["log_threshold"] = t.pop("threshold").log()
    save_file(t, tmp_path / "sae_weights.safetensors")

    torch.testing.assert_close(sae_fast.load(tmp_path).threshold, t["log_threshold"].exp())


@pytest.mark.parametrize("key", ["scaling_factor", "finetuning_scaling_factor"])
def test_finetuned_features_write_more(key: str, tmp_path: Path) -> None:
    """Before SAELens 6 a factor for each feature could scale what it writes; all ones mean nothing."""
    t = saelens_files.write(tmp_path, "standard")
    before = sae_fast.load(tmp_path)
    cfg = {"hook_point": "blocks.0.hook_resid_post", "d_in": 8, "d_sae": 32, "dtype": "torch.float32"}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    save_file(t | {key: torch.ones(32)}, tmp_path / "sae_weights.safetensors")
    assert torch.equal(sae_fast.load(tmp_path)(x()), before(x()))
    factor = torch.linspace(0.5, 2, 32)
    save_file(t | {key: factor}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(FormatError, match=f"{key}: expected all ones, or .* finetuning_scaling_factor in cfg.json"):
        sae_fast.load(tmp_path)

    (tmp_path / "cfg.json").write_text(json.dumps(cfg | {"finetuning_scaling_factor": True}))
    sae = sae_fast.load(tmp_path)

    acts = before.encode(x()).to_dense()
    assert torch.equal(sae.encode(x()).to_dense(), acts)
    torch.testing.assert_close(sae(x()), (acts * factor) @ t["W_dec"] + t["b_dec"])


def test_a_checkpoint_folder_with_everything_in_it(tmp_path: Path) -> None:
    """Optimiser state, counters and sparsity lie beside the weights, and are not read."""
    t = saelens_files.write_checkpoint(tmp_path, "topk")
    (tmp_path / "trainer_state.pt").write_bytes(b"not read")
    (tmp_path / "runner_cfg.json").write_text("{}")
    save_file({"sparsity": torch.zeros(32)}, tmp_path / "sparsity.safetensors")
    save_file({"n_dataset_processed": torch.tensor(3)}, tmp_path / "activations_store_state.safetensors")

    torch.testing.assert_close(sae_fast.load(tmp_path).W_dec, load_file(tmp_path / "sae_weights.safetensors")["W_dec"])
    assert torch.equal(sae_fast.load(tmp_path).W_dec, t["W_dec"])
