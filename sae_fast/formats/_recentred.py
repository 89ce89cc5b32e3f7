"""The same SAE with b_dec subtracted from its input, or not: some formats know only one of the two."""

from dataclasses import replace

from torch import Tensor

from sae_fast.sae import SAE


def recentred(sae: SAE, subtracts_b_dec: bool) -> SAE:
    """The same function with `apply_b_dec_to_input` as asked for; what changes is in the biases of the encoder."""
    cfg = sae.cfg
    if cfg.apply_b_dec_to_input == subtracts_b_dec:
        return sae
    shift = sae.b_dec.double() @ sae.W_enc.double() * (1 if subtracts_b_dec else -1)
    shifted: dict[str, Tensor | None] = {}
    for name in ("b_enc", "b_gate", "b_mag"):
        bias = getattr(sae, name)
        if bias is not None:
            gain = sae.r_mag.double().exp() if name == "b_mag" and sae.r_mag is not None else 1
            shifted[name] = (bias.double() + shift * gain).to(sae.wide)
    return sae.replace(replace(cfg, apply_b_dec_to_input=subtracts_b_dec), **shifted)
