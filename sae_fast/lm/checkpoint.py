"""A Hugging Face causal LM and its tokenizer from a folder or the hub, every failure told in one clear error."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_fast.errors import ArgumentError, FormatError, MissingExtraError, ModelNotFoundError, NonFiniteError

_SHARED_WITH_TOKENIZER = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)


def load(
    source: str | Path, device: str | torch.device, dtype: str | torch.dtype | None, arguments: dict[str, Any]
) -> tuple[Any, Any]:
    """The model, in evaluation mode on its device with frozen weights, and the tokenizer; see `sae_fast.lm.load`."""
    transformers = _transformers()
    tokenizer = load_tokenizer(source, arguments)
    place, arguments = _locate(source, arguments)
    return _load_model(transformers.AutoModelForCausalLM, "language model", place, device, dtype, arguments), tokenizer


def load_tokenizer(source: str | Path, arguments: dict[str, Any]) -> Any:
    """The tokenizer of a model; of the arguments for the model, it gets those that say where to load from."""
    place, arguments = _locate(source, arguments)
    shared = {key: arguments[key] for key in _SHARED_WITH_TOKENIZER if key in arguments}
    tokenizer = _load_part(_transformers().AutoTokenizer, "tokenizer", place, shared)
    _check_tokenizer(tokenizer, place)
    return tokenizer


def load_module(
    source: str | Path,
    model_class: Any,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    arguments: dict[str, Any],
) -> nn.Module:
    """A model of any class, in evaluation mode on its device with frozen weights; see `sae_fast.lm.load_module`."""
    transformers = _transformers()
    found = getattr(transformers, model_class, None) if isinstance(model_class, str) else model_class
    if not hasattr(found, "from_pretrained"):
        raise ArgumentError("model_class", expected="a class of transformers, such as AutoModel", got=repr(model_class))
    place, arguments = _locate(source, arguments)
    return _load_model(found, "model", place, device, dtype, arguments)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        advice = 'Run `pip install "sae-fast[lm]"`'
        raise MissingExtraError("transformers is needed to run a language model", got=str(error), advice=advice) from error
    return transformers


def _load_model(
    model_class: Any,
    part: str,
    place: str,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    arguments: dict[str, Any],
) -> Any:
    arguments = {"dtype": _dtype(dtype) or "auto"} | arguments
    if "quantization_config" in arguments:
        # A quantised model is made where it will stay: it cannot be moved.
        arguments = {"device_map": {"": str(device)}} | arguments
    model, report = _load_part(model_class, part, place, arguments | {"output_loading_info": True})
    if missing := sorted(report["missing_keys"]):
        raise FormatError(
            f"{place}: weights",
            expected="every weight of the model",
            got=f"{len(missing)} missing ({', '.join(missing[:3])}, …)",
        )
    check_finite(model, place)
    if "device_map" not in arguments and not getattr(model, "is_quantized", False):
        model = model.to(device)
    return model.eval().requires_grad_(False)


def check_finite(model: nn.Module, place: str) -> None:
    """Raise `NonFiniteError` where a weight holds NaN or infinity; weights of less than two bytes are not looked at."""
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2:
            continue
        # A sum is one pass without a temporary of the weight's size, and is not finite where any term is not.
        if not weight.detach().sum(dtype=torch.float32).isfinite() and not weight.detach().isfinite().all():
            n_bad = int(weight.numel() - weight.detach().isfinite().sum())
            raise NonFiniteError(
                f"{place}: weight {name}",
                expected="finite numbers",
                got=f"NaN or infinity in {n_bad:,} of {weight.numel():,}",
                advice="The checkpoint is damaged: download it or train it again",
            )


def _locate(source: str | Path, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The folder or hub name to load from, and the arguments with `local_files_only` for a folder."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        inside = folder / arguments.get("subfolder", "")
        if not (inside / "config.json").is_file():
            found = ", ".join(sorted(path.name for path in inside.iterdir())[:8]) if inside.is_dir() else "no such folder"
            raise ModelNotFoundError(
                f"{inside.resolve()} is not a language model's folder",
                expected="config.json, weights and a tokenizer",
                got=found or "an empty folder",
                advice="Name a folder that `save_pretrained` wrote",
            )
        return str(folder), {"local_files_only": True} | arguments
    name = str(source)
    if (
        isinstance(source, Path)
        or folder.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or folder.exists()
    ):
        raise ModelNotFoundError(
            f"no language model at {folder.absolute()}",
            expected="a folder with config.json, weights and a tokenizer",
            got="a file" if folder.exists() else "no such folder",
            advice="Check the path, or give a name on the Hugging Face hub (owner/model)",
        )
    return name, arguments


def _load_part(auto_class: Any, part: str, place: str, arguments: dict[str, Any]) -> Any:
    local = Path(place).is_dir()
    try:
        return auto_class.from_pretrained(place, **arguments)
    except torch.OutOfMemoryError:
        raise
    except OSError as error:
        if local:
            raise FormatError(f"{place}: cannot load the {part}", got=_brief(error)) from error
        raise ModelNotFoundError(
            f"no {part} {place!r}: neither a local folder ({Path(place).absolute()}) nor to be had from the Hugging Face hub",
            got=_brief(error),
            advice="Check the spelling and the connection, or give the path of a local folder",
        ) from error
    except TypeError as error:
        raise ArgumentError(f"{place}: from_pretrained refuses its arguments", got=_brief(error)) from error
    except Exception as error:  # configs, tokenizers and weights each fail with exceptions of their own, some of them bare
        raise FormatError(f"{place}: cannot load the {part}", got=f"{type(error).__name__}: {_brief(error)}") from error


def _check_tokenizer(tokenizer: Any, place: str) -> None:
    # Without tokenizer files, transformers 5 makes an empty tokenizer of the model's kind instead of failing.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise FormatError(
            f"{place}: no tokenizer",
            expected="tokenizer.json or tokenizer.model beside config.json",
            got=f"a vocabulary of {len(tokenizer)} tokens",
            advice="Save the tokenizer into the folder (tokenizer.save_pretrained(folder))",
        )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArgumentError("dtype", expected="float32, bfloat16, float16 or a torch dtype", got=repr(dtype))
    return found


def _brief(error: BaseException) -> str:
    """The first lines of a message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
