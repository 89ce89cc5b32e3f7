"""Triton kernels, one file per operation, named as in `sae_fast.ops` and `sae_fast.reference`.

A kernel file imports neither of the two: `ops` validates and dispatches, `reference` is what a kernel is tested against.
"""
