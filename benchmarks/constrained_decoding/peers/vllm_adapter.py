"""vLLM for CPUs behind `run`, with its structured outputs. Threads are set by the environment."""

from __future__ import annotations

import importlib
import time
from typing import Any

_MAX_MODEL_LEN = 2048
_MAX_SEQUENCES = 64


class VllmAdapter:
    """One engine; its masks are xgrammar's. Its JSON has no choice of white space, as ours has none."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._vllm: Any = importlib.import_module("vllm")
        self._sampling: Any = importlib.import_module("vllm.sampling_params")
        self._llm = self._vllm.LLM(
            options["model"],
            dtype="bfloat16",
            max_model_len=_MAX_MODEL_LEN,
            max_num_seqs=_MAX_SEQUENCES,
            enable_prefix_caching=True,
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        )

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")
        wanted = self._sampling.StructuredOutputsParams(json=call["schema"])
        params = [
            self._vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, structured_outputs=wanted)
            for max_tokens in call["max_tokens"]
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt in call["prompts"]]
        started = time.perf_counter()
        results = self._llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        outputs = [result.outputs[0] for result in results]
        return {
            "seconds": seconds,
            "token_ids": [list(output.token_ids) for output in outputs],
            "texts": [output.text for output in outputs],
            "work": {},
        }


load = VllmAdapter
