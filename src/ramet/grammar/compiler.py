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
from collections import Counter, OrderedDict
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
OVERHEAD_BYTES = 16 << 10
"""Of a compiled constraint, besides its automaton and its text."""
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
        self._kept: OrderedDict[Constraint, tuple[Grammar, int]] = OrderedDict()  # least recently used first
        self._kept_bytes = 0
        self._in_use: weakref.WeakValueDictionary[Constraint, Grammar] = weakref.WeakValueDictionary()
        self._under_way: dict[Constraint, Future[Grammar]] = {}
        self._waiting: Counter[Constraint] = Counter()  # how many callers for each that is under way
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="ramet-grammar")
        self.num_compiled = 0
        self.compile_seconds = 0.0

    def submit(self, constraint: Constraint) -> Future[Grammar]:
        """The grammar of a constraint, at once if it is known. Its exception is an `InvalidConstraint`."""
        with self._lock:
            future = self._under_way.get(constraint)
            if future is not None:
                self._waiting[constraint] += 1
                return future
            grammar = self._in_use.get(constraint)
            if grammar is not None:
                self._keep(constraint, grammar)
                future = Future()
                future.set_result(grammar)
                return future
            future = self._under_way[constraint] = self._workers.submit(self._compile, constraint)
            self._waiting[constraint] = 1
        future.add_done_callback(lambda done: self._compiled(constraint, done))
        return future

    def give_up(self, constraint: Constraint) -> None:
        """One caller of `submit` no longer waits. What nobody waits for is not begun."""
        with self._lock:
            future = self._under_way.get(constraint)
            if future is None:
                return
            self._waiting[constraint] -= 1
            if self._waiting[constraint] > 0:
                return
            del self._under_way[constraint], self._waiting[constraint]
        future.cancel()

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

    def _compiled(self, constraint: Constraint, done: Future[Grammar]) -> None:
        with self._lock:
            if self._under_way.get(constraint) is done:
                del self._under_way[constraint], self._waiting[constraint]
            if not done.cancelled() and done.exception() is None:
                self._keep(constraint, done.result())

    def _keep(self, constraint: Constraint, grammar: Grammar) -> None:
        """Make it the last to be dropped, counted with what it takes now. Under the lock."""
        known = self._kept.pop(constraint, None)
        num_bytes = grammar.num_bytes + _size_of(constraint)
        self._in_use[constraint] = grammar
        self._kept[constraint] = grammar, num_bytes
        self._kept_bytes += num_bytes - (known[1] if known is not None else 0)
        while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._kept_bytes -= dropped

    def _compile(self, constraint: Constraint) -> Grammar:
        started = time.perf_counter()
        grammar = self._grammar(constraint)
        seconds = time.perf_counter() - started
        self.num_compiled += 1
        self.compile_seconds += seconds
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


def _size_of(constraint: Constraint) -> int:
    texts = constraint.choices if isinstance(constraint, Choice) else (str(constraint),)
    return OVERHEAD_BYTES + 4 * sum(map(len, texts))


def _parse(text: str) -> object:
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidConstraint(f"json_schema has {len(text)} characters, more than {MAX_SCHEMA_BYTES}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidConstraint(f"json_schema is not JSON: {error}") from error
