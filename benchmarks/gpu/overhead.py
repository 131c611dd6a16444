"""What a decode step costs beside the device's work: Python's time, and how busy it keeps the device."""

from __future__ import annotations

import json
import random
import string
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch.profiler import ProfilerActivity, profile

from gpu.bench import Bench
from gpu.decode import ENDLESS, started
from gpu.driving import GREEDY, Driven, Loaded, Steps
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
_GAP = 10.0  # us: less than it takes Python to do anything
_SCHEDULER_PARTS = ("schedule", "launched", "update")

Interval = tuple[float, float]


class NothingTraced(Exception):
    """The profiler does not work here."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to decode."""

    name: str
    params: SamplingParams = ENDLESS
    overlap: bool = True
    graphs: bool = True
    traced: bool = False


_GRAMMAR = replace(ENDLESS, constraint=Regex(PATTERN))
_SAMPLED = replace(ENDLESS, temperature=0.8, top_p=0.95)
VARIANTS = (
    Variant("as it is", traced=True),
    Variant("no overlap", overlap=False, traced=True),
    Variant("grammar", _GRAMMAR, traced=True),
    Variant("grammar, no overlap", _GRAMMAR, overlap=False),
    Variant("top-p", _SAMPLED),
    Variant("no graphs", graphs=False, traced=True),
    Variant("no graphs, no overlap", graphs=False, overlap=False),
    Variant("no graphs, grammar", _GRAMMAR, graphs=False),
)


def run(bench: Bench) -> None:
    """All variants on the large shape, untraced."""
    with _grammars(bench) as grammars:
        for variant in VARIANTS:
            loaded, driven = _started(bench, variant, grammars)
            watch_scheduler(driven, loaded)
            steps = driven.steps(bench.sizes.steps, bench.sizes.busy_rows)
            driven.stop()
            report(bench, variant, steps)


def run_traced(bench: Bench) -> None:
    """What the device did in some of them. By itself: a profiler that has run slows what comes after it."""
    count, rows = bench.sizes.steps, bench.sizes.busy_rows
    with _grammars(bench) as grammars:
        for variant in (variant for variant in VARIANTS if variant.traced):
            loaded, driven = _started(bench, variant, grammars)
            traced = trace(partial(driven.steps, count, rows), bench.device)
            driven.stop()
            report_busy(bench, variant, traced, count)
            if variant is VARIANTS[0]:
                show(bench, f"a decode step of {rows} rows", traced, count)
                show_prefill(bench, loaded)


@contextmanager
def _grammars(bench: Bench) -> Iterator[GrammarCompiler]:
    """A compiler that knows the pattern: else the first requests would wait for it."""
    vocab_size = bench.shape(bench.sizes.large).config.vocab_size
    with closing(GrammarCompiler(letters_tokenizer(vocab_size), vocab_size)) as grammars:
        grammars.submit(Regex(PATTERN)).result()
        yield grammars


def _started(bench: Bench, variant: Variant, grammars: GrammarCompiler) -> tuple[Loaded, Driven]:
    loaded = bench.load(bench.sizes.large, **({} if variant.graphs else {"cuda_graphs": False}))
    prompts = [loaded.prompt(bench.sizes.contexts[0]) for _ in range(bench.sizes.busy_rows)]
    driven = started(
        bench, loaded, prompts, params=variant.params, grammars=grammars, overlap=variant.overlap
    )
    return loaded, driven


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


def report(bench: Bench, variant: Variant, steps: Steps) -> None:
    """A line per variant."""
    waited = steps.part("collect")
    scheduling = sum(steps.part(name) for name in _SCHEDULER_PARTS)
    calls = steps.part("launch") + steps.part("draw")
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
        },
    )


def report_busy(bench: Bench, variant: Variant, traced: Sequence[Mapping[str, Any]], count: int) -> None:
    """A line per variant that was traced; also as if neighbouring kernels left no gaps, as they always do."""
    spans = [_interval(event) for event in traced]
    if not spans:
        raise NothingTraced("the profiler saw nothing of the device")
    wall = max(end for _, end in spans) - min(begin for begin, _ in spans)
    bench.row(
        f"how busy the device is with steps of {bench.sizes.busy_rows} rows",
        {
            "variant": variant.name,
            "ms a step, traced": wall / 1e3 / count,
            "device busy share": union(spans) / wall,
            f"share with gaps below {_GAP:g} us": union(spans, _GAP) / wall,
        },
    )


def trace(work: Callable[[], object], device: torch.device) -> list[Mapping[str, Any]]:
    """What the device did meanwhile, by the profiler: events with ``name``, ``ts`` and ``dur`` (us)."""
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    if on_gpu:  # a step under way would be seen in part, and a gap before the next one
        torch.cuda.synchronize(device)
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


def union(spans: Iterable[Interval], gap: float = 0.0) -> float:
    """How long at least one of these intervals lasts, gaps up to ``gap`` between them included."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(end - (reached if begin - reached <= gap else begin), 0.0)
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
