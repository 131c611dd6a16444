"""How much of everything is measured: in earnest, and to see that the benchmark works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes by name, rows, tokens and steps.

    Attributes:
        large, small: the shapes that are measured.
        rows: of the decode steps.
        contexts: tokens that each row has to itself before it decodes.
        busy_rows: of the steps whose parts are timed.
        prompts: number and length of the prompts of each prefill.
        steps: of each measurement of decoding, after ``warm_ups`` ones.
        chunks: largest steps that prompts are computed in; runners are built for the largest one.
    """

    large: str
    small: str
    copied_bytes: int
    matrix_width: int
    rows: tuple[int, ...]
    contexts: tuple[int, int]
    busy_rows: int
    prompts: tuple[tuple[int, int], ...]
    branches: int
    prefix: int
    short_prompt: int
    steps: int
    warm_ups: int
    runs: int
    chunks: tuple[int, ...]
    checked_tokens: int
    max_kv_tokens: int | None


FULL = Sizes(
    large="Llama-3-8B",
    small="Llama-3.2-1B",
    copied_bytes=4 << 30,
    matrix_width=8192,
    rows=(1, 8, 32, 128, 256),
    contexts=(1024, 8192),
    busy_rows=32,
    prompts=((1, 8192), (16, 1024)),
    branches=64,
    prefix=32_768,
    short_prompt=128,
    steps=48,
    warm_ups=12,
    runs=3,
    chunks=(2048, 8192),
    checked_tokens=32,
    max_kv_tokens=None,
)

SMOKE = Sizes(
    large="tiny",
    small="tiny",
    copied_bytes=1 << 20,
    matrix_width=64,
    rows=(1, 4, 200),
    contexts=(64, 128),
    busy_rows=2,
    prompts=((1, 128), (2, 64)),
    branches=4,
    prefix=256,
    short_prompt=16,
    steps=4,
    warm_ups=2,
    runs=1,
    chunks=(64, 128),
    checked_tokens=4,
    max_kv_tokens=4096,
)
