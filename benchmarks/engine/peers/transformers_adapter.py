"""transformers in bfloat16 behind `wire`: its own forward pass in a greedy loop over a static batch.

Prompts of many tokens are computed a few at a time, which is faster than all at once. A shared prefix is
computed once and its cache repeated for the branches, by hand; it is kept for the next call.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

from engine.peers.wire import Call, Options

_PREFILL_TOKENS = 4096


class TransformersAdapter:
    """One model, and the cache of the last shared prefix."""

    def __init__(self, options: Options) -> None:
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self._torch.set_num_threads(options.threads)
        self._dynamic_cache: Any = transformers.DynamicCache
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(options.model, dtype=self._torch.bfloat16).eval().to(options.device)
        self._held: list[int] = []
        self._held_cache: Any = None

    def prepare(self, calls: list[Call]) -> None:
        self._held, self._held_cache = [], None

    def generate(self, call: Call) -> list[list[int]]:
        with self._torch.inference_mode():
            if call.cache and call.prefix:
                if call.prefix != self._held:
                    self._held_cache = self._dynamic_cache(config=self._model.config)
                    self._step([call.prefix], self._held_cache)
                    self._held = call.prefix
                cache = copy.deepcopy(self._held_cache)
                cache.batch_repeat_interleave(len(call.suffixes))
                return self._decode(self._step(call.suffixes, cache), cache, call.max_tokens)
            outputs: list[list[int]] = []
            together = self._prompts_together(call)
            for begin in range(0, len(call.prompts), together):
                cache = self._dynamic_cache(config=self._model.config)
                first = self._step(call.prompts[begin : begin + together], cache)
                outputs += self._decode(first, cache, call.max_tokens)
            return outputs

    def _prompts_together(self, call: Call) -> int:
        """All of them if they are short; else few enough for the largest batch worth computing at once."""
        return max(_PREFILL_TOKENS // len(call.prompts[0]), 1)

    def _step(self, rows: list[list[int]], cache: Any) -> list[int]:
        """Compute rows of equal length; returns the likeliest next token of each."""
        ids = self._torch.tensor(rows, device=self._model.device)
        logits = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return [int(token) for token in logits[:, -1].argmax(-1)]

    def _decode(self, first: list[int], cache: Any, max_tokens: int) -> list[list[int]]:
        outputs = [[token] for token in first]
        for _ in range(max_tokens - 1):
            for output, token in zip(outputs, self._step([[o[-1]] for o in outputs], cache), strict=True):
                output.append(token)
        return outputs

    def counters(self) -> dict[str, int]:
        return {}


load = TransformersAdapter
