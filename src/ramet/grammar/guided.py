"""Constraints that are no regular languages, context-free grammars and recursive schemas, through llguidance.

llguidance is an Earley parser with a lexer of derivatives; it computes the mask of each position anew. Here
its matchers are made to keep the promises of `GrammarMatcher`: text only (no special or end-of-sequence
tokens), strict (what it would ignore is refused) and bounded (by its limits, and by ours where it has none).
Invariant: as in `ramet.grammar.matcher`. Knows nothing of requests, logits or schedules.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ramet.constraints import Cfg, JsonSchema
from ramet.errors import InvalidConstraint, UnsupportedFeature
from ramet.grammar.json_syntax import JsonSyntax
from ramet.grammar.lark import MAX_LENGTH, checked_grammar
from ramet.grammar.matcher import GrammarMatcher
from ramet.grammar.recursive_schema import matches_nothing_too, spell, standalone_schema
from ramet.grammar.regex import parse_regex
from ramet.model_io import UInt32Array
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.tokenizer.vocab import Vocab

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_LENGTH = 1 << 18
"""Characters of a recursive schema once it is written anew."""
MAX_LEXER_STATES = 50_000
"""Of about 2 KB each, shared by all matchers of a grammar. llguidance's other limits are left as they are."""

_GBNF = re.compile(r"^\s*root\s*::=", re.MULTILINE)
_ESCAPES = 'nrbtf\\"'
"""Without ``u``: llguidance takes a key whose letters are written as escapes for a key of another name."""


class GuidedVocab:
    """A model's vocabulary as llguidance needs it: built for the first grammar, shared by all.

    Args:
        tokenizer: the model's.
        vocab_size: of the model's logits; may differ from the size of the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._tokens: GuidedTokens | None = None
        self._lock = threading.Lock()

    def tokens(self, reason: str) -> GuidedTokens:
        """The vocabulary, built.

        Raises:
            UnsupportedFeature: llguidance is not installed; ``reason`` says why it is needed.
        """
        with self._lock:
            if self._tokens is None:
                self._tokens = self._build(reason)
            return self._tokens

    def _build(self, reason: str) -> GuidedTokens:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise UnsupportedFeature(
                f'{reason}; that takes llguidance: pip install "ramet[grammar]"'
            ) from error
        vocab = self._tokenizer.vocab
        is_text = np.array([bool(piece) for piece in vocab.token_bytes], dtype=np.bool_)
        no_text = {*vocab.special_ids, *self._tokenizer.eos_token_ids}
        is_text[[token_id for token_id in no_text if token_id < len(vocab)]] = False
        bits = np.zeros(-(-self._vocab_size // 32) * 32, dtype=np.bool_)
        size = min(self._vocab_size, len(vocab))
        bits[:size] = is_text[:size]
        mask = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        wrapper: Any = _Wrapper(self._tokenizer, is_text)  # llguidance knows it by its attributes
        return GuidedTokens(LLTokenizer(wrapper), vocab, is_text, mask)


@dataclass(frozen=True, slots=True, eq=False)
class GuidedTokens:
    """Attributes: llguidance's tokenizer, our vocabulary, and which of its tokens may stand in a text."""

    tokenizer: LLTokenizer
    vocab: Vocab
    is_text: NDArray[np.bool_]  # [len(vocab)]
    text_mask: UInt32Array  # [ceil(vocab_size / 32)]


class _Wrapper:
    """What llguidance asks of a tokenizer.

    Tokens that are no text are special to it. Its end-of-sequence token is an extra one behind the
    vocabulary: whether the text may end is asked of the parser, not read off a mask.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, is_text: NDArray[np.bool_]) -> None:
        pieces = tokenizer.vocab.token_bytes
        self.tokens = [
            piece if text else b"<%d>" % i
            for i, (piece, text) in enumerate(zip(pieces, is_text, strict=True))
        ]
        self.eos_token_id = len(self.tokens)
        self.tokens.append(b"<end>")
        self.special_token_ids = [*np.flatnonzero(~is_text).tolist(), self.eos_token_id]
        self._encode = tokenizer.encode_continuation

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode())


class GuidedGrammar:
    """A `Grammar` that llguidance parses.

    Raises:
        InvalidConstraint: llguidance or we refuse it; the message says why.
        UnsupportedFeature: llguidance is not installed; the message gives ``reason``.
    """

    def __init__(self, constraint: JsonSchema | Cfg, vocab: GuidedVocab, reason: str) -> None:
        tokens = vocab.tokens(reason)
        from llguidance import LLMatcher, LLParserLimits

        text = _json_grammar(constraint) if isinstance(constraint, JsonSchema) else _lark_grammar(constraint)
        limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
        template = LLMatcher(tokens.tokenizer, text, log_level=0, limits=limits)
        if template.is_error():
            raise InvalidConstraint(f"the grammar cannot be compiled: {_message(template)}")
        if warnings := template.get_grammar_warnings():
            raise InvalidConstraint(f"the grammar cannot be enforced: {'; '.join(warnings)}")
        self._num_bytes = 64 * len(text)
        # Both ways to begin are tried here, so that a grammar without any text is refused before it is used.
        self._plain = GuidedMatcher(tokens, template, jump_forward=False)
        self._plain.begin()
        self._jumping = GuidedMatcher(tokens, template.deep_copy(), jump_forward=True)
        self._jumping.begin()

    @property
    def num_bytes(self) -> int:
        """A guess: llguidance does not say, and its automata grow while they are used."""
        return self._num_bytes + 1_000_000

    def matcher(self, *, jump_forward: bool = True) -> GrammarMatcher:
        return (self._jumping if jump_forward else self._plain).copy()


class GuidedMatcher:
    """A `GrammarMatcher` on a parser of llguidance."""

    def __init__(self, tokens: GuidedTokens, parser: LLMatcher, *, jump_forward: bool) -> None:
        self._tokens = tokens
        self._parser = parser
        self._jump_forward = jump_forward
        self._mask: UInt32Array | None = None
        self._begun: list[int] | None = None

    def copy(self) -> GuidedMatcher:
        """Another one that stands where this one stands."""
        other = GuidedMatcher(self._tokens, self._parser.deep_copy(), jump_forward=self._jump_forward)
        other._mask, other._begun = self._mask, self._begun
        return other

    @property
    def may_end(self) -> bool:
        return self._parser.is_accepting()

    @property
    def is_terminated(self) -> bool:
        return self.may_end and not self._allowed().any()

    def begin(self) -> list[int]:
        if self._begun is None:
            self._begun = self._jump()
            self._check()
        return list(self._begun)

    def take(self, token_id: int) -> list[int]:
        is_text = self._tokens.is_text
        allowed = 0 <= token_id < len(is_text) and bool(is_text[token_id])
        if not allowed or not self._parser.consume_token(token_id):
            piece = self._tokens.vocab.bytes_of(token_id)
            raise InvalidConstraint(f"token {token_id} ({piece!r}) does not continue the constraint")
        self._mask = None
        token_ids = [token_id, *self._jump()]
        self._check()
        return token_ids

    def fill_bitmask(self, row: UInt32Array) -> None:
        np.copyto(row, self._allowed())

    def _jump(self) -> list[int]:
        """Take the tokens that are forced here."""
        if not self._jump_forward:
            return []
        token_ids = self._parser.compute_ff_tokens()
        # A tokenizer that changes text gives others than were asked for: those that fit are taken.
        count = self._parser.try_consume_tokens(token_ids) if token_ids else 0
        if count:
            self._mask = None
        return token_ids[:count]

    def _allowed(self) -> UInt32Array:
        if self._mask is None:
            mask = np.zeros_like(self._tokens.text_mask)
            if not self._parser.is_stopped():
                given = np.frombuffer(self._parser.compute_bitmask(), dtype="<u4")
                size = min(len(given), len(mask))
                np.bitwise_and(given[:size], self._tokens.text_mask[:size], out=mask[:size])
            self._mask = mask
        return self._mask

    def _check(self) -> None:
        blocked = not self.may_end and not self._allowed().any()
        if self._parser.is_error():
            message = _message(self._parser)
            if not message.startswith("NoExtension"):
                raise InvalidConstraint(f"the grammar is too complex to go on here: {message}")
        if blocked:
            raise InvalidConstraint("no token of the model's vocabulary can continue the constraint here")


def _message(parser: LLMatcher) -> str:
    """What llguidance says is wrong, without its dumps."""
    lines = [
        line for line in parser.get_error().splitlines() if not line.startswith(("<non-verbose", "<state"))
    ]
    text = "\n".join(lines).strip()
    return text if len(text) <= 500 else text[:500] + "…"


def _lark_grammar(constraint: Cfg) -> str:
    from llguidance import LLMatcher

    grammar = constraint.grammar
    if len(grammar) <= MAX_LENGTH and _GBNF.search(grammar) is not None:
        grammar = _from_gbnf(grammar)
    return LLMatcher.grammar_from_lark(checked_grammar(grammar, _json_options(None)))


def _from_gbnf(grammar: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(grammar)
    except Exception as error:  # the converter raises bare exceptions at what it cannot read
        raise InvalidConstraint(
            f"the GBNF grammar cannot be read: {error or type(error).__name__}"
        ) from error


def _json_grammar(constraint: JsonSchema) -> str:
    from llguidance import LLMatcher

    options = _json_options(constraint.whitespace)
    text = json.dumps(standalone_schema(json.loads(constraint.schema)))
    if len(text) > MAX_SCHEMA_LENGTH:
        raise InvalidConstraint(
            f"the recursive json_schema, its patterns written out, has {len(text):,} characters, more than "
            f"{MAX_SCHEMA_LENGTH:,}"
        )
    return LLMatcher.grammar_from_json_schema(text, overrides=options)  # type: ignore[arg-type]


def _json_options(whitespace: str | None) -> dict[str, Any]:
    """How JSON is written. See `JsonSchema.whitespace`."""
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": _ESCAPES}
    if whitespace is None:
        return options | {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    node = parse_regex(whitespace)
    JsonSyntax(node)  # refuses what is no whitespace
    if not matches_nothing_too(node):
        raise InvalidConstraint(
            f"whitespace {whitespace!r} must match the empty string too where the json_schema is recursive"
        )
    return options | {"whitespace_pattern": spell(node), "item_separator": ",", "key_separator": ":"}
