"""The processes of a run that `torchrun` starts: how they are joined, and what they tell each other."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sae_fast.errors import ArgumentError, StoppedError

PATIENCE = timedelta(days=2)
"""How long a process waits for the others: the first may collect activations for hours. One that ends is noticed at once."""


@dataclass(frozen=True)
class Ranks:
    """Processes that share something, and where this one stands among them; one of one where torchrun has not started it."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """None: all of the run"""

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and shows progress."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of one shape of all processes, in order."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous(), group=self.group)
        return found

    def mean(self, x: Tensor, n: int) -> Tensor:
        """The mean over the tokens of all processes, from the mean `x` over the `n` of this one; its gradient is that of `x`.

        Gradients that are then averaged over processes are those of the common mean.
        """
        if self.size == 1:
            return x
        total, count = self.total(torch.stack([x.detach().double() * n, torch.full_like(x, n, dtype=torch.float64)]))
        return x + ((total / count).to(x.dtype) - x.detach())

    def share(self, n: int, device: torch.device) -> float:
        """`n` of this process as a multiple of the mean of all: the weight of its gradients among those that are averaged."""
        return 1.0 if self.size == 1 else n * self.size / int(self.total(torch.tensor(n, device=device)))

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over processes; all have the same parameters without one."""
        if self.size == 1:
            return
        grads = [local(parameter.grad) for parameter in module.parameters() if parameter.grad is not None]
        for work in [dist.all_reduce(grad, group=self.group, async_op=True) for grad in grads]:
            work.wait()
        for grad in grads:
            grad /= self.size

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it holds in one of the processes."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(int(flag), device=device)))

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier(group=self.group)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that torchrun started, if it did, and yield (ranks, device of this one).

    With `device = "cuda"` each process takes the GPU of its local rank. NCCL between GPUs, gloo between CPUs. Raises
    `StoppedError` where another process ends before its time.
    """
    if "WORLD_SIZE" not in os.environ or not dist.is_torchelastic_launched():
        yield Ranks(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
        # A process that leaves while another still talks to it can bring that one down.
        dist.barrier()
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        raise StoppedError(
            f"process {dist.get_rank()} stopped, since another one of the run has ended",
            advice="See what that one said; the same command goes on from the last checkpoint",
        ) from error
    finally:
        dist.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    """NCCL's errors have a type; gloo's name the file in which they come up."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def leave(status: int = 0) -> None:
    """End this process at once if torchrun started it; call it last, when all files are written. Otherwise, nothing.

    Taking Python down while a thread of gloo still lets go of a tensor can abort the process, and torchrun then calls the run
    failed; that was seen, rarely, on a busy machine.
    """
    if "WORLD_SIZE" in os.environ and dist.is_torchelastic_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def require_even(ranks: Ranks, name: str, n: int) -> None:
    """Raise `ArgumentError` unless `n` things can be shared among the processes evenly."""
    if n % ranks.size:
        raise ArgumentError(name, expected=f"a multiple of the {ranks.size} processes", got=n)
