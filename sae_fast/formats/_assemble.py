"""From a `Description` to an `SAE`: shapes, dtypes and keys are checked against the headers before any weight is read."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sae_fast.config import tensor_shapes
from sae_fast.errors import ArgumentError, FormatError, NonFiniteError
from sae_fast.formats._description import Description, Stored, Tensors
from sae_fast.sae import SAE
from sae_fast.sources import Source, TensorFile

FEATURE_AXIS = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "threshold": 0, "b_gate": 0, "b_mag": 0, "r_mag": 0}
"""Where the features of a tensor lie, by our name."""

DECODER = ("W_dec",)
"""What an encoder-only SAE does without."""

MAY_BE_INFINITE = ("threshold",)
"""A threshold of infinity is a feature that was switched off."""


def assemble(
    source: Source,
    description: Description,
    features: Tensor | None = None,
    encoder_only: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> SAE:
    """Read the weights of an SAE: all of it, or some features, or the encoder alone.

    `dtype`, where it is wider than the stored one, is that in which factors are folded; weights are then of that dtype.

    Raises `FormatError` for a missing or unknown key, or a shape or dtype that does not fit, and `NonFiniteError` for NaN or
    infinite weights; nothing is kept then.
    """
    files = check(source, description)
    shapes = tensor_shapes(description.cfg)
    tensors: Tensors = {}
    for name, stored in description.tensors.items():
        if encoder_only and name in DECODER and not description.encoder_needs_decoder:
            continue
        file = files[stored.file]
        tensor = _read(file, stored, name, shapes[name], features)
        _require_finite(file, stored, name, tensor)
        tensors[name] = tensor.to(device, torch.promote_types(tensor.dtype, dtype or tensor.dtype))
    tensors |= {name: torch.zeros(shapes[name], device=device) for name in description.zeros}
    if description.finish is not None:
        tensors = description.finish(tensors)
    if encoder_only:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in DECODER}
    cfg = description.cfg if features is None else description.cfg.select(features.tolist())
    return SAE(cfg, **tensors)


def check(source: Source, description: Description) -> dict[str, TensorFile]:
    """The files of a description, opened, their keys, shapes and dtypes found to be what it says. Reads headers only."""
    files = {name: source.folder.tensors(name) for name in sorted({stored.file for stored in description.tensors.values()})}
    shapes = tensor_shapes(description.cfg)
    if missing := sorted(shapes.keys() - description.tensors.keys() - description.zeros):
        raise FormatError(f"{source.path}: an SAE of this kind needs {', '.join(missing)}")
    for name, stored in description.tensors.items():
        _check_stored(files[stored.file], stored, shapes[name])
    for name, file in files.items():
        used = {stored.key for stored in description.tensors.values() if stored.file == name}
        _refuse_unknown(file, used, description)
    return files


def dtype_of(source: Source, description: Description) -> torch.dtype:
    """Dtype of the weights, from the header."""
    stored = description.tensors.get("W_enc") or description.tensors["W_dec"]
    return source.folder.tensors(stored.file).dtypes[stored.key]


def _check_stored(file: TensorFile, stored: Stored, shape: tuple[int, ...]) -> None:
    if stored.key not in file.shapes:
        raise FormatError(f"{file.place}: no tensor {stored.key}", got=_listed(file.shapes))
    found, dtype = file.shapes[stored.key], file.dtypes[stored.key]
    expected = stored.shape or (tuple(reversed(shape)) if stored.transposed else shape)
    if stored.broadcast:
        fits, wanted = found in ((), (1,)), "one number"
    else:
        inner = found[len(found) - len(expected) :]
        padded = stored.squeezed and len(found) > len(expected) and all(n == 1 for n in found[: len(found) - len(expected)])
        fits, wanted = found == expected or (padded and inner == expected), str(list(expected))
    if not fits:
        raise FormatError(f"{file.place}: shape of {stored.key}", expected=wanted, got=list(found))
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise FormatError(
            f"{file.place}: dtype of {stored.key}", expected="float64, float32, float16 or bfloat16", got=_name(dtype)
        )


def _refuse_unknown(file: TensorFile, used: set[str], description: Description) -> None:
    keys = set(file.shapes) - used - description.ignored
    unknown = sorted(key for key in keys if not key.startswith(description.ignored_prefixes or ("\0",)))
    if unknown:
        raise FormatError(
            f"{file.place}: unknown tensors {_listed(unknown)}",
            expected=f"only {_listed(sorted(used))}",
            advice="What they mean for the SAE is not known, so nothing is guessed",
        )


def _read(file: TensorFile, stored: Stored, name: str, shape: tuple[int, ...], features: Tensor | None) -> Tensor:
    """One tensor in our orientation; W_enc as a view of rows by feature, which is how it is used."""
    axis = FEATURE_AXIS.get(name) if stored.feature_axis is None else stored.feature_axis
    if stored.broadcast:
        n = shape[0] if features is None else len(features)
        tensor = file.read(stored.key).reshape(()).float().expand(n).clone()
    elif features is None or axis is None:
        tensor = file.read(stored.key)
    else:
        tensor = file.read_along(stored.key, len(shape) - 1 - axis if stored.transposed else axis, features)
    if stored.squeezed:
        tensor = tensor.reshape(tensor.shape[tensor.ndim - len(shape) :])
    if stored.transposed:
        tensor = tensor.permute(*reversed(range(tensor.ndim)))
    if name == "W_enc" and tensor.ndim == 2:
        tensor = tensor.T.contiguous().T
    return tensor if stored.then is None else stored.then(tensor)


def _require_finite(file: TensorFile, stored: Stored, name: str, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        raise FormatError(f"{file.place}: {stored.key} is empty")
    low, high = torch.aminmax(tensor)
    infinite_is_meant = name in MAY_BE_INFINITE and not torch.isnan(high)
    if not torch.isfinite(low) or not (torch.isfinite(high) or infinite_is_meant):
        raise NonFiniteError(
            f"{file.place}: {stored.key} holds NaN or infinite values", advice="The file is damaged or training diverged"
        )


def features_of(features: object, d_sae: int) -> Tensor:
    """The chosen features as int64. Raises `ArgumentError` unless they are distinct and lie below d_sae."""
    chosen = torch.as_tensor(features, dtype=torch.int64).reshape(-1)
    if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= d_sae or len(chosen.unique()) != len(chosen):
        raise ArgumentError("features", expected=f"distinct feature indices from 0 to {d_sae - 1}", got=chosen.tolist()[:8])
    return chosen


def _listed(names: Iterable[str], most: int = 12) -> str:
    listed = list(names)
    rest = f", … ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest if listed else "none"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
