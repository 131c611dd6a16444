"""Greedy output on the device, in float32, against that of a CPU: the same tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gpu.bench import Bench
from gpu.shapes import Shape
from ramet.config import ModelOptions, SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.engine.messages import AddRequest
from ramet.model_io import ModelRunner
from ramet.models.tensor_shapes import tensor_shapes
from ramet.runner.build import build_runner
from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RequestOutput

_PROMPT_LENGTHS = (3, 64, 65, 200)
_KV_TOKENS = 8192
_SHARED = 100  # tokens that half of the prompts begin with


class OutputsDiffer(Exception):
    """The device continues a prompt in another way than the CPU."""


def run(bench: Bench) -> None:
    """A small model with random weights, and the real one if it is there."""
    shape = bench.shape("tiny" if bench.settings.smoke else "check")
    write_weights(shape)
    models: dict[str, Path] = {shape.name: shape.folder}
    if bench.settings.model is None:
        bench.note("SmolLM2: left out: no --model")
    else:
        models[bench.settings.model.name] = bench.settings.model
    for name, path in models.items():
        compare(bench, name, path)


def compare(bench: Bench, name: str, path: Path) -> None:
    """Continue the same prompts on both.

    Raises:
        OutputsDiffer: a token is another one.
    """
    bench.unload()
    count = bench.sizes.checked_tokens
    expected = _generate(path, ModelOptions(device="cpu", dtype="float32"), count)
    for dtype in ("float32", "bfloat16"):
        found = _generate(path, bench.options(dtype=dtype), count)
        same = [_common(mine, other) for mine, other in zip(found, expected, strict=True)]
        bench.row(
            f"greedy tokens as on the CPU in float32, of {count}",
            {
                "model": name,
                "dtype": dtype,
                "prompts": len(same),
                "all the same": sum(number == count for number in same),
                "fewest": min(same),
            },
        )
        if dtype == "float32" and min(same) < count:
            raise OutputsDiffer(f"{name}: prompt {int(np.argmin(same))} differs after {min(same)} tokens")


def _generate(path: Path, options: ModelOptions, count: int) -> list[list[int]]:
    steps = SchedulerConfig(max_batch_tokens=256)
    runner = build_runner(path, options, max_kv_tokens=_KV_TOKENS, steps=steps)
    core = EngineCore(runner, steps)
    tokens: dict[str, list[int]] = {}
    params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    requests = []
    for index, prompt in enumerate(_prompts(runner)):
        tokens[str(index)] = []
        requests.append(AddRequest(request_id=str(index), token_ids=prompt, params=params, seed=index))
    outputs = list(core.handle(*requests))
    while core.has_work:
        outputs += core.step()
    core.close()
    for output in outputs:
        assert isinstance(output, RequestOutput), output
        if output.error is not None:
            raise output.error
        tokens[output.request_id] += output.token_ids
    return list(tokens.values())


def _prompts(runner: ModelRunner) -> list[list[int]]:
    """Prompts of several lengths, each by itself and after the same beginning."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> list[int]:
        drawn: list[int] = rng.integers(2, runner.vocab_size, length).tolist()
        return drawn

    shared = ids(_SHARED)
    return [prefix + ids(length) for prefix in ([], shared) for length in _PROMPT_LENGTHS]


def _common(left: list[int], right: list[int]) -> int:
    pairs = zip(left, right, strict=True)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(left))


def write_weights(shape: Shape) -> None:
    """Random weights in files: those that are drawn while a model loads are others on every device."""
    path = shape.folder / "model.safetensors"
    if path.exists():
        return
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, size in tensor_shapes(shape.config).items():
        values = torch.randn(size, generator=generator)
        tensors[name] = 1 + 0.1 * values if "norm" in name else values * size[-1] ** -0.5
    save_file(tensors, path)
