"""Counters since the engine started. Users read them as `EngineStats`; tests count work with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class EngineStats:
    """Counters since start, and the state of the queues and the KV pool now.

    Attributes:
        requests: requests accepted; a completion of ``n > 1`` and a scored continuation count as one each.
        prompt_tokens: tokens of their prompts (of scored continuations too).
        cached_tokens: of those, tokens found in the radix tree, computed or about to be.
        computed_tokens: of those, tokens computed; a last token computed again for its logits counts.
        generated_tokens: tokens sampled.
        jump_forward_tokens: tokens that a constraint left no choice about: appended without sampling.
        steps: steps executed.
        rows: tokens computed in all steps: of prompts, of outputs, and again after preemptions.
        evicted_tokens: tokens whose KV was dropped to make room, or by a flush.
        preemptions: times a running request had to give way because slots ran out.
        grammars_compiled: constraints compiled; those that were found compiled do not count.
        grammar_compile_seconds: what that took, on a thread of its own.
        running, waiting: requests now; those whose constraint is being compiled are waiting.
        leased_tokens: tokens that leases keep now.
        free_slots, total_slots: of the KV pool now; slots that are not free may still be evictable.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    jump_forward_tokens: int = 0
    steps: int = 0
    rows: int = 0
    evicted_tokens: int = 0
    preemptions: int = 0
    grammars_compiled: int = 0
    grammar_compile_seconds: float = 0.0
    running: int = 0
    waiting: int = 0
    leased_tokens: int = 0
    free_slots: int = 0
    total_slots: int = 0
