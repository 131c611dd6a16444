"""Triton's kernels become code for an H200, also where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SHARED_MEMORY = 227 * 1024  # bytes that the programs of a multiprocessor may have


def test_kernels_compile_for_a_gpu_and_fit_its_shared_memory():
    program = Path(__file__).with_name("compile_triton.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 8
    for kernel, dtype, _pool_dtype, _head_dim, tile, shared, products, fetches in lines:
        assert int(shared) <= SHARED_MEMORY
        if (kernel, dtype) == ("attend", "bf16"):
            # The least that the newest tensor cores take is 64 rows
            assert products == ("wgmma" if int(tile) >= 64 else "mma"), "the tensor cores are not used"
            assert int(fetches) > 0, "keys and values are not fetched ahead, in whole words"
