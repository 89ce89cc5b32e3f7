"""The choice of an implementation, and the reasons for a refusal."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_fast import cpu, implementations, reference
from sae_fast.errors import ImplementationUnavailableError
from sae_fast.implementations import choose, why_not_triton

ROOT = Path(__file__).resolve().parents[2]
ONES = torch.ones(2, 2)


@pytest.fixture
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Triton were installed and its interpreter switched on."""
    monkeypatch.setattr(implementations, "_has_triton", lambda: True)
    monkeypatch.setattr(implementations, "_interprets", lambda: True)


def test_without_triton_only_its_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the extra that brings Triton; "auto" computes all the same."""
    monkeypatch.setattr(implementations, "_has_triton", lambda: False)

    assert choose("decode", "auto", ONES, weights=ONES) is cpu
    with pytest.raises(
        ImplementationUnavailableError, match=r"decode: Triton is not installed.*sae-fast\[triton\].*impl='auto'"
    ):
        choose("decode", "triton", ONES, weights=ONES)


@pytest.mark.usefixtures("_interpreted")
def test_each_obstacle_has_its_reason() -> None:
    """Device, mixture of devices, dtype, and an operation without a kernel are told apart."""
    meta = torch.ones(2, 2, device="meta")

    assert why_not_triton("decode", (ONES, ONES), ONES) is None
    assert "different devices: cpu, meta" in str(why_not_triton("decode", (ONES, meta), meta))
    assert "float32, bfloat16 or float16, not torch.float64" in str(why_not_triton("decode", (ONES,), ONES.double()))
    assert "no Triton kernel" in str(why_not_triton("unheard_of", (ONES,), ONES))


def test_the_cpu_is_refused_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the CPU reach kernels only under Triton's interpreter."""
    monkeypatch.setattr(implementations, "_has_triton", lambda: True)
    monkeypatch.setattr(implementations, "_interprets", lambda: False)

    assert "CUDA device, or TRITON_INTERPRET=1; these are on cpu" in str(why_not_triton("decode", (ONES,), ONES))


@pytest.mark.usefixtures("_interpreted")
def test_auto_never_interprets() -> None:
    """The interpreter is slow: on the CPU it is used only by name."""
    assert choose("decode", "auto", ONES, weights=ONES) is cpu
    assert choose("decode", "reference", ONES, weights=ONES) is reference


def test_triton_is_imported_only_by_name() -> None:
    """Encoding and decoding on the CPU do not load Triton's kernels."""
    code = (
        "import sys, torch; from sae_fast import ops; before = 'triton' in sys.modules; w = torch.ones(2, 3)\n"
        "a = ops.encode_topk(torch.ones(1, 2), w, torch.zeros(3), 1); ops.decode(a, w.T, torch.zeros(2))\n"
        "print(before or 'triton' not in sys.modules, any(m.startswith('sae_fast.kernels.') for m in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert result.stdout.split() == ["True", "False"], result.stderr
