"""What the names of published SAEs tell: hook, layer and width, by the rules of each publisher."""

import re

FORMATS = {
    None: "saelens",
    "connor_rob_hook_z": "connor_rob",
    "deepseek_r1": "deepseek",
    "dictionary_learning_1": "dictionary_learning",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "goodfire": "goodfire",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "openmoss",
    "mntss_clt_layer_transcoder": "circuit_tracer_clt",
    "mwhanna_transcoder": "circuit_tracer_plt",
    "qwen_scope": "qwen_scope",
    "temporal": "temporal",
}
"""Which of `sae_fast.formats` reads what each of SAELens's conversion functions is for."""

POWERS = {4: 12, 16: 14, 32: 15, 65: 16, 131: 17, 262: 18, 524: 19}
"""2 to which power is meant by so many thousand features; other numbers, such as 64k, are multiples of 1024."""

WIDTHS = {
    r"gpt2-small-res-jb": 24576,
    r"gpt2-small-res_\w+-ajt": 46080,
    r"gpt2-small-.*-v5-32k": 32768,
    r"gpt2-small-.*-v5-128k": 131072,
    r"goodfire-.*|deepseek-r1-distill-llama-8b-qresearch|llama-3-8b-it-res-jh|mistral-7b-res-wg": 65536,
    r"pythia-70m-deduped-\w+-sm|gemma-.*-matryoshka-dc|llama_scope_\w+_8x|llama_scope_r1_distill": 32768,
    r"llama_scope_\w+_32x": 131072,
    r"mntss-gemma-2-2b-2.5m-clt-as-per-layer": 98304,
}
"""Widths that no name tells, by release."""

SITES = {
    "a": "hook_attn_out", "m": "hook_mlp_out", "r": "hook_resid_post",
    "resid_post": "hook_resid_post", "resid_post_all": "hook_resid_post", "mlp_out": "hook_mlp_out",
    "mlp_out_all": "hook_mlp_out", "attn_out": "attn.hook_z", "attn_out_all": "attn.hook_z",
    "transcoder": "mlp.hook_in", "transcoder_all": "mlp.hook_in",
    "res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z", "transcoders": "ln2.hook_normalized",
}  # fmt: skip
"""Where an SAE reads, by the words of Llama Scope, Gemma Scope 2 and Gemma Scope."""

MODELS = {"gemma-scope-9b-it-res": "gemma-2-9b-it"}
"""Models that SAELens's directory has wrong."""


def hook_of(format_name: str, repo: str, sae_id: str, path: str) -> str | None:
    """The hook at which an SAE reads, if its name tells."""
    if found := re.match(r"(blocks\.\d+)\.(.*?hook_[a-z_]+?)(?:_\d+)?(?:__|$)", sae_id):
        return f"{found[1]}.{'attn.hook_z' if found[2] == 'hook_z' else found[2]}"
    if path.startswith("embedding/"):
        return "hook_embed"
    layer = layer_of(format_name, None, sae_id, path)
    if format_name in {"dictionary_learning", "qwen_scope", "goodfire", "deepseek"}:
        site = "hook_resid_post"
    elif format_name == "circuit_tracer_plt":
        site = "mlp.hook_in"
    else:
        site = SITES.get(_site(format_name, repo, sae_id, path), "")
    return f"blocks.{layer}.{site}" if site and layer is not None else None


def layer_of(format_name: str, hook_name: str | None, sae_id: str, path: str) -> int | None:
    """The layer that a hook or a name tells."""
    if format_name == "circuit_tracer_clt":
        return int(path)
    if hook_name == "hook_embed":
        return None
    for text in (hook_name or "", path, sae_id):
        if found := re.search(r"(?:blocks\.|layer_?|(?:^|[/_-])[lL](?=\d+(?:[AMRamr_.]|$)))(\d+)", text):
            return int(found[1])
    return None


def width_of(release: str, sae_id: str, path: str, repo: str, neuronpedia_id: str | None) -> int | None:
    """The number of features that a name tells."""
    if found := re.search(r"width_(\d+)([km])", path):
        return 1 << 20 if found[2] == "m" else 1 << POWERS[int(found[1])]
    if found := re.search(r"width-2pow(\d+)|_ds(\d+)_|hook_\w+?_(\d{3,})|-W(\d+)K-", f"{path} {sae_id} {repo}"):
        power, plain, suffix, thousands = found.groups()
        return 1 << int(power) if power else int(plain or suffix or 0) or 1024 * int(thousands)
    for pattern, width in WIDTHS.items():
        if re.fullmatch(pattern, release):
            return width
    found = re.search(r"-(\d+)k(?:__|$)", neuronpedia_id or "")
    return 1 << POWERS[int(found[1])] if found and int(found[1]) in POWERS else None


def l0_of(repo: str, path: str) -> float | None:
    """The mean number of active features that a name tells: Gemma Scope's folders and Qwen Scope's repositories."""
    found = re.search(r"average_l0_(\d+)", path) or re.search(r"-L0_(\d+)$", repo)
    return float(found[1]) if found else None


def _site(format_name: str, repo: str, sae_id: str, path: str) -> str:
    if format_name == "gemma_scope":
        return repo.rpartition("-")[2]
    if format_name == "gemma_scope_2":
        return path.partition("/")[0]
    found = re.match(r"l\d+([amr])", sae_id)
    return found[1] if found else ""
