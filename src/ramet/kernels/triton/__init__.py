"""Kernels for GPUs, written in Triton. Importing a module of this package needs the ``triton`` package.

They compute what their torch references compute. Must not know: requests, the radix tree, models.
"""
