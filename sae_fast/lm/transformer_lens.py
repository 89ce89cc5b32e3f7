"""The LM interface on TransformerLens: the TransformerBridge of version 4, and the HookedTransformer of version 3 and older.

Hooks are TransformerLens's own hook points. What they hold is what the model computes as it was given: a model whose weights
were processed (folded, centred) gives the activations of that. `attn.hook_z` has its heads flattened, as on every backend.
"""

import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import MissingExtraError
from sae_fast.lm import checkpoint, generation, hooks
from sae_fast.lm.families import HookPoint, module_point
from sae_fast.lm.generation import Generation
from sae_fast.lm.hooked import HookedLM
from sae_fast.lm.interface import Unembed
from sae_fast.lm.positions import Window
from sae_fast.lm.splice import Splice
from sae_fast.lm.transformers import TransformersLM

_OFFERED = (
    "hook_resid_pre",
    "ln1.hook_normalized",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_in",
    "ln2.hook_normalized",
    "mlp.hook_in",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Hooks of a block that the interface names, in the order of a pass; any other of the model's own hook points will do too."""


class LensPoint(HookPoint):
    """A hook point of TransformerLens; `module` is its name there."""


def load(
    source: str | Path, device: str | torch.device, dtype: str | torch.dtype | None, arguments: dict[str, Any]
) -> "TransformerBridgeLM":
    """A folder or hub model as a TransformerBridge; see `sae_fast.lm.load`. Attention is eager if `arguments` say nothing."""
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        advice = 'Run `pip install "sae-fast[transformer-lens]"`'
        raise MissingExtraError("TransformerLens 4 is needed for this backend", got=str(error), advice=advice) from error
    model, tokenizer = checkpoint.load(source, device, dtype, {"attn_implementation": "eager"} | arguments)
    place = None if "device_map" in arguments else model.device
    with _quiet():
        bridge = TransformerBridge.boot_transformers(
            str(source), hf_model=model, tokenizer=tokenizer, device=place, dtype=model.dtype
        )
    bridge.requires_grad_(False)
    return TransformerBridgeLM(bridge, tokenizer)


class TransformerBridgeLM(TransformersLM):
    """A TransformerBridge behind the `LanguageModel` interface.

    Args:
        bridge: the bridge to a causal LM, as it is (weight processing included).
        tokenizer: its tokenizer; the bridge's own if not given.
    """

    def __init__(self, bridge: Any, tokenizer: Any = None) -> None:
        super().__init__(bridge.original_model, bridge.tokenizer if tokenizer is None else tokenizer)
        self.bridge = bridge.eval()
        # With rotary positions, which are not added to the stream, this alias leads to something else.
        self._lens_names = {*bridge.hook_dict} - ({"hook_pos_embed"} if "pos_embed.hook_out" not in bridge.hook_dict else set())
        parallel = bool(getattr(bridge.cfg, "parallel_attn_mlp", False))
        self._points = _offered(self._lens_names, int(bridge.cfg.n_layers), between=not parallel)
        self._norm: Any = getattr(bridge, "ln_final", None)

    def unembed(self) -> Unembed:
        """See `LanguageModel`."""
        plain = super().unembed()
        weight, offset = getattr(self._norm, "weight", None), getattr(self._norm, "uses_weight_offset", False)
        norm_weight = torch.ones(self.d_model) if weight is None else weight.detach() + (1.0 if offset else 0.0)
        return Unembed(
            W_U=plain.W_U,
            norm_weight=None if self._norm is None else norm_weight,
            bias=plain.bias,
            softcap=plain.softcap,
            centred=self._norm is not None and not self._norm.uses_rms_norm,
        )

    def _point(self, hook_name: str) -> HookPoint:
        if hook_name in self._points:
            return self._points[hook_name]
        if hook_name in self._lens_names:
            return LensPoint(hook_name, "output")
        return super()._point(hook_name)

    @contextmanager
    def _visiting(self, points: Mapping[str, HookPoint], visit: hooks.Visitor) -> Iterator[None]:
        lens, modules = _lens_hooks(points, visit, self.model.dtype)
        with _quiet(), self.bridge.hooks(lens), super()._visiting(modules, visit):
            yield


class HookedTransformerLM(HookedLM):
    """A HookedTransformer (TransformerLens 3 and older) behind the `LanguageModel` interface.

    Generation recomputes the whole text for each token, for it does not take an attention mask beside a cache; of the options
    only `do_sample`, `temperature`, `top_k` and `eos_token_id` are known.
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.model = model.eval()
        self.tokenizer = model.tokenizer if tokenizer is None else tokenizer
        cfg = model.cfg
        self.d_model, self.d_vocab, self.n_ctx = int(cfg.d_model), int(cfg.d_vocab_out), int(cfg.n_ctx)
        self.bos_token_id = getattr(self.tokenizer, "bos_token_id", None)
        self._points = _offered(model.hook_dict, int(cfg.n_layers))
        self._widths, self._shape = {}, torch.Size([1, 1])

    @property
    def _embedding(self) -> Tensor:
        return self.model.embed.W_E

    def unembed(self) -> Unembed:
        """See `LanguageModel`. Weights are the model's own: norms that were folded into them are ones here."""
        norm = getattr(self.model, "ln_final", None)
        weight = getattr(norm, "w", None)
        softcap = float(getattr(self.model.cfg, "output_logits_soft_cap", -1.0))
        return Unembed(
            W_U=self.model.W_U.detach(),
            norm_weight=torch.ones(self.d_model, device=self._embedding.device) if weight is None else weight.detach(),
            bias=self.model.b_U.detach(),
            softcap=softcap if softcap > 0 else None,
            centred=str(self.model.cfg.normalization_type).startswith("LN"),
        )

    def _run(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(token_ids, return_type="logits", attention_mask=mask, prepend_bos=False, padding_side=None)

    def _point(self, hook_name: str) -> HookPoint:
        if hook_name in self._points:
            return self._points[hook_name]
        if hook_name in self.model.hook_dict:
            return LensPoint(hook_name, "output")
        return module_point(self.model, hook_name, "this HookedTransformer", list(self.model.hook_dict))

    @contextmanager
    def _visiting(self, points: Mapping[str, HookPoint], visit: hooks.Visitor) -> Iterator[None]:
        before = self.model.cfg.use_hook_mlp_in
        if any(point.module.endswith("hook_mlp_in") for point in points.values()):
            self.model.set_use_hook_mlp_in(True)
        lens, modules = _lens_hooks(points, visit, self._embedding.dtype)
        try:
            with self.model.hooks(lens), hooks.visiting(self.model, modules, visit):
                yield
        finally:
            self.model.set_use_hook_mlp_in(before)

    def _generate(self, token_ids: Tensor, mask: Tensor, splice: Splice, options: dict[str, Any]) -> Generation:
        token_ids, mask = self._checked(token_ids, mask)
        self._check_room(mask, options["max_new_tokens"])
        end_ids = generation.end_ids_of(self.model, {"eos_token_id": getattr(self.tokenizer, "eos_token_id", None)} | options)
        functions = splice.functions()

        def next_logits(ids: Tensor, whole_mask: Tensor) -> Tensor:
            splice.begin(Window.continuing(ids, mask, 0))
            if splice.hooks_beforehand:
                with splice.reading_beforehand():
                    self.activations(ids, splice.hooks_beforehand, whole_mask, functions)
            return self.logits(ids, whole_mask, functions)[:, -1]

        return self._generation(generation.recompute(next_logits, token_ids, mask, end_ids, options), mask, end_ids)


def _offered(hook_points: Container[str], n_layers: int, between: bool = True) -> dict[str, HookPoint]:
    """The interface's names that the model has, in the order of a pass; `between`: also the stream between its branches."""
    blocks = [(f"blocks.{layer}.{name}", name) for layer in range(n_layers) for name in _OFFERED]
    found: dict[str, HookPoint] = {}
    for hook_name, name in [("hook_embed", ""), ("hook_pos_embed", ""), *blocks, ("ln_final.hook_normalized", "")]:
        # In a bridge both names are the input of the MLP's norm; an edit of the stream must reach the sum as well.
        norm_input = hook_name.removesuffix(name) + "ln2.hook_in"
        in_bridge = name in ("hook_resid_mid", "hook_mlp_in")[not between :] and norm_input in hook_points
        if in_bridge or hook_name in hook_points:
            shared = in_bridge and name == "hook_resid_mid"
            found[hook_name] = LensPoint(norm_input if in_bridge else hook_name, "stream" if shared else "output")
        elif name == "mlp.hook_in" and hook_name.replace("hook_in", "hook_post") in hook_points:
            found[hook_name] = HookPoint(hook_name.removesuffix(".hook_in"), "input")
    return found


def _lens_hooks(
    points: Mapping[str, HookPoint], visit: hooks.Visitor, dtype: torch.dtype
) -> tuple[list[tuple[str, Callable[..., Tensor | None]]], dict[str, HookPoint]]:
    """(Hook points of TransformerLens with their functions, places among the modules that remain.)"""
    lens = [(name, point) for name, point in points.items() if isinstance(point, LensPoint)]
    modules = {name: point for name, point in points.items() if not isinstance(point, LensPoint)}
    return [(point.module, _lens_hook(name, point, visit, dtype)) for name, point in lens], modules


def _lens_hook(name: str, point: HookPoint, visit: hooks.Visitor, dtype: torch.dtype) -> Callable[..., Tensor | None]:
    """A TransformerLens hook function that visits an activation `[batch, pos, d]` in the model's dtype."""

    def hook_function(activation: Tensor, hook: Any) -> Tensor | None:
        given = activation.flatten(2) if activation.ndim == 4 else activation
        given = given.to(dtype) if given.is_floating_point() else given
        new = visit(name, given)
        if new is None or new is given:
            return None
        new = new.reshape(activation.shape).to(activation.dtype)
        if point.kind != "stream":
            return new
        activation.copy_(new)
        return None

    return hook_function


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TransformerLens's notices about edits of normalised activations, which are meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"transformer_lens\b.*")
        warnings.filterwarnings("ignore", message=".*native-autograd path.*")
        yield
