"""The regex dialect: what a pattern matches is what ``re.fullmatch`` says; what cannot be is refused."""

import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from regex_patterns import accepts, patterns_and_texts

from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import build_dfa
from ramet.grammar.nodes import Chars, Literal, Node, complement
from ramet.grammar.regex import parse_regex

ALL = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]


def matches(pattern: str, text: str) -> bool:
    return accepts(build_dfa(parse_regex(pattern)), text.encode())


def members(node: Node) -> set[str]:
    """The characters of a pattern that stands for one of them."""
    if isinstance(node, Literal):
        return {node.text}
    assert isinstance(node, Chars)
    return {chr(point) for low, high in node.ranges for point in range(low, high + 1)}


# ------------------------------------------------------------------------------------- what it matches


@settings(max_examples=300, deadline=None)
@given(patterns_and_texts())
@example((r"(?:a|b)*abb", ["abb", "aababb", "abab", ""]))
@example(("$|^a", ["", "a", "\n", "a\n"]))
def test_membership_is_that_of_fullmatch(drawn):
    pattern, texts = drawn
    node = parse_regex(pattern)
    try:
        dfa = build_dfa(node)
    except InvalidConstraint:  # of no string at all, such as [^\w\W]
        assert not any(re.fullmatch(pattern, text) for text in texts)
        return
    for text in texts:
        assert accepts(dfa, text.encode()) == bool(re.fullmatch(pattern, text)), (pattern, text)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\n\t\r\f\v\a", r"\0", r"\07", r"\012", r"\x41", r"\u00e9", r"\U0001F600", r"\101", r"\377",
        r"\.\*\\", r"\N{LATIN SMALL LETTER A}", r"\é", "[\\b]", r"[\0\07\101\x41]", r"[\1]", "a{",
        "a{x}", "a{1", "a{1,x}", "a{}", "{}", "{", "}", "]", "a{,2}", "a{,}", "a{2}", "a{0}", "a{1,}?",
        "[]]", "[]a]", "[^]a]", "[a-]", "[-a]", "[a-c-e]", r"[\]]", r"[\w-]", "[.]", "[$^]",
        "(?P<name>a)b", "()", "(|a)", "|", "a|", "(a|)", "(?:)", "()*", "(?i)(?s).A", "(?is)a.",
        "(?i:a)b", "(?s:.).", "(?i)a(?-i:b)", "(?s)(?-s:.)", "(?u)a", "(?-s:a)", "(?i-s:A)", "^^a$$",
        r"\A^a$\Z", "^", "$", "^$", "^a|b$", "^(a|b)$", "(?i)^A$", "a#b", "[a-a]", "x*?y+?z??", "(a*)*",
        "(a?){3}", "((a?){2}){2}", "(a*)+", "(?i)[^k]", "(?i)[a-z]", "(?i)s", "(?i)ß", "(?i)[À-þ]",
        "(?i)µ", "(?i)\u0345", "(?i)ﬅ", "(?i)[\\w]", "(?i)[^\\W!]", r"[\s\S]", r"[^\d]",
    ],
)  # fmt: skip
def test_forms_of_the_dialect(pattern):
    dfa = build_dfa(parse_regex(pattern))
    expected = re.compile(pattern)
    words = [
        "",
        "a",
        "b",
        "ab",
        "aa",
        "aaa",
        "aab",
        "bb",
        "A.",
        "A\n",
        "a{",
        "a{x}",
        "a{1",
        "a{1,x}",
        "a{}",
        "{}",
    ]
    words += ["ﬅ", "ﬆ", "文", "😀", "\u2003", "μ"]
    words += ["xyz", "y", "yz", "xxy", "a#b", "\n\t\r\f\v\a", ".*\\", "Ab", "AB", "aB", "a\n", "\n\n", "a\nb"]
    for text in words + ALL[:0x250] + ["µ", "ẞ", "\u212a", "\u017f", "\u03b9", "\u0345"]:
        assert accepts(dfa, text.encode()) == bool(expected.fullmatch(text)), text


@pytest.mark.parametrize(("pattern", "accepted"), [(r"\d", str.isdecimal), (r"\s", str.isspace)])
def test_escapes_are_those_of_str(pattern, accepted):
    assert members(parse_regex(pattern)) == set(filter(accepted, ALL))
    assert members(parse_regex(pattern.upper())) == {
        character for character in ALL if not accepted(character)
    }


def test_word_characters_are_alphanumeric_or_underscores():
    words = {character for character in ALL if character.isalnum() or character == "_"}
    assert members(parse_regex(r"\w")) == words
    assert parse_regex(r"[\W]") == parse_regex(r"[^\w]") == complement(parse_regex(r"\w"))


@pytest.mark.parametrize("name", ["L", "Lu", "Zs", "Cn"])
def test_categories_are_those_of_unicodedata(name):
    found = {character for character in ALL if unicodedata.category(character).startswith(name)}
    assert members(parse_regex(rf"\p{{{name}}}")) == found
    assert parse_regex(rf"\P{{{name}}}") == complement(parse_regex(rf"[\p{{{name}}}]"))


def test_case_is_that_of_ignorecase_for_every_letter():
    cased = [
        character for character in ALL if character.lower() != character or character.upper() != character
    ]
    text = "".join(cased)
    for character in cased:
        same = set(re.findall(re.escape(character), text, re.IGNORECASE))
        assert members(parse_regex("(?i)" + re.escape(character))) == same, character


def test_categories_have_case_too():
    assert matches(r"(?i)\p{Lu}+", "aB")
    assert not matches(r"\p{Lu}+", "aB")
    assert not matches(r"(?i)\P{L}", "a")


def test_the_end_allows_no_newline_after_it():
    assert matches("a$", "a")
    assert not matches("a$", "a\n")
    assert not matches(r"a\Z", "a\n")


def test_plain_text_is_one_node():
    assert parse_regex(r"^name\: \"x\"$") == Literal('name: "x"')


# -------------------------------------------------------------------------------------- what it refuses

REFUSED = [
    ("a(?=b)", 1, "lookahead"),
    ("a(?!b)", 1, "negative lookahead"),
    ("(?<=a)b", 0, "lookbehind"),
    ("(?<!a)b", 0, "negative lookbehind"),
    ("(?>a)", 0, "atomic"),
    ("(a)(?(1)b)", 3, "conditional"),
    ("a(?#b)", 1, "comment"),
    ("(?P<x>a)(?P=x)", 8, "backreference"),
    (r"(a)\1", 3, "backreference"),
    (r"(a)\18", 3, "backreference"),
    (r"a\b", 1, "word boundary"),
    (r"\Ba", 0, "word boundary"),
    ("a^", 1, "anchor"),
    ("a$b", 1, "anchor"),
    ("a$*", 1, "anchor"),
    ("(^a)", 1, "anchor"),
    ("(a$)", 2, "anchor"),
    (r"a\Ab", 1, "anchor"),
    (r"a\Zb", 1, "anchor"),
    (r"[\A]", 1, "anchor"),
    ("^*", 1, "repeat of nothing"),
    ("*a", 0, "repeat of nothing"),
    ("a|+", 2, "repeat of nothing"),
    ("(?:{2})", 3, "repeat of nothing"),
    ("a**", 2, "repeat of a repeat"),
    ("a{2}{3}", 4, "repeat of a repeat"),
    ("a*?*", 3, "repeat of a repeat"),
    ("a*+", 1, "possessive"),
    ("a{2}+", 1, "possessive"),
    ("a{3,2}", 1, "smallest count"),
    ("a{10001}", 1, "repeat count of more than 10,000"),
    ("a{2,99999999999999}", 1, "repeat count of more than 10,000"),
    ("(a", 0, "not closed"),
    ("a)", 1, "without a group"),
    ("a[b", 1, "not closed"),
    ("[]", 0, "not closed"),
    (r"[\]", 0, "not closed"),
    ("[b-a]", 1, "first character"),
    (r"[a-\d]", 1, "range from or to a set"),
    (r"[\w-z]", 1, "range from or to a set"),
    ("a\\", 1, "backslash at the end"),
    (r"\q", 0, "unknown escape"),
    (r"[\q]", 1, "unknown escape"),
    (r"[\9]", 1, "unknown escape"),
    (r"\xa", 0, "hexadecimal"),
    (r"\u12", 0, "hexadecimal"),
    (r"\U00110000", 0, "hexadecimal"),
    (r"\477", 0, "octal"),
    (r"\N{NO SUCH NAME}", 0, "name of a character"),
    (r"a\p{Xy}", 1, "Unicode category"),
    (r"\p", 0, "Unicode category"),
    (r"\p{}", 0, "Unicode category"),
    (r"\ud800", 0, "surrogate"),
    ("a\ud800", 1, "surrogate"),
    ("(?x)a", 0, "flag x"),
    ("(?m)^a$", 0, "flag m"),
    ("(?a)a", 0, "flag a"),
    ("a(?L:b)", 1, "flag L"),
    ("(?-u:b)", 0, "flag u"),
    ("(?i-i:b)", 0, "flag i"),
    ("a(?i)b", 1, "not at its start"),
    ("^(?i)b", 1, "not at its start"),
    ("(a|(?i)b)", 3, "not at its start"),
    ("(?", 0, "unknown kind"),
    ("(?)", 0, "unknown kind"),
    ("(?i", 0, "unknown kind"),
    ("(?i-s)a", 0, "unknown kind"),
    ("(?<x>a)", 0, "unknown kind"),
    ("(?P<1>a)", 0, "identifier"),
    ("(?P<x", 0, "identifier"),
    ("(?P<x>a)(?P<x>a)", 8, "second group"),
    ("(" * 201 + ")" * 201, 200, "nested deeper than 200"),
    ("a" * 65_537, 65_536, "more than 65,536 characters"),
]


@pytest.mark.parametrize(("pattern", "position", "what"), REFUSED, ids=[case[0][:16] for case in REFUSED])
def test_what_is_refused_is_named_with_its_place(pattern, position, what):
    with pytest.raises(InvalidConstraint, match=re.escape(what)) as caught:
        parse_regex(pattern)
    assert f"at position {position}: {pattern[position : position + 24]!r}" in str(caught.value)


def test_groups_may_be_nested_as_deep_as_promised():
    assert matches("(" * 200 + "a" + ")*" * 200, "aaa")


def test_classes_are_bounded_together():
    with pytest.raises(InvalidConstraint, match="more than 200,000 ranges"):
        parse_regex("".join(rf"[\p{{L}}{chr(0x20000 + index)}]" for index in range(1000)))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # what `re` may read otherwise one day
@settings(max_examples=100, deadline=None)
@given(patterns_and_texts())
def test_a_pattern_with_a_piece_cut_out_is_read_as_by_re_or_refused(drawn):
    pattern, texts = drawn
    for cut in range(min(len(pattern), 12)):
        broken = pattern[:cut] + pattern[cut + 1 :]
        try:
            dfa = build_dfa(parse_regex(broken))
        except InvalidConstraint:
            continue
        for text in texts:
            assert accepts(dfa, text.encode()) == bool(re.fullmatch(broken, text)), (broken, text)
