"""Ways of encoding that are more than a threshold or a top-k, one to a file, built on `sae_fast.ops`.

`reference` states each of them as a formula in plain PyTorch.
"""

from sae_fast.architectures.abstopk import encode_abstopk
from sae_fast.architectures.groupmax import encode_groupmax
from sae_fast.architectures.matching_pursuit import encode_matching_pursuit
from sae_fast.architectures.temporal import predict

__all__ = ["encode_abstopk", "encode_groupmax", "encode_matching_pursuit", "predict"]
