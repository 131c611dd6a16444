"""Who makes masks: Ramet's grammars, llguidance in this process, xgrammar in its own.

Each follows the same texts through the same constraints: a mask at the start, and one after every token.
Knows nothing of tables.
"""

from __future__ import annotations

import gc
import importlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from constrained_decoding.patterns import Case
from constrained_decoding.vocabularies import Vocabulary
from engine.engine_process import EngineFailed, EngineProcess, EngineSpec
from ramet.constraints import Choice
from ramet.errors import RametError
from ramet.grammar.compiler import GrammarCompiler
from ramet.grammar.matcher import DfaGrammar

_RUN = Path(__file__).parent / "peers" / "run.py"
_SAME_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Followed:
    """One text through one constraint, in seconds.

    Attributes:
        first: to compile the constraint and make the mask of its start.
        masks: to take a token and make the next mask, for each token.
        is_new: for each of them, whether its state was not visited before (where the library tells).
        error: why there is less than was asked for.
    """

    first: float = 0.0
    masks: list[float] = field(default_factory=list)
    is_new: list[bool] = field(default_factory=list)
    error: str | None = None


class Library(Protocol):
    """One library, ready for one vocabulary.

    Attributes:
        prepared: seconds to get ready, once per vocabulary.
    """

    name: str
    prepared: float

    def follow(self, case: Case) -> Followed:
        """Compile a constraint that was never seen before, and follow its text."""
        ...

    def close(self) -> None:
        """Not needed any more."""
        ...


class Ramet:
    """Grammars as an engine compiles them, without jump-forward."""

    name = "Ramet"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._compiler = GrammarCompiler(vocabulary.tokenizer, len(vocabulary.vocab), cache_bytes=0)
        started = time.perf_counter()
        self._compiler.get(Choice(("ready",)))  # the first constraint builds the index of the vocabulary
        self.prepared = time.perf_counter() - started

    def follow(self, case: Case) -> Followed:
        self._forget()
        row = np.zeros(-(-len(self._vocabulary.vocab) // 32), np.uint32)
        started = time.perf_counter()
        try:
            grammar = self._compiler.get(case.constraint)
        except RametError as error:
            return Followed(error=str(error))
        matcher = grammar.matcher(jump_forward=False)
        matcher.begin()
        matcher.fill_bitmask(row)
        found = Followed(time.perf_counter() - started)
        assert isinstance(grammar, DfaGrammar), case.name
        state, visited = 0, {0}
        for token_id in self._vocabulary.characters(case.text):
            started = time.perf_counter()
            try:
                matcher.take(token_id)
            except RametError as error:
                return Followed(error=str(error))
            matcher.fill_bitmask(row)
            found.masks.append(time.perf_counter() - started)
            state = grammar.fsm.walk(state, self._vocabulary.vocab.bytes_of(token_id))
            found.is_new.append(state not in visited)
            visited.add(state)
        return found

    def _forget(self) -> None:
        """Leave no compiled constraint behind: of those not in use, a cache of 0 bytes keeps the last."""
        for filler in ("one", "another"):
            self._compiler.get(Choice((filler, str(self._compiler.num_compiled))))
        gc.collect()

    def close(self) -> None:
        self._compiler.close()


class Llguidance:
    """llguidance with a tokenizer object of its own over the same tokens.

    Raises:
        ImportError: it is not installed.
    """

    name = "llguidance"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._library: Any = importlib.import_module("llguidance")
        self._vocabulary = vocabulary
        tokenizer = _TokenizerForLlguidance(vocabulary)
        started = time.perf_counter()
        self._tokenizer = self._library.LLTokenizer(self._library.TokenizerWrapper(tokenizer))
        self.prepared = time.perf_counter() - started

    def follow(self, case: Case) -> Followed:
        matcher_type = self._library.LLMatcher
        kind, text = case.wire
        started = time.perf_counter()
        if kind == "json_schema":
            grammar = matcher_type.grammar_from_json_schema(text, overrides=_SAME_JSON)
        else:
            grammar = matcher_type.grammar_from_regex(text)
        matcher = matcher_type(self._tokenizer, grammar)
        matcher.compute_bitmask()
        found = Followed(time.perf_counter() - started)
        if matcher.is_error():
            return Followed(error=matcher.get_error())
        for token_id in self._vocabulary.characters(case.text):
            started = time.perf_counter()
            if not matcher.consume_token(token_id):
                return Followed(error=f"refuses token {len(found.masks)} of the text")
            if matcher.is_stopped():
                break
            matcher.compute_bitmask()
            found.masks.append(time.perf_counter() - started)
        return found

    def close(self) -> None:
        pass


class _TokenizerForLlguidance:
    """The attributes that llguidance reads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        vocab = vocabulary.vocab
        self.eos_token_id = vocabulary.eos
        self.bos_token_id = vocabulary.tokenizer.bos_token_id
        self.tokens = [data or vocab.text(index).encode() for index, data in enumerate(vocab.token_bytes)]
        self.special_token_ids = sorted(vocab.special_ids)
        self._encode = vocabulary.tokenizer.encode_continuation

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode(errors="replace") if isinstance(text, bytes) else text)


class Xgrammar:
    """xgrammar in a process with its own Python; it compiles with several threads.

    Raises:
        EngineFailed: it does not start there.
    """

    name = "xgrammar"

    def __init__(
        self, vocabulary: Vocabulary, python: Path, workdir: Path, *, threads: int, timeout: float
    ) -> None:
        self._vocabulary = vocabulary
        label = f"xgrammar-{len(vocabulary.vocab)}"
        tokens = workdir / f"{label}.json"
        tokens.write_text(json.dumps([data.decode("latin-1") for data in vocabulary.vocab.token_bytes]))
        options = {"tokens": str(tokens), "eos": vocabulary.eos, "threads": threads}
        spec = EngineSpec(self.name, (python, _RUN, "xgrammar_adapter"), options)
        self._process = EngineProcess(spec, workdir / f"{label}.log", timeout=timeout)
        try:
            self._process.start()
            [answer] = self._process.session([{"kind": "prepared"}])
        except BaseException:
            self._process.close()
            raise
        self.prepared = answer["seconds"]

    def follow(self, case: Case) -> Followed:
        kind, text = case.wire
        call = {"kind": kind, "text": text, "token_ids": self._vocabulary.characters(case.text)}
        try:
            if not self._process.running:  # it was ended by a constraint that took too long
                self._process.start()
            [answer] = self._process.session([call])
        except EngineFailed as error:
            return Followed(error=str(error))
        return Followed(**answer)

    def close(self) -> None:
        self._process.close()
