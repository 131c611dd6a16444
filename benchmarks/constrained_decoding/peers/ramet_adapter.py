"""Ramet behind `run`, through its public interface."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ramet as rm

_COUNTED = ("steps", "generated_tokens", "jump_forward_tokens", "computed_tokens")


class RametAdapter:
    """One engine. Each call starts with nothing cached but compiled constraints."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._engine = rm.Engine(
            options["model"],
            num_threads=options["threads"],
            enable_jump_forward=options["jump_forward"],
        )

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        engine, schema = self._engine, call["schema"]
        constraint = None if schema is None else rm.JsonSchema(schema)
        engine.generate(call["prompts"][0], max_tokens=0, constraint=constraint)  # compiles, makes no mask
        if not engine.flush_cache():
            raise RuntimeError("the prefix cache could not be emptied")
        before, started = engine.stats(), time.perf_counter()
        completions = asyncio.run(self._generate(call, constraint))
        seconds, after = time.perf_counter() - started, engine.stats()
        return {
            "seconds": seconds,
            "token_ids": [completion.token_ids for completion in completions],
            "texts": [completion.text for completion in completions],
            "work": {name: getattr(after, name) - getattr(before, name) for name in _COUNTED},
        }

    async def _generate(self, call: dict[str, Any], constraint: rm.JsonSchema | None) -> list[rm.Completion]:
        completions: list[rm.Completion] = await asyncio.gather(
            *(
                self._engine.agenerate(
                    prompt,
                    max_tokens=max_tokens,
                    temperature=0,
                    constraint=constraint,
                    ignore_eos=constraint is None,
                )
                for prompt, max_tokens in zip(call["prompts"], call["max_tokens"], strict=True)
            )
        )
        return completions


load = RametAdapter
