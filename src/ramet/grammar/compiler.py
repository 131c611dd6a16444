"""From constraints to grammars, each compiled once: off the engine's thread, cached for the next request.

Invariant: equal constraints that are wanted at the same time, or while one is in use or among the cached
ones, give the same `Grammar`. Knows nothing of requests.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from ramet.constraints import Cfg, Choice, Constraint, JsonSchema, Regex
from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import build_dfa
from ramet.grammar.guided import GuidedGrammar, GuidedVocab
from ramet.grammar.json_schema import RecursiveSchema, schema_to_node
from ramet.grammar.matcher import DfaGrammar, Grammar
from ramet.grammar.nodes import Alternate, Literal, Node
from ramet.grammar.regex import parse_regex
from ramet.grammar.token_index import TokenIndex
from ramet.tokenizer.tokenizer import Tokenizer

CACHE_BYTES = 256 << 20
MAX_SCHEMA_BYTES = 1 << 20
SLOW_SECONDS = 0.5

logger = logging.getLogger(__name__)


class GrammarCompiler:
    """Compiles constraints for one model. Safe to use from many threads.

    Args:
        tokenizer: the model's.
        vocab_size: of the model's logits.
        cache_bytes: memory of the compiled constraints that are kept when nobody uses them.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._guided_vocab = GuidedVocab(tokenizer, vocab_size)
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._index: TokenIndex | None = None  # built for the first constraint: most engines never see one
        self._index_lock = threading.Lock()
        self._kept: OrderedDict[Constraint, Grammar] = OrderedDict()  # least recently used first
        self._in_use: weakref.WeakValueDictionary[Constraint, Grammar] = weakref.WeakValueDictionary()
        self._under_way: dict[Constraint, Future[Grammar]] = {}
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="ramet-grammar")
        self.num_compiled = 0

    def submit(self, constraint: Constraint) -> Future[Grammar]:
        """The grammar of a constraint, at once if it is known. Its exception is an `InvalidConstraint`."""
        with self._lock:
            future = self._under_way.get(constraint)
            if future is not None:
                return future
            grammar = self._find(constraint)
            if grammar is not None:
                future = Future()
                future.set_result(grammar)
                return future
            future = self._under_way[constraint] = self._workers.submit(self._compile, constraint)
        future.add_done_callback(lambda done: self._keep(constraint, done))
        return future

    def get(self, constraint: Constraint) -> Grammar:
        """The grammar of a constraint; waits for it if it has to be compiled.

        Raises:
            InvalidConstraint: it cannot be compiled; the message says why.
            UnsupportedFeature: it needs a package that is not installed.
        """
        return self.submit(constraint).result()

    def close(self) -> None:
        """Compile nothing more."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _find(self, constraint: Constraint) -> Grammar | None:
        grammar = self._in_use.get(constraint)
        if constraint in self._kept:
            self._kept.move_to_end(constraint)
        elif grammar is not None:
            self._kept[constraint] = grammar
        return grammar

    def _keep(self, constraint: Constraint, done: Future[Grammar]) -> None:
        with self._lock:
            self._under_way.pop(constraint, None)
            if done.cancelled() or done.exception() is not None:
                return
            self._in_use[constraint] = self._kept[constraint] = done.result()
            total = sum(grammar.num_bytes for grammar in self._kept.values())
            while total > self._cache_bytes and len(self._kept) > 1:
                total -= self._kept.popitem(last=False)[1].num_bytes

    def _compile(self, constraint: Constraint) -> Grammar:
        started = time.perf_counter()
        grammar = self._grammar(constraint)
        self.num_compiled += 1
        seconds = time.perf_counter() - started
        if seconds > SLOW_SECONDS:
            logger.info("compiled a %s constraint in %.1f s", type(constraint).__name__, seconds)
        return grammar

    def _grammar(self, constraint: Constraint) -> Grammar:
        match constraint:
            case Regex(pattern):
                return self._regular(parse_regex(pattern))
            case Choice(choices):
                return self._regular(Alternate(tuple(map(Literal, choices))))
            case JsonSchema(text, whitespace):
                schema = _parse(text)
                between = None if whitespace is None else parse_regex(whitespace)
                try:
                    node = schema_to_node(schema, between)
                except RecursiveSchema as error:
                    return self._context_free(constraint, str(error))
                return self._regular(node)
            case Cfg():
                return self._context_free(constraint, "context-free grammars are not regular")

    def _regular(self, node: Node) -> Grammar:
        dfa = build_dfa(node)
        tokenizer = self._tokenizer
        return DfaGrammar(dfa, self._token_index(), tokenizer.vocab, tokenizer.encode_continuation)

    def _context_free(self, constraint: JsonSchema | Cfg, reason: str) -> Grammar:
        return GuidedGrammar(constraint, self._guided_vocab, reason)

    def _token_index(self) -> TokenIndex:
        with self._index_lock:
            if self._index is None:
                self._index = TokenIndex(self._tokenizer.vocab, self._vocab_size)
            return self._index


def _parse(text: str) -> object:
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidConstraint(f"json_schema has {len(text)} characters, more than {MAX_SCHEMA_BYTES}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidConstraint(f"json_schema is not JSON: {error}") from error
