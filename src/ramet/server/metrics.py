"""What an operator sees: counters, gauges and times in Prometheus' text format.

One registry per application. The engine's own counters and the gate's are read when somebody asks for them;
times are observed by `MeasuredEngine` as they pass. Knows no route but its own.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from ramet.errors import EngineDead
from ramet.server.errors import error_responses
from ramet.server.gate import Gate
from ramet.server.measured import MeasuredEngine
from ramet.server.served import ServedEngine
from ramet.stats import EngineStats
from ramet.types import Completion

PATIENCE_SECONDS = 5.0  # for the engine's counters; less than what scrapers usually have

_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_DURATIONS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LENGTHS = tuple(4**power for power in range(10))

_COUNTERS = (  # name of the metric, field of `EngineStats`, what it counts
    ("requests", "requests", "Requests the engine accepted."),
    ("prompt_tokens", "prompt_tokens", "Tokens of prompts."),
    ("cached_tokens", "cached_tokens", "Tokens of prompts found in the radix tree."),
    ("computed_tokens", "computed_tokens", "Tokens of prompts computed."),
    ("generated_tokens", "generated_tokens", "Tokens sampled."),
    ("jump_forward_tokens", "jump_forward_tokens", "Tokens that a constraint left no choice about."),
    ("evicted_tokens", "evicted_tokens", "Tokens whose KV was dropped."),
    ("preemptions", "preemptions", "Times a running request gave way because slots ran out."),
    ("steps", "steps", "Steps of the engine."),
    ("rows", "rows", "Tokens computed in all steps."),
    ("grammars_compiled", "grammars_compiled", "Constraints compiled."),
    ("grammar_compile_seconds", "grammar_compile_seconds", "What that took, on a thread of its own."),
)
_GAUGES = (
    ("requests_running", "running", "Requests in the engine's steps now."),
    ("requests_waiting", "waiting", "Requests that wait to be admitted."),
    ("kv_slots_total", "total_slots", "Tokens the KV pool holds."),
    ("kv_slots_leased", "leased_tokens", "Slots of prefixes that somebody leased."),
)


class Metrics:
    """One per application."""

    def __init__(self, engine: ServedEngine, gate: Gate) -> None:
        self._engine = engine
        self._gate = gate
        self._stats: EngineStats | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._histograms = _Histograms()

    def measured(self, engine: ServedEngine) -> ServedEngine:
        """The same engine, its calls timed."""
        return MeasuredEngine(engine, lambda: _Stopwatch(self._histograms))

    async def exposition(self) -> bytes:
        """Everything, in Prometheus' text format. If the engine does not answer, what the server knows."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._stats = await self._engine.stats()
        except (EngineDead, TimeoutError):
            self._stats = None
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What there is (prometheus_client calls this)."""
        for histogram in self._histograms.all:
            yield histogram.family()
        responses = CounterMetricFamily(
            "ramet_http_responses", "Responses by route and status.", labels=("route", "status")
        )
        for (route, status), count in self._gate.responses.items():
            responses.add_metric((route, str(status)), count)
        yield responses
        yield CounterMetricFamily(
            "ramet_requests_turned_away",
            "Requests refused because too many were in flight.",
            self._gate.num_turned_away,
        )
        yield GaugeMetricFamily(
            "ramet_requests_in_flight", "HTTP requests being answered now.", self._gate.num_inside
        )
        stats = self._stats
        yield GaugeMetricFamily(
            "ramet_engine_up", "1 if the engine takes requests.", float(stats is not None)
        )
        if stats is None:
            return
        for name, field, meaning in _COUNTERS:
            yield CounterMetricFamily(f"ramet_{name}", meaning, getattr(stats, field))
        for name, field, meaning in _GAUGES:
            yield GaugeMetricFamily(f"ramet_{name}", meaning, getattr(stats, field))
        used = stats.total_slots - stats.free_slots
        yield GaugeMetricFamily("ramet_kv_slots_used", "Slots that hold KV, evictable ones included.", used)


class _Histogram:
    """How many values lie below each limit. prometheus_client's own takes a lock, for each token."""

    def __init__(self, name: str, meaning: str, limits: Sequence[float]) -> None:
        self._name = name
        self._meaning = meaning
        self._limits = limits
        self._counts = [0] * (len(limits) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._limits, value)] += 1
        self._sum += value

    def family(self) -> Metric:
        names = [*(str(float(limit)) for limit in self._limits), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(f"ramet_{self._name}", self._meaning, buckets, self._sum)


class _Histograms:
    """What is observed of every request, on the event loop."""

    def __init__(self) -> None:
        self.first_token = _Histogram("time_to_first_token_seconds", "Of streams.", _WAITS)
        self.gap = _Histogram(
            "inter_token_seconds", "Between chunks of a stream, per token of the later one.", _GAPS
        )
        self.request = _Histogram("request_seconds", "From a request to its last token.", _DURATIONS)
        self.prompt_length = _Histogram("request_prompt_tokens", "Of a prompt.", _LENGTHS)
        self.output_length = _Histogram("request_output_tokens", "Of a completion.", _LENGTHS)
        self.all = (self.first_token, self.gap, self.request, self.prompt_length, self.output_length)


class _Stopwatch:
    """Times one request; satisfies `RequestTimes`."""

    def __init__(self, histograms: _Histograms) -> None:
        self._histograms = histograms
        self._started = time.monotonic()
        self._last: dict[int, float] = {}

    def chunk(self, index: int, num_tokens: int) -> None:
        now = time.monotonic()
        last = self._last.get(index)
        if last is None:
            self._histograms.first_token.observe(now - self._started)
        elif num_tokens:
            self._histograms.gap.observe((now - last) / num_tokens)
        self._last[index] = now

    def finished(self, completions: Sequence[Completion]) -> None:
        self._histograms.request.observe(time.monotonic() - self._started)
        if completions:
            self._histograms.prompt_length.observe(completions[0].usage.prompt_tokens)
        for completion in completions:
            self._histograms.output_length.observe(completion.usage.completion_tokens)


def metrics_routes() -> APIRouter:
    router = APIRouter()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **error_responses(),
        },
    )
    async def metrics(request: Request) -> Response:
        """Counters, gauges and times in Prometheus' text format."""
        exposition = await request.app.state.service.metrics.exposition()
        return Response(exposition, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
