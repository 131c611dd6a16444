"""A layer's kernels become code for an H200, also where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SHARED_MEMORY = 227 * 1024  # bytes that a program may have


def test_kernels_compile_for_a_gpu_and_fit_its_shared_memory():
    program = Path(__file__).with_name("compile_operations.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 3 * 10
    for kernel, dtype, shared, *instructions in lines:
        assert int(shared) <= SHARED_MEMORY
        if kernel == "linear" and dtype != "fp32":
            assert instructions == ["wgmma.mma_async"], "the tensor cores are not used"
        if kernel == "rotate-fp8e4nv":
            assert instructions == ["cvt.rn.satfinite.e4m3x2.f32"]
