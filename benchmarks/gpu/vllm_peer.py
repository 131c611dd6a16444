"""vLLM on random weights: ``python vllm_peer.py QUESTION ANSWER``, both JSON; the answer is a file."""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    vllm: Any = importlib.import_module("vllm")
    count, length = asked["prompts"]
    longest = max(length, asked["context"]) + asked["steps"] + 64
    llm = vllm.LLM(
        asked["model"],
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=longest,
        enable_prefix_caching=False,
    )

    def seconds(prompts: int, tokens: int, max_tokens: int) -> float:
        params = vllm.SamplingParams(
            temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False
        )
        asked_for = [
            {"prompt_token_ids": [random.randrange(2, asked["vocab_size"]) for _ in range(tokens)]}
            for _ in range(prompts)
        ]
        started = time.perf_counter()
        llm.generate(asked_for, params, use_tqdm=False)
        return time.perf_counter() - started

    seconds(count, length, 2)  # warm-up
    found = [(f"prefill {count} x {length:,}", seconds(count, length, 1), count * length)]
    for rows in asked["rows"]:
        context, steps = asked["context"], asked["steps"]
        # What more tokens take is decoding
        taken = (seconds(rows, context, steps + 1) - seconds(rows, context, 1)) / steps
        found.append((f"decode {rows} rows, {context:,} tokens", taken, rows))
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
