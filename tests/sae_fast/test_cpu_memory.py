"""Memory beyond the weights, measured from outside: the peak of a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MEASURE = """
import resource, sys, torch
from sae_fast import ops

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

n, d_in, d_sae = 256, 16, 1 << 20
rows = torch.randn(d_sae, d_in).to(torch.{dtype})
x, zeros = torch.randn(n, d_in), torch.zeros(d_sae)
weights, decoder = ops.prepare_encoder(rows.T), ops.prepare_decoder(rows)
before = peak_bytes()
if "{operation}" == "encode_topk":
    acts = ops.encode_topk(x, weights, zeros, 32)
else:
    acts = ops.encode_threshold(x, weights, zeros, zeros + 16)
ops.decode(acts, decoder, torch.zeros(d_in))
print(peak_bytes() - before)
"""

MOST_BYTES = 400 << 20
"""A dense float32 matrix of these activations would be 1 GiB."""


@pytest.mark.parametrize("screen", ["auto", "never"])
@pytest.mark.parametrize(("operation", "dtype"), [("encode_topk", "float32"), ("encode_threshold", "bfloat16")])
def test_a_million_features_take_bounded_memory(operation: str, dtype: str, screen: str) -> None:
    """Encoding and decoding with 1,048,576 features stay within 400 MiB beyond the weights."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE.format(operation=operation, dtype=dtype)],
        env=os.environ | {"SAE_FAST_CPU_SCREEN": screen}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert int(result.stdout) < MOST_BYTES
