"""Small random SAEs and transcoders in memory, for the tiny language models of `tiny.py`."""

import torch

from sae_fast import SAE, SAEConfig

D, D_SAE = 32, 48


def make_sae(seed: int = 0, **settings: object) -> SAE:
    """A random SAE: float32, about a fifth of its features active; topk, gated, transcoders and skip terms on demand."""
    cfg = SAEConfig(**{"architecture": "standard", "d_in": D, "d_sae": D_SAE, **settings})  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    W_dec = torch.nn.functional.normalize(normal(D_SAE, D), dim=1)
    tensors = {"W_enc": W_dec.T + 0.1 * normal(D, D_SAE), "W_dec": W_dec, "b_dec": 0.1 * normal(D)}
    if cfg.architecture == "gated":
        tensors |= {"b_gate": normal(D_SAE) - 1, "b_mag": 0.1 * normal(D_SAE), "r_mag": 0.2 * normal(D_SAE)}
    else:
        tensors["b_enc"] = 0.2 * normal(D_SAE) - 0.5
    if cfg.architecture == "jumprelu":
        tensors["threshold"] = 0.3 + normal(D_SAE).abs()
    if cfg.skip:
        tensors["W_skip"] = 0.2 * normal(D, D)
    return SAE(cfg, **tensors)


def transcoders(n_layers: int = 3, **settings: object) -> list[SAE]:
    """A transcoder for every MLP, from the normalised input of the MLP to what it adds to the residual stream."""
    return [
        make_sae(
            seed=10 + layer,
            hook_name=f"blocks.{layer}.ln2.hook_normalized",
            hook_name_out=f"blocks.{layer}.hook_mlp_out",
            transcoder=True,
            **settings,
        )
        for layer in range(n_layers)
    ]
