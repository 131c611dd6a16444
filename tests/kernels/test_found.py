"""Calls that do not fit, each in a process of its own: they ended it, or passed unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ramet import kernels

if kernels.load_native() is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

SETUP = """
import numpy as np
from ramet.kernels import _cpu

ISA = _cpu.supported_isas()[0]
SHAPES = dict(q=(8, 8), k=(4, 8), v=(4, 8), output=(8, 8), gate=(8, 8), up=(8, 8), down=(8, 8))

def i32(*values):
    return np.array(values, dtype=np.int32)

def matrix(outputs, inputs):
    return _cpu.pack_q8(np.ones((outputs, inputs), dtype=np.float32))

def empty_decoder():
    return _cpu.Decoder(
        _cpu.Team(1), ISA, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1,
        head_dim=4, vocab_size=16, rms_norm_eps=1e-5, float32=True,
    )

def decoder(without=()):
    made = empty_decoder()
    for name, shape in SHAPES.items():
        if name not in without:
            made.set_matrix(0, name, matrix(*shape))
    for name in ("input_norm", "post_attention_norm"):
        made.set_norm(0, name, np.ones(8, dtype=np.float32))
    made.set_ends(matrix(16, 8), matrix(16, 8), np.ones(8, dtype=np.float32))
    made.set_rotary(np.ones((3, 2, 2), dtype=np.float32))
    return made

def forward(decoder, token_ids=i32(1), position=0, out=None):
    out = np.empty((1, 8), dtype=np.float32) if out is None else out
    decoder.forward(token_ids, i32(position), i32(0), i32(0), i32(1), i32(0), i32(0, 1), i32(0), i32(0), out)

def expect(error, call):
    try:
        call()
    except error:
        return
    raise SystemExit(f"no {error}")
"""

CALLS = {
    # ---- these end the process
    "columns whose bytes overflow": """
expect(ValueError, lambda: _cpu.pack("F32", np.zeros((1, 0), dtype=np.uint8), 2**62))
""",
    "a step of a decoder whose weights were refused": """
made = decoder(without=["q"])
expect(ValueError, lambda: made.allocate_kv(4))
expect(ValueError, lambda: forward(made))
""",
    "logits of a decoder without weights": """
hidden, out = np.ones((1, 8), dtype=np.float32), np.ones((1, 16), dtype=np.float32)
row = np.zeros(1, dtype=np.int32)
expect(ValueError, lambda: empty_decoder().logits(hidden, row, out, row.copy()))
""",
    "a step after a pool that did not fit the memory": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
made = decoder()
made.allocate_kv(4)
expect(MemoryError, lambda: made.allocate_kv(2**31 - 1))
expect(ValueError, lambda: forward(made))
""",
    "more threads than the system gives": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
expect((RuntimeError, MemoryError, OSError), lambda: _cpu.Team(100_000))
""",
    # ---- these read or write outside their arrays, or may
    "a matrix of the wrong shape after the check": """
made = decoder()
made.allocate_kv(4)
def change():
    made.set_matrix(0, "gate", matrix(1, 1))
    forward(made)
expect(ValueError, change)
""",
    "a norm of the wrong size after the check": """
made = decoder()
made.allocate_kv(4)
def change():
    made.set_norm(0, "input_norm", np.ones(0, dtype=np.float32))
    forward(made)
expect(ValueError, change)
""",
    # ---- these pass unnoticed
    "a position behind the rotary table": """
made = decoder()
made.allocate_kv(4)
expect(ValueError, lambda: forward(made, position=3))
""",
    "fewer columns than none": """
expect(ValueError, lambda: _cpu.pack("Q4_0", np.zeros((3, 0), dtype=np.uint8), -32))
""",
    "an index that does not fit 32 bits": """
made = decoder()
made.allocate_kv(4)
expect((ValueError, TypeError), lambda: forward(made, token_ids=np.array([2**32 + 1])))
""",
    "an index that is no whole number": """
made = decoder()
made.allocate_kv(4)
expect((ValueError, TypeError), lambda: forward(made, token_ids=np.array([1.7])))
""",
    "an output that would be a copy": """
made = decoder()
made.allocate_kv(4)
for out in (np.empty((1, 8)), np.empty((1, 16), dtype=np.float32)[:, ::2]):
    expect((ValueError, TypeError), lambda: forward(made, out=out))
x = np.ones((1, 8), dtype=np.float32)
expect((ValueError, TypeError), lambda: _cpu.linear(ISA, matrix(8, 8), x, np.empty((1, 8))))
row = np.zeros(1, dtype=np.int32)
expect((ValueError, TypeError), lambda: made.logits(x, row, np.empty((1, 16)), row.copy()))
expect((ValueError, TypeError), lambda: made.logits(x, row, np.empty((1, 16), dtype=np.float32), np.zeros(1)))
""",
    "a layer that is not there": """
expect(ValueError, lambda: empty_decoder().set_matrix(1, "q", matrix(8, 8)))
expect(ValueError, lambda: empty_decoder().set_norm(-1, "input_norm", np.ones(8, dtype=np.float32)))
""",
    "a team of no threads": """
expect(ValueError, lambda: _cpu.Team(0))
expect(ValueError, lambda: _cpu.Team(-3))
""",
    "an infinite weight": """
packed = _cpu.pack_q8(np.array([[np.inf, 1.0]], dtype=np.float32))
out = np.empty((1, 1), dtype=np.float32)
_cpu.linear(ISA, packed, np.ones((1, 2), dtype=np.float32), out)
assert out[0, 0] != -np.inf, out
""",
}


SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")  # takes more address space than a limit could leave
PYTHON = [sys.executable, *(["-S"] if sys.flags.no_site else []), "-c"]


@pytest.mark.parametrize("call", [name for name in CALLS if not (SANITIZED and "RLIMIT" in CALLS[name])])
def test_a_call_that_does_not_fit_is_refused(call):
    result = subprocess.run([*PYTHON, SETUP + CALLS[call]], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-500:] or f"signal {-result.returncode}"


@pytest.mark.parametrize("isa", kernels.load_native().supported_isas())
def test_values_behind_a_row_are_not_seen_even_if_they_are_infinite(isa):
    """What a later token of a prompt overflows to stays with it and with those behind it."""
    native = kernels.load_native()
    rng = np.random.default_rng(0)
    keys, values = rng.standard_normal((2, 20, 1, 32)).astype(np.float32)
    queries = rng.standard_normal((10, 2, 32)).astype(np.float32)
    positions = np.arange(10, 20, dtype=np.int32)

    def attend(begin, end):
        """Rows begin .. end - 1, which stand at positions 10 + begin and so on."""
        out = np.empty((end - begin, 64), dtype=np.float32)
        plan = [[0], [end - begin], [0], [0, 10 + end], range(10 + end)]
        arrays = [np.array(array, dtype=np.int32) for array in plan]
        rows = queries[begin:end], keys, values, True, positions[begin:end]
        native.attention(native.Team(1), isa, *rows, *arrays, out)
        return out

    healthy = attend(0, 10)
    values[15] = np.inf
    result = attend(0, 10)
    assert np.array_equal(result[:5], healthy[:5])
    assert np.array_equal(result[:5], attend(0, 5))
    assert not np.isfinite(result[5:]).all(axis=1).any()
