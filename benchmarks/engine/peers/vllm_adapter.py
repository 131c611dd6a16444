"""vLLM for CPUs behind `wire`. Threads and allocator are set by the environment it is started in."""

from __future__ import annotations

import importlib
from typing import Any

from engine.peers.wire import Call, Options

_MAX_PROMPT = 8192
_MAX_SEQUENCES = 64


class VllmAdapter:
    """One engine; calls without cache do not read it."""

    def __init__(self, options: Options) -> None:
        self._vllm: Any = importlib.import_module("vllm")
        self._llm = self._vllm.LLM(
            options.model,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=_MAX_PROMPT,
            max_num_seqs=_MAX_SEQUENCES,
            enable_prefix_caching=True,
        )

    def prepare(self, calls: list[Call]) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")

    def generate(self, call: Call) -> list[list[int]]:
        params = self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=call.max_tokens,
            ignore_eos=True,
            detokenize=False,
            skip_reading_prefix_cache=not call.cache,
        )
        prompts = [{"prompt_token_ids": prompt} for prompt in call.prompts]
        results = self._llm.generate(prompts, params, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    def counters(self) -> dict[str, int]:
        return {}


load = VllmAdapter
