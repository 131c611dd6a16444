"""The kernels of sampling become code for an H200, also where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SHARED_MEMORY = 227 * 1024  # bytes that a program may have


def test_kernels_compile_for_a_gpu_and_fit_its_shared_memory():
    program = Path(__file__).with_name("compile_sampling.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _, _ in lines} == {
        "_penalize",
        "_add_bias",
        "_survey",
        "_weigh",
        "_pick",
        "_logprob",
        "_count_digits",
        "_drop",
    }
    assert all(int(shared) <= SHARED_MEMORY for _, _, shared in lines)
