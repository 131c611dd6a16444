"""Ramet behind `wire`, through its public interface."""

from __future__ import annotations

import ramet as rm
from engine.peers.wire import Call, Options


class RametAdapter:
    """An engine with prefix cache; one without is made when a call asks for it."""

    def __init__(self, options: Options) -> None:
        self._model = options.model
        self._device = options.device
        self._cached = rm.Engine(self._model, device=self._device)
        self._uncached: rm.Engine | None = None

    def prepare(self, calls: list[Call]) -> None:
        self._cached.flush_cache()
        if self._uncached is None and not all(call.cache for call in calls):
            self._uncached = rm.Engine(self._model, device=self._device, enable_prefix_cache=False)

    def generate(self, call: Call) -> list[list[int]]:
        engine = self._cached if call.cache or self._uncached is None else self._uncached
        done = engine.generate(call.prompts, max_tokens=call.max_tokens, temperature=0, ignore_eos=True)
        return [list(completion.token_ids) for completion in done]

    def counters(self) -> dict[str, int]:
        engines = [self._cached] + ([self._uncached] if self._uncached is not None else [])
        stats = [engine.stats() for engine in engines]
        names = ("prompt_tokens", "computed_tokens", "generated_tokens", "rows", "steps", "preemptions")
        return {name: sum(getattr(counted, name) for counted in stats) for name in names}


load = RametAdapter
