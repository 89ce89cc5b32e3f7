"""The operations as PyTorch sees them: registered with `torch.library`, with gradients on active features only.

`sae_fast.ops` goes through here where gradients are needed or `torch.compile` is tracing. `operators` wraps each operation in a
custom operator of tensors and numbers, which any implementation computes, `functions` gives them the signatures of the
operations, and `gradients` adds what they pass back:

* `encode_*`: to x, the encoder's rows, the bias, and gain and offset, through the stored entries. Thresholds get no gradient,
  and neither does the choice of features: training of JumpReLU adds its own straight-through estimators;
* `decode`, `decode_error`: to the activations, the decoder's rows, b_dec, and x.

A gradient by weights is dense [d_sae, d], zero for features that were not active. Gradients of gradients are not available.
"""

from sae_fast.autograd import gradients as _gradients
from sae_fast.autograd.functions import decode, decode_error, encode_batch_topk, encode_threshold, encode_topk

__all__ = ["decode", "decode_error", "encode_batch_topk", "encode_threshold", "encode_topk"]

_gradients.register()
