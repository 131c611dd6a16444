"""Logprobs in the shapes of OpenAI's two interfaces. Must not know: requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ramet.server.openai.responses import Alternative, ChatLogprob, ChatLogprobs, CompletionLogprobs
from ramet.tokenizer.detokenizer import Detokenizer
from ramet.tokenizer.vocab import Vocab
from ramet.types import TokenLogprob, TopLogprob

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has not."""


def chat_logprobs(given: Iterable[TokenLogprob], vocab: Vocab) -> ChatLogprobs:
    """Of tokens of a chat's answer."""
    return {"content": [_chat_logprob(entry, vocab) for entry in given], "refusal": None}


def _chat_logprob(entry: TokenLogprob, vocab: Vocab) -> ChatLogprob:
    return {**_alternative(entry, vocab), "top_logprobs": [_alternative(other, vocab) for other in entry.top]}


def _alternative(entry: TokenLogprob | TopLogprob, vocab: Vocab) -> Alternative:
    raw = vocab.bytes_of(entry.token_id) or entry.token.encode()
    return {"token": entry.token, "logprob": max(entry.logprob, LEAST_LOGPROB), "bytes": list(raw)}


class CompletionLogprobsWriter:
    """Logprobs of one completion, piece by piece: it knows how long the text is so far.

    Args:
        vocab: the model's.
        begin: where in the text the completion begins.
    """

    def __init__(self, vocab: Vocab, begin: int) -> None:
        self._vocab = vocab
        self._detokenizer = Detokenizer(vocab)
        self._length = begin

    def write(self, given: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """The next tokens."""
        found = _nothing()
        for entry in given:
            _add(found, entry.token, entry.logprob, entry.top, self._length)
            self._length += len(self._detokenizer.append(entry.token_id))
        return found


def prompt_logprobs(
    text: str,
    token_ids: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[Sequence[TopLogprob]],
    vocab: Vocab,
) -> CompletionLogprobs:
    """Of a prompt. Special tokens have a length where the text names them; an added BOS has none."""
    found = _nothing()
    detokenizer = Detokenizer(vocab)
    length = 0
    for token_id, logprob, others in zip(token_ids, logprobs, top, strict=True):
        token = vocab.text(token_id)
        _add(found, token, logprob, others, length)
        if not vocab.is_special(token_id):
            length += len(detokenizer.append(token_id))
        elif text.startswith(token, length):
            length += len(token)
    return found


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    """One after the other."""
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }


def _nothing() -> CompletionLogprobs:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _add(
    found: CompletionLogprobs, token: str, logprob: float | None, others: Iterable[TopLogprob], offset: int
) -> None:
    found["tokens"].append(token)
    found["text_offset"].append(offset)
    if logprob is None:  # the first of a prompt
        found["token_logprobs"].append(None)
        found["top_logprobs"].append(None)
        return
    logprob = max(logprob, LEAST_LOGPROB)
    alternatives: dict[str, float] = {}
    for other in others:  # pieces of characters look alike: the likeliest counts
        alternatives.setdefault(other.token, max(other.logprob, LEAST_LOGPROB))
    alternatives.setdefault(token, logprob)
    found["token_logprobs"].append(logprob)
    found["top_logprobs"].append(alternatives)
