"""Lies here so that tests may import each other's builders as ``from attention.plans import ...``.

Without a GPU, Triton's kernels run in its interpreter, which it wants to know before it is first imported.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
