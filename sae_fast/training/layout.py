"""Which process computes what of a step: rows of the batch, features of the dictionary, or a part of both.

Processes form a grid of `rows` x `features`. Those along `rows` hold the same features and see different tokens; their
gradients are averaged. Those along `features` see the same tokens and hold different features, as DTensors that are `Shard(0)`;
what every token needs once (its input, its reconstruction) goes through `copied` and `summed`.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from sae_fast.errors import ArgumentError
from sae_fast.training.distributed import Ranks, local, require_even

ONE = Ranks()


@dataclass(frozen=True)
class Layout:
    """The place of this process; by default it does everything."""

    everyone: Ranks = ONE
    """all processes of the run"""
    rows: Ranks = ONE
    """those that share the tokens of a batch"""
    features: Ranks = ONE
    """those that share the dictionary"""
    mesh: DeviceMesh | None = None
    """of `features`, where these are several"""

    def own_features(self, d_sae: int) -> slice:
        """Those of this process. Raises `ArgumentError` where the features cannot be shared evenly."""
        require_even(self.features, "d_sae with shard_features", d_sae)
        own = d_sae // self.features.size
        return slice(self.features.rank * own, (self.features.rank + 1) * own)

    def copied(self, x: Tensor) -> Tensor:
        """`x`, the same in every part of the dictionary; its gradient is the sum of those that the parts have."""
        if self.mesh is None:
            return x
        return DTensor.from_local(x, self.mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])

    def summed(self, x: Tensor) -> Tensor:
        """The sum over the parts of the dictionary; each part has the gradient of the sum, which is the same in all."""
        if self.mesh is None:
            return x
        return DTensor.from_local(x, self.mesh, [Partial()], run_check=False).redistribute(placements=[Replicate()]).to_local()

    def distribute(self, module: nn.Module, by_feature: frozenset[str]) -> None:
        """Make DTensors of a module's parameters, and of the buffers by feature, which hold this process's part already."""
        if self.mesh is None:
            return
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(self._part(parameter.detach(), name in by_feature)))
        for name, buffer in module.named_buffers(recurse=False):
            if name in by_feature:
                setattr(module, name, self._part(buffer, True))

    def _part(self, own: Tensor, is_by_feature: bool) -> DTensor:
        return DTensor.from_local(own, self.mesh, [Shard(0) if is_by_feature else Replicate()], run_check=False)


ALONE = Layout()


def layout(ranks: Ranks, shard_features: bool | int, device: str) -> Layout:
    """The grid for `[train] shard_features`: False, True (all processes share a dictionary) or how many share one."""
    parts = int(shard_features) if shard_features is not True else ranks.size
    parts = max(parts, 1)
    if ranks.size % parts:
        raise ArgumentError("[train] shard_features", expected=f"a divisor of the {ranks.size} processes", got=parts)
    if parts == 1:
        return Layout(ranks, ranks)
    mesh = init_device_mesh(device.partition(":")[0], (ranks.size // parts, parts), mesh_dim_names=("rows", "features"))
    rows, features = (
        Ranks(mesh.get_local_rank(name), mesh.size(number), mesh.get_group(name))
        for number, name in enumerate(("rows", "features"))
    )
    return Layout(ranks, rows, features, mesh["features"])


def whole(tensor: Tensor) -> Tensor:
    """With the parts that other processes hold, all of which must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor what this process holds, copied and placed as `like` is; a number for the optimizer as it is."""
    if not isinstance(like, DTensor) or not tensor.ndim:
        return tensor.clone()
    mesh, (placement,) = like.device_mesh, like.placements
    if placement == Shard(0):
        tensor = tensor.chunk(mesh.size())[mesh.get_local_rank()]
    return DTensor.from_local(tensor.clone().to(local(like).device), mesh, [placement], run_check=False)
