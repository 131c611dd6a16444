"""The arithmetic models are made of, as functions of tensors.

Invariant: on CPU every function here is *row independent*: the bits of an output row depend on its input
row alone, not on how many rows there are, where the row stands or how threads share the work. Matrix
products therefore have fixed shapes, and elementwise functions avoid operations whose vectorised and
scalar code paths round differently. tests/layers proves it for what it can reach.

`base.Operations` is the seam to models: the functions joined in `reference`, or kernels for GPUs in `triton`.

Must not know: models, attention plans, who owns the pool.
"""
