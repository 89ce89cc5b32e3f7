"""Blocks of tokens in threads of our own, each computing alone.

PyTorch splits every operation over its threads and waits for all of them. A block takes a dozen small operations, and each such
wait costs milliseconds where other processes keep a core from one of the threads. Whole blocks in threads wait once, find their
scores in their own core's cache, and run at the same time what is not parallel in itself.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

FEWEST_ROWS = 64
"""Tokens of a block below which splitting further would slow the matrix product down."""

Block = TypeVar("Block")
T = TypeVar("T")


def row_blocks(n: int, most: int) -> list[slice]:
    """`n` tokens in blocks of at most `most`, at least one to a thread where the blocks stay large enough."""
    step = min(most, max(FEWEST_ROWS, -(-n // torch.get_num_threads())))
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def in_threads(function: Callable[[Block], T], blocks: list[Block]) -> list[T]:
    """`function` of each block, in their order; called in as many threads as PyTorch uses, where there are several blocks."""
    threads = torch.get_num_threads()
    if min(threads, len(blocks)) < 2:
        return [function(block) for block in blocks]
    inference = torch.is_inference_mode_enabled()

    def alone(block: Block) -> T:
        # The modes belong to a thread; so does the number of threads, but for MKL, where it is everybody's.
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            return function(block)

    try:
        return list(_pool(threads, os.getpid()).map(alone, blocks))
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads that stay, so that their buffers do. A forked process has none of its parent's, and makes its own."""
    return ThreadPoolExecutor(threads, "sae_fast")
