"""The hook mechanism on plain modules: tuples, keyword arguments, and modules that offer nothing to hook."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_fast.errors import HookNotFoundError
from sae_fast.lm.families import HookPoint
from sae_fast.lm.hooks import normalized, visiting


class Inner(nn.Module):
    """A layer as transformers 4 had them: takes a keyword, returns a tuple."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, *, hidden_states: Tensor, scale: float = 1.0) -> Any:
        return self.wrap(hidden_states * scale)


class Outer(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.inner = Inner(wrap)

    def forward(self, x: Tensor) -> Any:
        return self.inner(scale=2.0, hidden_states=x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t,), lambda t: (t, None, "rest")], ids=["tensor", "one", "three"])
def test_the_whole_batch_is_read_and_replaced_in_a_tensor_and_in_a_tuple(x: Tensor, wrap: Any) -> None:
    """A layer's output is its tensor, or the first of its tuple, never the first item of the batch."""
    model, seen = Outer(wrap), []

    def visit(name: str, activation: Tensor) -> Tensor:
        seen.append(activation)
        return activation + 1

    with visiting(model, {"hook": HookPoint("inner", "output")}, visit):
        output = model(x)

    assert torch.equal(seen[0], 2 * x)
    got, expected = (output, wrap(2 * x + 1)) if isinstance(output, Tensor) else (output[0], wrap(2 * x + 1)[0])
    assert torch.equal(got, expected)
    assert isinstance(output, Tensor) or output[1:] == wrap(x)[1:]


def test_an_input_given_by_keyword_is_read_and_replaced(x: Tensor) -> None:
    """`hidden_states=…` is found among the keyword arguments."""
    model = Outer(lambda t: t)

    with visiting(model, {"hook": HookPoint("inner", "input")}, lambda _, activation: activation + 1):
        assert torch.equal(model(x), 2 * (x + 1))

    assert torch.equal(model(x), 2 * x)


def test_outputs_and_inputs_without_a_tensor_are_refused(x: Tensor) -> None:
    """A module that gives a dict, or is called without a tensor, has no activation to hook."""

    class Constant(nn.Module):
        def forward(self) -> Tensor:
            return torch.ones(1)

    model = Outer(lambda t: {"t": t})
    with (
        visiting(model, {"hook": HookPoint("inner", "output")}, lambda *_: None),
        pytest.raises(HookNotFoundError, match="expected a tensor or a tuple that begins with one, got dict"),
    ):
        model(x)
    constant = nn.Sequential(Constant())
    with (
        visiting(constant, {"hook": HookPoint("0", "input")}, lambda *_: None),
        pytest.raises(HookNotFoundError, match="Hook its output instead"),
    ):
        constant[0]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalized_is_computed_in_float32_and_keeps_the_dtype(x: Tensor, dtype: torch.dtype) -> None:
    """LayerNorm centres, RMSNorm does not; half-precision input is normalised as its float32 value and then rounded."""
    layer_norm, rms_norm = nn.LayerNorm(4, eps=1e-3), nn.RMSNorm(4, eps=1e-3)
    y = (10 + x).to(dtype)
    wide = y.double()
    variance = wide.var(-1, keepdim=True, unbiased=False)

    expected_layer = (wide - wide.mean(-1, keepdim=True)) / (variance + 1e-3).sqrt()
    expected_rms = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt()

    for norm, expected in ((layer_norm, expected_layer), (rms_norm, expected_rms)):
        got = normalized(norm, y)
        assert got.dtype == dtype
        resolution = torch.finfo(dtype).eps * expected.abs().max() + 64 * torch.finfo(torch.float32).eps * y.abs().max()
        assert (got.double() - expected).abs().max() <= resolution
