"""llama.cpp behind `wire`, through the low-level batch interface of llama-cpp-python.

Independent prompts each have their own stream of the KV cache. A shared prefix is computed once and given to
the other sequences by ``seq_cp``, and kept for the next call: what its users do by hand.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path
from typing import Any

from engine.peers.wire import Call, Options

_BATCH = 2048
_UBATCH = 512
_WARNING, _ERROR = 3, 4


def _log_problems(level: int, text: bytes, _: object) -> None:
    if level in (_WARNING, _ERROR):
        sys.stderr.write(text.decode(errors="replace"))


class LlamaCppAdapter:
    """One model; a context per session."""

    def __init__(self, options: Options) -> None:
        self._c: Any = importlib.import_module("llama_cpp.llama_cpp")
        self._numpy: Any = importlib.import_module("numpy")
        self._threads = options.threads
        self._log = self._c.llama_log_callback(_log_problems)  # kept: C holds no reference
        self._c.llama_log_set(self._log, None)
        self._c.llama_backend_init()
        path = Path(options.model)
        if options.format is not None:
            path = self._requantized(path, options.format, Path(options.workdir))
        self._model = self._c.llama_model_load_from_file(
            str(path).encode(), self._c.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._vocab_size = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self._model))
        self._batch = self._c.llama_batch_init(_BATCH, 0, 1)
        self._context: Any = None
        self._shape: tuple[int, int, bool] | None = None
        self._held: list[int] = []

    def _requantized(self, source: Path, name: str, workdir: Path) -> Path:
        target = workdir / f"{source.stem}.llama.{name}.gguf"
        if target.exists():
            return target
        params = self._c.llama_model_quantize_default_params()
        params.nthread = self._threads
        params.ftype = getattr(self._c, f"LLAMA_FTYPE_MOSTLY_{name}")
        params.allow_requantize = True
        part = target.with_name(target.name + ".part")
        failed = self._c.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params))
        if failed:
            raise RuntimeError(f"llama_model_quantize to {name} failed with {failed}")
        part.rename(target)
        return target

    # ------------------------------------------------------------------------------------- contexts

    def prepare(self, calls: list[Call]) -> None:
        sequences = max(len(call.suffixes) for call in calls) + 1  # one more holds the prefix
        length = max(len(call.prompts[0]) + call.max_tokens for call in calls)
        shared = all(call.cache and call.prefix for call in calls)
        cells = -(-length // 256) * 256 * sequences
        if shared:
            own = max((len(call.suffixes[0]) + call.max_tokens) * len(call.suffixes) for call in calls)
            cells = -(-(max(len(call.prefix) for call in calls) + own) // 256) * 256
        shape = (cells, sequences, shared)
        if shape != self._shape:
            self._open(*shape)
            self._shape = shape
        self._memory = self._c.llama_get_memory(self._context)
        self._c.llama_memory_clear(self._memory, False)
        self._held = []

    def _open(self, cells: int, sequences: int, unified: bool) -> None:
        if self._context is not None:
            self._c.llama_free(self._context)
        params = self._c.llama_context_default_params()
        params.n_ctx = cells
        params.n_seq_max = sequences
        params.kv_unified = unified
        params.n_batch = _BATCH
        params.n_ubatch = _UBATCH
        params.n_threads = params.n_threads_batch = self._threads
        self._context = self._c.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"no context of {cells} cells for {sequences} sequences")

    # ------------------------------------------------------------------------------------ generation

    def generate(self, call: Call) -> list[list[int]]:
        count = len(call.suffixes)
        share = call.cache and bool(call.prefix)
        if share:
            self._hold(call.prefix, holder=self._last_sequence)
            for sequence in range(count):
                self._c.llama_memory_seq_cp(self._memory, self._last_sequence, sequence, -1, -1)
        start = len(call.prefix) if share else 0
        latest = self._prefill(call.suffixes if share else call.prompts, start)
        outputs = [[token] for token in latest]
        position = start + len(call.suffixes[0] if share else call.prompts[0])
        for _ in range(call.max_tokens - 1):
            rows = [(token, position, sequence, True) for sequence, token in enumerate(latest)]
            latest = self._decode(rows)
            position += 1
            for output, token in zip(outputs, latest, strict=True):
                output.append(token)
        for sequence in range(count):
            self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return outputs

    @property
    def _last_sequence(self) -> int:
        assert self._shape is not None
        return self._shape[1] - 1

    def _hold(self, prefix: list[int], holder: int) -> None:
        """Compute a prefix unless it is the one held already."""
        if prefix == self._held:
            return
        self._c.llama_memory_seq_rm(self._memory, holder, -1, -1)
        for begin in range(0, len(prefix), _BATCH):
            part = prefix[begin : begin + _BATCH]
            self._decode([(token, begin + i, holder, False) for i, token in enumerate(part)])
        self._held = prefix

    def _prefill(self, parts: list[list[int]], start: int) -> list[int]:
        """Compute one part per sequence, as many at once as a batch holds; returns the next tokens."""
        tokens: list[int] = []
        rows: list[tuple[int, int, int, bool]] = []
        for sequence, part in enumerate(parts):
            if len(rows) + len(part) > _BATCH and rows:
                tokens += self._decode(rows)
                rows = []
            for begin in range(0, len(part), _BATCH):
                piece = part[begin : begin + _BATCH]
                last = len(part) - 1 - begin
                rows += [(token, start + begin + i, sequence, i == last) for i, token in enumerate(piece)]
                if len(rows) >= _BATCH:
                    tokens += self._decode(rows)
                    rows = []
        return tokens + (self._decode(rows) if rows else [])

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute rows of (token, position, sequence, wanted); returns the likeliest next of those wanted."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        failed = self._c.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama_decode of {len(rows)} tokens failed with {failed}")
        return [self._likeliest(i) for i, row in enumerate(rows) if row[3]]

    def _likeliest(self, row: int) -> int:
        logits = self._c.llama_get_logits_ith(self._context, row)
        return int(self._numpy.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())

    def counters(self) -> dict[str, int]:
        return {}


load = LlamaCppAdapter
