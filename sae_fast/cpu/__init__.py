"""Fast implementations in PyTorch, made for the CPU; tensors may lie on any device.

Same signatures and results as `sae_fast.reference`, without gradients and without a dense [n, d_sae]: pre-activations are
computed into one reused chunk (`rows`, `blocks`) and reduced to entries at once. Where the processor multiplies bfloat16 much
faster than float32, encoders screen in bfloat16 and compute what passes in float32 (`screen`). Weights narrower than float32
are widened some features at a time, so that memory beyond weights and results stays within a few hundred megabytes.
"""

from sae_fast.cpu.backward import bias_gradient, sampled_dot, weight_gradient
from sae_fast.cpu.decode import decode, decode_error, transpose
from sae_fast.cpu.encode import encode_batch_topk, encode_threshold, encode_topk

__all__ = [
    "bias_gradient",
    "decode",
    "decode_error",
    "encode_batch_topk",
    "encode_threshold",
    "encode_topk",
    "sampled_dot",
    "transpose",
    "weight_gradient",
]
