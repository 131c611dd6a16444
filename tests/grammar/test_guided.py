"""Recursive schemas and context-free grammars: random tokens that the masks allow spell legal texts."""

from __future__ import annotations

import json
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pieces import piece_tokenizer

from ramet.constraints import Cfg, JsonSchema
from ramet.errors import InvalidConstraint, UnsupportedFeature
from ramet.grammar.guided import GuidedGrammar, GuidedVocab
from ramet.store import resolve_model
from ramet.tokenizer import load_tokenizer

pytest.importorskip("llguidance", reason="needs the grammar extra: pip install 'ramet[grammar]'")

PADDING = 77  # rows of the logits that no token has
ITSELF = {"$ref": "#"}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[a-zé]{1,6}$"},
                "when": {"type": "string", "format": "date"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3},
            },
            "required": ["name", "children"],
            "additionalProperties": False,
        }
    },
}
LINKED_LIST = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [ITSELF, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}
ARITHMETIC = r"""
start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: NUMBER | "(" sum ")"  // parentheses to any depth
NUMBER: /[1-9][0-9]{0,3}/
"""


class Model:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.vocab = tokenizer.vocab
        self.vocab_size = len(tokenizer.vocab) + PADDING
        self.guided = GuidedVocab(tokenizer, self.vocab_size)

    def schema(self, schema, whitespace=None):
        return GuidedGrammar(JsonSchema(json.dumps(schema), whitespace), self.guided, "it is recursive")

    def cfg(self, text):
        return GuidedGrammar(Cfg(text), self.guided, "it is context-free")

    def allowed(self, matcher):
        row = np.full(-(-self.vocab_size // 32), 0xFFFFFFFF, np.uint32)
        matcher.fill_bitmask(row)
        return np.flatnonzero(np.unpackbits(row.astype("<u4").view(np.uint8), bitorder="little"))

    def spell(self, token_ids):
        return b"".join(map(self.vocab.bytes_of, token_ids))

    def accepts(self, grammar, text):
        matcher = grammar.matcher(jump_forward=False)
        try:
            for token_id in self.tokenizer.encode_continuation(text):
                matcher.take(token_id)
        except InvalidConstraint:
            return False
        return matcher.may_end

    def walk(self, grammar, rng, *, jump_forward, length=250):
        """A whole text by random tokens, past ``length`` by those that close what is open; and its tokens."""
        matcher = grammar.matcher(jump_forward=jump_forward)
        token_ids = matcher.begin()
        while not matcher.is_terminated and not (matcher.may_end and rng.random() < 0.2):
            allowed = self.allowed(matcher).tolist()
            assert allowed and max(allowed) < len(self.vocab)
            assert not self.tokenizer.eos_token_ids.intersection(allowed)
            assert all(self.vocab.bytes_of(token_id) for token_id in allowed[:200])
            some = rng.sample(allowed, min(len(allowed), 8))  # few: mostly letters would hardly ever end
            if len(token_ids) > length:
                closing = [t for t in allowed if self.vocab.bytes_of(t)[:1] in b'"]})' + b"01n"]
                some = closing or allowed
            chosen = min(some, key=lambda t: len(self.vocab.bytes_of(t)))
            taken = matcher.take(chosen)
            assert taken[0] == chosen
            token_ids += taken
            assert len(token_ids) < 20 * length
        return self.spell(token_ids).decode(), token_ids


@pytest.fixture(scope="module", params=["pieces", "bundled"])
def model(request):
    if request.param == "bundled":
        return Model(load_tokenizer(resolve_model(None)))
    return Model(piece_tokenizer())


def is_tree(value):
    return (
        value.keys() <= {"name", "when", "children"}
        and re.fullmatch("[a-zé]{1,6}", value["name"])
        and len(value["children"]) <= 3
        and all(map(is_tree, value["children"]))
    )


def is_list(value):
    while value is not None:
        if list(value) != ["value", "next"] or type(value["value"]) is not int:
            return False
        value = value["next"]
    return True


# --------------------------------------------------------------------------------------------------- walks


@pytest.mark.parametrize("jump_forward", [True, False])
@pytest.mark.parametrize(("schema", "is_valid"), [(TREE, is_tree), (LINKED_LIST, is_list)])
def test_random_tokens_spell_values_of_a_recursive_schema(model, schema, is_valid, jump_forward):
    grammar = model.schema(schema)
    for seed in range(12):
        text, _ = model.walk(grammar, random.Random(seed), jump_forward=jump_forward)
        value = json.loads(text)
        assert is_valid(value), text
        assert json.dumps(value, ensure_ascii=False) == text.replace("-0,", "0,")  # the default whitespace
        assert model.accepts(grammar, text)


def test_whitespace_stands_where_json_allows_it(model):
    grammar = model.schema(TREE, whitespace=r"[ \n]{0,2}")
    texts = [model.walk(grammar, random.Random(seed), jump_forward=True)[0] for seed in range(10)]
    assert all(is_tree(json.loads(text)) for text in texts)
    assert any("\n" in text for text in texts)
    assert all(not text[0].isspace() and not text[-1].isspace() for text in texts)
    assert model.accepts(grammar, '{"name" : "a",\n\n"children":[ ]}')
    assert not model.accepts(grammar, '{"name":   "a","children":[]}')


@pytest.mark.parametrize("jump_forward", [True, False])
def test_random_tokens_spell_sentences_of_a_grammar(model, jump_forward):
    grammar = model.cfg(ARITHMETIC)
    for seed in range(20):
        text, _ = model.walk(grammar, random.Random(seed), jump_forward=jump_forward, length=60)
        assert re.fullmatch(r"[0-9+\-*/()]+", text)
        compile(text, "sentence", "eval")
        assert model.accepts(grammar, text)


def test_a_grammar_in_gbnf(model):
    grammar = model.cfg('root ::= animal (" and " animal)*\nanimal ::= "cat" | "dog" [0-9]?\n')
    assert model.accepts(grammar, "cat and dog7 and dog")
    assert not model.accepts(grammar, "cat and ")
    with pytest.raises(InvalidConstraint, match="the GBNF grammar cannot be read"):
        model.cfg('root ::= "cat')


def test_a_json_schema_inside_a_grammar(model):
    grammar = model.cfg(
        'start: "call " %json {"type": "object", "properties": {"a": {"type": "integer", "title": "x"}},'
        ' "required": ["a"], "additionalProperties": false} "!"'
    )
    assert model.accepts(grammar, 'call {"a": -12}!')
    assert not model.accepts(grammar, 'call {"a":-12}!')


def test_a_text_may_end_where_it_is_whole_and_is_over_where_nothing_follows(model):
    matcher = model.cfg('start: "a" | "a" "bc"?').matcher(jump_forward=False)
    ids = {piece: model.vocab.token_bytes.index(piece) for piece in (b"a", b"b", b"c")}
    seen = [(matcher.may_end, matcher.is_terminated)]
    for piece in (b"a", b"b", b"c"):
        matcher.take(ids[piece])
        seen.append((matcher.may_end, matcher.is_terminated))
    assert seen == [(False, False), (True, False), (False, False), (True, True)]
    assert not model.allowed(matcher).size


# --------------------------------------------------------------------------------------------- forced tokens


def test_forced_tokens_spell_what_every_text_goes_on_with(model):
    grammar = model.schema(LINKED_LIST)
    jumping, plain = grammar.matcher(jump_forward=True), grammar.matcher(jump_forward=False)
    begun = jumping.begin()
    assert plain.begin() == []
    assert begun and '{"value": '.startswith(model.spell(begun).decode())
    for token_id in begun:  # the same state, by other means
        assert token_id in model.allowed(plain)
        assert plain.take(token_id) == [token_id]
    np.testing.assert_array_equal(model.allowed(jumping), model.allowed(plain))


def test_forced_tokens_are_always_allowed_ones(model):
    grammar = model.schema(TREE)
    for seed in range(5):
        _, token_ids = model.walk(grammar, random.Random(seed), jump_forward=True)
        matcher = grammar.matcher(jump_forward=False)
        for token_id in token_ids:
            assert token_id in model.allowed(matcher)
            matcher.take(token_id)
        assert matcher.may_end


def test_a_text_that_is_forced_as_a_whole(model):
    matcher = model.cfg('start: "color: green" "."').matcher()
    token_ids = matcher.begin()
    while not matcher.is_terminated:
        token_ids += matcher.take(int(model.allowed(matcher)[-1]))
    assert model.spell(token_ids) == b"color: green."


def test_matchers_of_one_grammar_do_not_disturb_each_other(model):
    grammar = model.schema(TREE)
    expected = [model.walk(grammar, random.Random(seed), jump_forward=True) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        walks = [
            threads.submit(model.walk, grammar, random.Random(seed), jump_forward=True) for seed in range(8)
        ]
    assert [walk.result() for walk in walks] == expected


def test_equal_masks_however_often_they_are_asked_for(model):
    matcher = model.cfg(ARITHMETIC).matcher()
    first = model.allowed(matcher)
    np.testing.assert_array_equal(first, model.allowed(matcher))
    assert not matcher.is_terminated


# --------------------------------------------------------------------------------------------------- errors


def test_a_token_that_is_not_allowed_is_an_error(model):
    matcher = model.cfg('start: "ab"').matcher(jump_forward=False)
    with pytest.raises(InvalidConstraint, match="does not continue"):
        matcher.take(model.vocab.token_bytes.index(b"b"))
    for no_text in (min(model.tokenizer.eos_token_ids), len(model.vocab) + 1):
        with pytest.raises(InvalidConstraint, match="does not continue"):
            model.cfg('start: "ab"').matcher().take(no_text)


def test_without_llguidance_the_error_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedFeature, match=r'it is recursive.*pip install "ramet\[grammar\]"'):
        GuidedGrammar(
            JsonSchema(json.dumps(TREE)), GuidedVocab(model.tokenizer, model.vocab_size), "it is recursive"
        )


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"items": ITSELF, "type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"properties": {"a": ITSELF}, "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"properties": {"a": ITSELF}, "minProperties": 2}, "minProperties|min/max"),
        ({"properties": {"a": {"$ref": "#", "maxProperties": 3}}}, "circular references"),
    ],
)
def test_what_llguidance_does_not_enforce_is_refused_in_its_words(schema, message, model):
    with pytest.raises(InvalidConstraint, match=message):
        model.schema(schema)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("start: nothing", "unknown name"),
        ('start: "a', "lexer error"),
        ("", "Empty grammar"),
        ('other: "a"', "no start rule"),
        ("start: /(?=a)b/", "look-around"),
        ("start: A\nA: /a/ & /b/", "no token"),
        ('start: %json {"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("start: /" + "(" * 3000 + "a" + ")" * 3000 + "/", "invalid regex"),
        ("start: " + " | ".join(f'"x{i}"' for i in range(5000)), "too complex"),
    ],
)
def test_a_grammar_that_cannot_be_compiled_is_refused_at_once(grammar, message, model):
    with pytest.raises(InvalidConstraint, match=message) as caught:
        model.cfg(grammar)
    assert len(str(caught.value)) < 700


def test_a_key_spelled_with_escapes_is_no_way_round_its_schema(model):
    grammar = model.schema({"type": "object", "properties": {"a": ITSELF}})
    assert model.accepts(grammar, '{"a": {}}')
    assert not model.accepts(grammar, '{"a": 5}')
    assert not model.accepts(grammar, r'{"\u0061": 5}')


def test_whitespace_that_cannot_be_enforced_is_refused(model):
    with pytest.raises(InvalidConstraint, match="empty string"):
        model.schema(LINKED_LIST, whitespace=" +")
    with pytest.raises(InvalidConstraint, match="whitespace"):
        model.schema(LINKED_LIST, whitespace="x*")
