"""The same function in other words: formats that know one way only can then hold what does it another way."""

from dataclasses import replace

from torch import Tensor

from sae_fast.sae import SAE


def unscaled(sae: SAE) -> SAE:
    """The same function and activations without constant_scalar_rescale, where the factor can be part of the weights.

    Products with the factor are rounded to the dtype of the weights.
    """
    cfg = sae.cfg
    if cfg.normalize_activations != "constant_scalar_rescale" or cfg.tied or cfg.temporal is not None:
        return sae
    if cfg.rescale_acts_by_decoder_norm:
        sae = sae.fold_decoder_norm()
    factor = cfg.input_scale
    scaled: dict[str, Tensor | None] = {"W_enc": (sae.W_enc.to(sae.wide) * factor).to(sae.dtype)}
    if not cfg.transcoder:
        scaled |= {"W_dec": (sae.W_dec.to(sae.wide) / factor).to(sae.dtype), "b_dec": sae.b_dec / factor}
    return sae.replace(replace(sae.cfg, normalize_activations="none", input_scale=1.0), **scaled)


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
