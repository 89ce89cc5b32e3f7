"""The command line of the benchmarks; needs PyTorch and this repository, and uses peers where they are installed."""

import argparse

import torch

from benchmarks import choices, peers, results, table
from benchmarks.measure import Budget, measure
from benchmarks.sizes import CPU_SIZES, CPU_TRAINING, GPU_SIZES, GPU_TRAINING
from benchmarks.training import measure_training

GPU_SECONDS = 300.0
"""For the operations; with the kernels' choices and training, which take as much more as follows, less than eight minutes."""
CHOICE_SECONDS = 90.0
TRAINING_SECONDS = 60.0
CPU_SECONDS = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("gpu", help="everything on the GPU, in less than eight minutes; also the kernels' table of choices")
    commands.add_parser("cpu", help="the sizes for a CPU, some minutes")
    peer = commands.add_parser("peers", help="sae-lens beside sae_fast on this CPU, in an environment of its own")
    peer.add_argument("--python", help="an interpreter that has sae-lens and torch, instead of making .venv-peers/benchmarks")
    commands.add_parser("table", help="write docs/benchmarks.md anew from the kept results")
    arguments = parser.parse_args()
    if arguments.command == "gpu":
        gpu()
    elif arguments.command == "cpu":
        cpu()
    elif arguments.command == "peers":
        peers.run(arguments.python)
    table.update()


def gpu() -> None:
    """All operations, then the designs of the encoder kernels at the sizes of their table."""
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device: `python -m benchmarks cpu` measures the CPU")
    device = torch.device("cuda", torch.cuda.current_device())
    budget = Budget(CHOICE_SECONDS, each=1.0, rounds=20)
    choices.update_table(choices.measure_choices(GPU_SIZES[:3], device, budget))
    entries = measure_training(GPU_TRAINING, device, Budget(TRAINING_SECONDS, each=2.0, rounds=20))
    entries += measure(GPU_SIZES, device, Budget(GPU_SECONDS, each=1.0, rounds=30))
    print(results.write("gpu", device, entries))


def cpu() -> None:
    """All operations at the sizes for a CPU."""
    device = torch.device("cpu")
    entries = measure_training(CPU_TRAINING, device, Budget(TRAINING_SECONDS, each=20.0, rounds=7))
    entries += measure(CPU_SIZES, device, Budget(CPU_SECONDS, each=6.0, rounds=7))
    print(results.write("cpu", device, entries))


if __name__ == "__main__":
    main()
