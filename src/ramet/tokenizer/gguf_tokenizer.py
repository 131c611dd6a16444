"""A tokenizer from the metadata of a GGUF file: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").

llama.cpp is the reference for what the metadata means. Knows nothing of tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.gguf_file import GgufFile
from ramet.tokenizer.chat_template import ChatTemplate
from ramet.tokenizer.text_encoder import AddedToken, TextEncoder
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import (
    END_OF_TURN,
    SPACE_MARK,
    Alphabet,
    TokenKind,
    build_vocab,
    byte_alphabet,
)

logger = logging.getLogger(__name__)

_P = "tokenizer.ggml."
_KINDS = {
    1: TokenKind.NORMAL,
    2: TokenKind.SPECIAL,  # unknown
    3: TokenKind.SPECIAL,  # control
    4: TokenKind.LITERAL,  # user-defined
    5: TokenKind.SPECIAL,  # unused
    6: TokenKind.BYTE,
}

# How byte-level BPE cuts text before merging. The two patterns are part of the models' definition.
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORDS = r"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _CONTRACTIONS + _WORDS.format(digits=r"\p{N}")
_LLAMA3 = _CONTRACTIONS + _WORDS.format(digits=r"\p{N}{1,3}")


def load_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer a GGUF file describes.

    Raises:
        ModelNotFound, UnsupportedModel, CorruptWeights: see `load_tokenizer`.
    """
    file = GgufFile(path)
    model = file.string(_P + "model")
    if model not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"{path}: {_P}model is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece BPE)"
        )
    byte_level = model == "gpt2"
    tokens = file.strings(_P + "tokens")
    kinds = _read_kinds(file, len(tokens))
    eos = _end_tokens(file, tokens, kinds)
    bos = _token_id(file, "bos_token_id", len(tokens))
    if bos is None and not byte_level and len(tokens) > 2:
        bos = 1  # SentencePiece's default
    for token_id in (*eos, *([] if bos is None else [bos])):
        kinds[token_id] = TokenKind.SPECIAL
    added = [
        AddedToken(index, token, special=kind is TokenKind.SPECIAL)
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (TokenKind.SPECIAL, TokenKind.LITERAL)
    ]
    if byte_level:
        encoder, add_bos = _byte_level_encoder(file, tokens, kinds, added)
    else:
        encoder, add_bos = _sentencepiece_encoder(file, tokens, kinds, added), True
    alphabet: Alphabet = "byte_level" if byte_level else "sentencepiece"
    control = ControlTokens(bos, eos, file.boolean(_P + "add_bos_token", add_bos))
    source = file.string("tokenizer.chat_template", "")
    template = None
    if source:
        main_eos = _token_id(file, "eos_token_id", len(tokens))
        template = ChatTemplate(
            source,
            bos_token="" if bos is None else tokens[bos],
            eos_token="" if main_eos is None else tokens[main_eos],
        )
    return Tokenizer(build_vocab(tokens, kinds, alphabet), encoder, control, template)


def _read_kinds(file: GgufFile, num_tokens: int) -> list[TokenKind]:
    if _P + "token_type" not in file.fields:
        return [TokenKind.NORMAL] * num_tokens
    raw = file.numbers(_P + "token_type").tolist()
    if len(raw) != num_tokens:
        raise CorruptWeights(
            f"{file.path}: {_P}token_type has {len(raw)} entries for {num_tokens} tokens; download it again"
        )
    return [_KINDS.get(kind, TokenKind.NORMAL) for kind in raw]


def _token_id(file: GgufFile, key: str, num_tokens: int) -> int | None:
    token_id = file.integer(_P + key, -1)
    if token_id >= num_tokens:
        raise CorruptWeights(f"{file.path}: {_P}{key} is {token_id}, the vocabulary has {num_tokens} tokens")
    return token_id if token_id >= 0 else None


def _end_tokens(file: GgufFile, tokens: Sequence[str], kinds: Sequence[TokenKind]) -> frozenset[int]:
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    named = [_token_id(file, key, len(tokens)) for key in keys]
    if named[0] is None and file.string(_P + "model") == "llama" and len(tokens) > 2:
        named[0] = 2  # SentencePiece's default
    known = [
        index
        for index, token in enumerate(tokens)
        if token in END_OF_TURN and kinds[index] is not TokenKind.NORMAL
    ]
    return frozenset([*known, *(token_id for token_id in named if token_id is not None)])


# ------------------------------------------------------------------------------------------- byte-level BPE


def _byte_level_encoder(
    file: GgufFile, tokens: Sequence[str], kinds: Sequence[TokenKind], added: Sequence[AddedToken]
) -> tuple[TextEncoder, bool]:
    """The encoder, and whether such models begin with BOS unless the file says otherwise."""
    name = file.string(_P + "pre", "")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    letters_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pre_tokenizer: pre_tokenizers.PreTokenizer
    ignore_merges = add_bos = False
    if name == "smollm":
        pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif name == "gpt-2":
        pre_tokenizer = byte_level
    elif name in ("qwen2", "deepseek-r1-qwen"):
        pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(_QWEN2), "isolated"), letters_only]
        )
    elif name in ("llama-bpe", "llama3", "llama-v3"):
        pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(_LLAMA3), "isolated"), letters_only]
        )
        ignore_merges = add_bos = True
    else:
        # "default" means that the converter did not know the model: guessing would cut text wrongly.
        raise UnsupportedModel(
            f"{file.path}: {_P}pre is {name or 'missing'!r}; supported are smollm, gpt-2, qwen2 and "
            "llama-bpe. A file that lacks it was converted by an old tool: convert it again"
        )
    vocab = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind is TokenKind.NORMAL
    }
    missing = [letter for letter in byte_alphabet().values() if letter not in vocab]
    if missing:
        # So it was trained (rare control characters, mostly): no token spells these bytes.
        logger.info("%s: the vocabulary lacks %d of 256 bytes; they are left out", file.path, len(missing))
    core = tokenizers.Tokenizer(models.BPE(vocab, _merges(file, vocab), ignore_merges=ignore_merges))
    core.pre_tokenizer = pre_tokenizer
    core.decoder = decoders.ByteLevel()
    return TextEncoder(core, added), add_bos


def _merges(file: GgufFile, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for line in file.strings(_P + "merges"):
        left, _, right = line.partition(" ")
        if left in vocab and right in vocab and left + right in vocab:
            merges.append((left, right))
    return merges


# ---------------------------------------------------------------------------------------- SentencePiece BPE


def _sentencepiece_encoder(
    file: GgufFile, tokens: Sequence[str], kinds: Sequence[TokenKind], added: Sequence[AddedToken]
) -> TextEncoder:
    scores = file.numbers(_P + "scores").tolist()
    if len(scores) != len(tokens):
        raise CorruptWeights(
            f"{file.path}: {_P}scores has {len(scores)} entries for {len(tokens)} tokens; download it again"
        )
    vocab: dict[str, int] = {}
    words: dict[str, float] = {}  # what merges may build
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind is TokenKind.NORMAL:
            words.setdefault(token, scores[index])
        if kind in (TokenKind.NORMAL, TokenKind.BYTE):
            vocab.setdefault(token, index)
    unknown_id = _token_id(file, "unknown_token_id", len(tokens))
    unknown = tokens[0 if unknown_id is None else unknown_id]
    vocab.setdefault(unknown, 0 if unknown_id is None else unknown_id)
    bpe = models.BPE(vocab, merges_from_scores(words), unk_token=unknown, byte_fallback=True, fuse_unk=True)
    core = tokenizers.Tokenizer(bpe)
    core.normalizer = normalizers.Replace(" ", SPACE_MARK)
    if not file.boolean(_P + "add_space_prefix", True):
        return TextEncoder(core, added)
    prefixed = tokenizers.Tokenizer(bpe)
    prefixed.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE_MARK), normalizers.Replace(" ", SPACE_MARK)]
    )
    # llama.cpp puts the space after special tokens too, as the first SentencePiece conversions did.
    return TextEncoder(core, added, prefixed_core=prefixed, prefix="always")


def merges_from_scores(words: Mapping[str, float]) -> list[tuple[str, str]]:
    """SentencePiece's merges, best first: it joins the neighbours whose union scores highest, leftmost first.

    A word can be joined at any cut both of whose sides are words. Where two ways to join the same word
    overlap in a text ("ab|a|ba", both "aba"), the left one cuts the word at one of its periods: that is
    listed first.
    """
    merges: list[tuple[str, str]] = []
    for word in sorted(words, key=lambda word: -words[word]):
        cuts = [cut for cut in range(1, len(word)) if word[:cut] in words and word[cut:] in words]
        cuts.sort(key=lambda cut: not word.startswith(word[cut:]))
        merges += [(word[:cut], word[cut:]) for cut in cuts]
    return merges
