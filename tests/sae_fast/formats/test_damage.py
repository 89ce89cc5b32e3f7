"""What is wrong with a file is said in one sentence that names the file and the tensor, and nothing is loaded."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import FormatError, NonFiniteError, SaeFastError
from sae_fast.formats import info

Edit = Callable[[dict[str, Any], str], None]


def leave_out(tensors: dict[str, Any], key: str) -> None:
    del tensors[key]


def turn(tensors: dict[str, Any], key: str) -> None:
    tensors[key] = tensors[key].unsqueeze(-1).repeat(*([1] * tensors[key].ndim), 2)


def make_integer(tensors: dict[str, Any], key: str) -> None:
    tensors[key] = tensors[key].to(torch.int64)


def add(tensors: dict[str, Any], _: str) -> None:
    tensors["noise"] = torch.ones(3)


def poison(tensors: dict[str, Any], key: str) -> None:
    tensors[key].view(-1)[-1] = float("nan")


EDITS: dict[str, tuple[Edit, type[SaeFastError], str]] = {
    "missing": (leave_out, FormatError, "no tensor {key}|{key}"),
    "shape": (turn, FormatError, "{key}"),
    "dtype": (make_integer, FormatError, "dtype of {key}: expected float64, float32, float16 or bfloat16, got int64"),
    "unknown": (add, FormatError, "unknown tensors noise: expected only "),
    "nan": (poison, NonFiniteError, "{key} holds NaN or infinite values"),
}


def state_of(sample: published.Sample) -> tuple[str, dict[str, Any], str]:
    """(file, its tensors, the key of a bias by which no format is told apart)."""
    names = sample.tensor_files()
    name = sample.file if sample.file in names else names[0]
    tensors = sample.files[name]
    keys = (
        "b_enc",
        "encoder.bias",
        "encoder_linear.bias",
        "r_mag",
        "latent_bias",
        "b_E",
        "b_enc_1",
        "attn_layers.0.k_ctx.bias",
    )
    return name, tensors, next(key for key in keys if key in tensors)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", published.SAMPLES)
def test_every_format_names_file_and_tensor(name: str, edit: str, tmp_path: Path) -> None:
    """A tensor missing, of another shape or dtype, unknown, or not a number."""
    sample = published.SAMPLES[name]()
    file, tensors, key = state_of(sample)
    change, kind, message = EDITS[edit]
    change(tensors, key)
    path = sample.write(tmp_path)
    with pytest.raises(kind, match=rf"{re.escape(file)}.*({message.format(key=re.escape(key))})"):
        sae_fast.load(path)


@pytest.mark.parametrize("name", published.SAMPLES)
def test_half_a_download_says_so(name: str, tmp_path: Path) -> None:
    """A file that ends too soon, or holds something else, is named and not loaded in part; info sees it too."""
    sample = published.SAMPLES[name]()
    file = state_of(sample)[0]
    path = sample.write(tmp_path)
    whole = (tmp_path / sample.folder / file).read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>404 Not Found</html>", b""):
        (tmp_path / sample.folder / file).write_bytes(content)
        with pytest.raises(FormatError, match=rf"{re.escape(file)}: not a"):
            info(path)
        with pytest.raises(FormatError, match=rf"{re.escape(file)}: not a"):
            sae_fast.load(path)


@pytest.mark.parametrize("name", published.SAMPLES)
def test_broken_configurations_say_so(name: str, tmp_path: Path) -> None:
    """A configuration that is not JSON or YAML, or not a mapping, names the file."""
    names = [file for file in published.SAMPLES[name]().files if file.endswith((".json", ".yaml"))]
    for file in names:
        for n, content in enumerate((b"{", b"[1, 2]", b"\xff\xfe")):
            sample = published.SAMPLES[name]()
            path = sample.write(tmp_path / str(n))
            (tmp_path / str(n) / sample.folder / file).write_bytes(content)
            with pytest.raises(FormatError, match=rf"{re.escape(file)}(: not|: expected)"):
                info(path)


@pytest.mark.parametrize("name", published.SAMPLES)
def test_one_format_alone_knows_each(name: str, tmp_path: Path) -> None:
    """Detection is by content: another folder's name changes what is known of the hook, not the format."""
    sample = published.SAMPLES[name]()
    if not name.startswith(("gemma_scope_2-clt", "qwen_scope")):
        sample.folder = "downloads/x"
    sample.around = {}

    assert info(sample.write(tmp_path)).format == name.split("-")[0]
