"""xgrammar behind `run`: compiles a constraint and follows a text through it, mask by mask."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

_SEPARATORS = (", ", ": ")


class XgrammarAdapter:
    """One vocabulary. Nothing that was compiled is kept."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._xgrammar: Any = importlib.import_module("xgrammar")
        tokens = [token.encode("latin-1") for token in json.loads(Path(options["tokens"]).read_text())]
        started = time.perf_counter()
        tokenizer = self._xgrammar.TokenizerInfo(
            tokens, self._xgrammar.VocabType.RAW, stop_token_ids=options["eos"]
        )
        self._prepared = time.perf_counter() - started
        self._compiler = self._xgrammar.GrammarCompiler(
            tokenizer, max_threads=options["threads"], cache_enabled=False
        )
        self._bitmask = self._xgrammar.allocate_token_bitmask(1, tokenizer.vocab_size)

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        if call["kind"] == "prepared":
            return {"seconds": self._prepared}
        started = time.perf_counter()
        try:
            matcher = self._xgrammar.GrammarMatcher(self._compile(call["kind"], call["text"]))
        except RuntimeError as error:
            return {"error": str(error)}
        matcher.fill_next_token_bitmask(self._bitmask)
        first = time.perf_counter() - started
        masks: list[float] = []
        for token_id in call["token_ids"]:
            started = time.perf_counter()
            if not matcher.accept_token(token_id):
                return {"error": f"refuses token {len(masks)} of the text"}
            if matcher.is_terminated():
                break
            matcher.fill_next_token_bitmask(self._bitmask)
            masks.append(time.perf_counter() - started)
        return {"first": first, "masks": masks}

    def _compile(self, kind: str, text: str) -> Any:
        if kind == "json_schema":
            return self._compiler.compile_json_schema(text, any_whitespace=False, separators=_SEPARATORS)
        return self._compiler.compile_regex(text)


load = XgrammarAdapter
