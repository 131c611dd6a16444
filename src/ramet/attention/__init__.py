"""Attention over a pool of KV slots, following the plan of `ramet.model_io.Segments`.

Invariant: the result of a row is a function of its query and of the keys and values of its context in
position order. It does not depend on other rows, on which slots hold the context, or on how the tree cuts it.

Must not know: requests, the radix tree, models, who owns the pool.
"""
