"""What options cost or save: deterministic results, and keys and values in 8 bits."""

from __future__ import annotations

from gpu import decode, prefill, shared_prefix
from gpu.bench import Bench

_DECODE, _SHARED, _PREFILL = "decode by option", "branches by option", "prefill by option"


def run(bench: Bench) -> None:
    """The same work with each option."""
    sizes = bench.sizes
    short, long = sizes.contexts
    variants: dict[str, dict[str, object]] = {
        "as it is": {},
        "deterministic": {"deterministic": True},
        "kv_dtype float8": {"kv_dtype": "float8"},
    }
    rows, (count, length) = sizes.busy_rows, sizes.prompts[-1]
    for name, options in variants.items():
        loaded = bench.load(sizes.large, **options)
        for context in (short, long):
            decode.row_of(bench, _DECODE, loaded, rows, context, option=name)
        shared_prefix.row_of(bench, _SHARED, loaded, sizes.prefix, option=name)
        prefill.row_of(bench, _PREFILL, loaded, count, length, sizes.chunks[0], option=name)
