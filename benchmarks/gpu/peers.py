"""transformers on the same shape with random weights, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from gpu.bench import Bench
from gpu.settings import Skip

_TABLE = "peers"


def run_transformers(bench: Bench) -> None:
    """Its own forward pass, eagerly, with torch's attention.

    Raises:
        Skip: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise Skip("transformers is not installed")
    bench.unload()
    transformers: Any = importlib.import_module("transformers")
    sizes, device = bench.sizes, bench.device
    shape = bench.shape(sizes.large)
    config = transformers.AutoConfig.from_pretrained(shape.folder)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        ).eval()

    def step(ids: torch.Tensor, cache: Any) -> torch.Tensor:
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        likeliest: torch.Tensor = output.logits[:, -1:].argmax(-1)
        return likeliest

    def prompts(count: int, length: int) -> torch.Tensor:
        return torch.randint(2, shape.config.vocab_size, (count, length), device=device)

    with torch.inference_mode():
        count, length = sizes.prompts[0]
        step(prompts(count, length), transformers.DynamicCache(config=config))  # warm-up
        seconds = median(
            _waited(lambda: step(prompts(count, length), transformers.DynamicCache(config=config)), device)
            for _ in range(sizes.runs)
        )
        _report(bench, "transformers", f"prefill {count} x {length:,}", seconds, count * length)
        for rows in (1, sizes.busy_rows):
            cache = transformers.DynamicCache(config=config)
            token = step(prompts(rows, sizes.contexts[0]), cache)
            for _ in range(sizes.warm_ups):
                token = step(token, cache)

            def decode(token: torch.Tensor = token, cache: Any = cache) -> None:
                for _ in range(sizes.steps):
                    token = step(token, cache)

            seconds = _waited(decode, device) / sizes.steps
            _report(bench, "transformers", f"decode {rows} rows, {sizes.contexts[0]:,} tokens", seconds, rows)


def _waited(work: Callable[[], object], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()  # for what was ordered before
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def _report(bench: Bench, engine: str, what: str, seconds: float, tokens: int) -> None:
    bench.row(_TABLE, {"engine": engine, "what": what, "ms": 1e3 * seconds, "tokens/s": tokens / seconds})
