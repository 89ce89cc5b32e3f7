"""Every architecture on a GPU, against the same SAE on the CPU."""

from typing import Any

import pytest
import torch
from operands import normal

from sae_fast.config import MatchingPursuit, SAEConfig, Temporal, tensor_shapes
from sae_fast.sae import SAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KINDS: dict[str, dict[str, Any]] = {
    "standard": {"apply_b_dec_to_input": True},
    "gated": {},
    "topk": {"k": 8, "rescale_acts_by_decoder_norm": True, "normalize_activations": "layer_norm"},
    "abstopk": {"k": 8},
    "jumprelu": {"transcoder": True, "skip": True, "d_out": 48},
    "batchtopk": {"group_sizes": (256, 256, 512)},
    "groupmax": {"k": 8},
    "matching_pursuit": {"pursuit": MatchingPursuit(max_iterations=6), "apply_b_dec_to_input": True},
    "temporal": {"k": 8, "temporal": Temporal(n_heads=2, n_attn_layers=2, bottleneck_factor=16)},
}


@pytest.mark.parametrize("architecture", list(KINDS))
def test_the_gpu_computes_what_the_cpu_does(architecture: str) -> None:
    """In float64 both choose the same features, and values and outputs agree to rounding."""
    cfg = SAEConfig(architecture=architecture, d_in=64, d_sae=1024, **KINDS[architecture])  # type: ignore[arg-type]
    shapes = tensor_shapes(cfg).items()
    tensors = {name: 0.3 * normal(seed, *shape).double() for seed, (name, shape) in enumerate(shapes)}
    if cfg.pursuit is not None:
        tensors["W_dec"] = torch.nn.functional.normalize(tensors["W_dec"], dim=1)
    sae = SAE(cfg, **tensors)
    x = normal(99, 3, 20, 64).double()

    on_gpu = sae.to("cuda")
    acts = on_gpu.encode(x.cuda())

    torch.testing.assert_close(acts.to_dense().cpu(), sae.encode(x).to_dense())
    torch.testing.assert_close(on_gpu(x.cuda()).cpu(), sae(x))
    skipped = on_gpu.skip(x.cuda())
    assert (skipped is None) == (sae.skip(x) is None)
    assert acts.values.device.type == "cuda"
