"""What a decode step costs beside the device's work: Python's time, and how busy it keeps the device."""

from __future__ import annotations

import json
import random
import string
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch.profiler import ProfilerActivity, profile

from gpu.bench import Bench
from gpu.decode import ENDLESS
from gpu.driving import GREEDY, Driven, Loaded, Steps
from gpu.settings import Skip
from ramet.constraints import Regex
from ramet.grammar.compiler import GrammarCompiler
from ramet.sampling_params import SamplingParams
from ramet.tokenizer.text_encoder import TextEncoder
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import Vocab

PATTERN = "([a-z]+|[0-9]{1,3}| )*"  # several states, none of which leaves no choice or ends
_DEVICE_KINDS = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})  # of Kineto's traces
_HOST_KINDS = frozenset({"cpu_op"})  # for where there is no GPU
_SHOWN = 16  # kernels
_SCHEDULER_PARTS = ("schedule", "launched", "update")

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to decode."""

    name: str
    params: SamplingParams = ENDLESS
    overlap: bool = True
    graphs: bool = True


_GRAMMAR = replace(ENDLESS, constraint=Regex(PATTERN))
_SAMPLED = replace(ENDLESS, temperature=0.8, top_p=0.95)
VARIANTS = (
    Variant("as it is"),
    Variant("no overlap", overlap=False),
    Variant("grammar", _GRAMMAR),
    Variant("grammar, no overlap", _GRAMMAR, overlap=False),
    Variant("top-p", _SAMPLED),
    Variant("no graphs", graphs=False),
    Variant("no graphs, no overlap", graphs=False, overlap=False),
    Variant("no graphs, grammar", _GRAMMAR, graphs=False),
)


def run(bench: Bench) -> None:
    """All variants on the large shape; of the first, what the device did."""
    vocab_size = bench.shape(bench.sizes.large).config.vocab_size
    grammars = GrammarCompiler(letters_tokenizer(vocab_size), vocab_size)
    grammars.submit(Regex(PATTERN)).result()  # else the first requests would wait for it
    for index, variant in enumerate(VARIANTS):
        try:
            loaded = bench.load(bench.sizes.large, **({} if variant.graphs else {"cuda_graphs": False}))
        except Skip as reason:
            bench.note(f"{variant.name}: left out: {reason}")
            continue
        _measure(bench, loaded, variant, grammars, show_kernels=index == 0)
    grammars.close()


def _measure(
    bench: Bench, loaded: Loaded, variant: Variant, grammars: GrammarCompiler, *, show_kernels: bool
) -> None:
    sizes = bench.sizes
    prompts = [loaded.prompt(sizes.contexts[0]) for _ in range(sizes.busy_rows)]
    driven = loaded.core(grammars, overlap=variant.overlap)
    driven.cache_prompts(prompts)
    driven.add(prompts, variant.params)
    driven.steps(sizes.warm_ups, len(prompts))
    watch_scheduler(driven, loaded)
    steps = driven.steps(sizes.steps, len(prompts))
    traced = trace(lambda: driven.steps(sizes.steps, len(prompts)), bench.device)
    driven.stop()
    report(bench, variant, steps, traced)
    if show_kernels:
        show(bench, f"a decode step of {len(prompts)} rows", traced, sizes.steps)
        show_prefill(bench, loaded)


def show_prefill(bench: Bench, loaded: Loaded) -> None:
    """What the device does for one long prompt."""
    chunk = max(bench.sizes.chunks)
    _, length = bench.sizes.prompts[0]
    driven = loaded.core(max_batch_tokens=chunk)

    def prefill() -> None:
        driven.add([loaded.prompt(length)], GREEDY)
        driven.run()

    prefill()
    show(bench, f"a prompt of {length:,} tokens, {chunk:,} a step", trace(prefill, bench.device), 1)


def watch_scheduler(driven: Driven, loaded: Loaded) -> None:
    """Time what the scheduler does too."""
    scheduler = driven.core.scheduler
    for name in _SCHEDULER_PARTS:
        setattr(scheduler, name, _timed(loaded, name, getattr(scheduler, name)))


def _timed(loaded: Loaded, name: str, method: Any) -> Any:
    return lambda *given: loaded.runner.timed(name, lambda: method(*given))


def report(bench: Bench, variant: Variant, steps: Steps, traced: Sequence[Mapping[str, Any]]) -> None:
    """A line per variant."""
    spans = [_interval(event) for event in traced]
    waited = steps.part("collect")
    scheduling = sum(steps.part(name) for name in _SCHEDULER_PARTS)
    calls = steps.part("launch") + steps.part("draw")
    wall = max((end for _, end in spans), default=0.0) - min((begin for begin, _ in spans), default=0.0)
    bench.row(
        f"a decode step of {steps.rows} rows",
        {
            "variant": variant.name,
            "ms a step": 1e3 * steps.mean,
            "Python ms": 1e3 * (steps.mean - waited),
            "scheduler ms": 1e3 * scheduling,
            "launch ms": 1e3 * steps.part("launch"),
            "draw ms": 1e3 * steps.part("draw"),
            "rest ms": 1e3 * (steps.mean - waited - scheduling - calls),
            "waiting ms": 1e3 * waited,
            "device busy share": union(spans) / wall if wall else None,
        },
    )


def trace(work: Callable[[], object], device: torch.device) -> list[Mapping[str, Any]]:
    """What the device did meanwhile, by the profiler: events with ``name``, ``ts`` and ``dur`` (us)."""
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kinds = _DEVICE_KINDS if on_gpu else _HOST_KINDS
    return [event for event in events if event.get("ph") == "X" and event.get("cat") in kinds]


def show(bench: Bench, what: str, traced: Sequence[Mapping[str, Any]], count: int) -> None:
    """What takes most of the device's time, for each of so many."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in traced:
        seconds[event["name"]].append(float(event["dur"]))
    total = sum(map(sum, seconds.values()))
    longest = sorted(seconds.items(), key=lambda item: -sum(item[1]))
    for name, taken in longest[:_SHOWN]:
        bench.row(
            f"the device's time for {what}",
            {
                "kernel": name[:70],
                "calls": len(taken) / count,
                "us": sum(taken) / count,
                "us a call": sum(taken) / len(taken),
                "share of time": sum(taken) / total,
            },
        )


def union(spans: Iterable[Interval]) -> float:
    """How long at least one of these intervals lasts."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return covered


def _interval(event: Mapping[str, Any]) -> Interval:
    begin = float(event["ts"])
    return begin, begin + float(event["dur"])


def letters_tokenizer(vocab_size: int) -> Tokenizer:
    """A vocabulary of all single bytes and random words, and no token that ends a text."""
    rng = random.Random(0)
    pieces = {bytes([byte]): None for byte in range(256)}
    while len(pieces) < vocab_size:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
        style = rng.choice((word, " " + word, word.capitalize(), " " + word.capitalize(), word + ","))
        pieces[style.encode()] = None
    token_bytes = tuple(pieces)[:vocab_size]
    vocab = Vocab(token_bytes, tuple(data.decode(errors="replace") for data in token_bytes), frozenset())
    encoder = TextEncoder(tokenizers.Tokenizer(tokenizers.models.BPE({}, [])), [])
    return Tokenizer(vocab, encoder, ControlTokens(bos=None, eos=frozenset(), add_bos=False))
