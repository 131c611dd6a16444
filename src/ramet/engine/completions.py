"""From the outputs of the core to what callers get: completions, chunks, scores; and what is to be scored.

Invariant: the work for a token does not grow with the length of its completion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ramet.checks import check_ints
from ramet.engine.messages import AddRequest
from ramet.errors import InvalidRequest
from ramet.scheduler.request import RawLogprob, RequestOutput
from ramet.tokenizer.detokenizer import Detokenizer
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.tokenizer.vocab import Vocab
from ramet.types import Chunk, Completion, Prompt, Score, TokenLogprob, TopLogprob, Usage


class Collector:
    """Gathers the outputs of one completion and turns its bytes into text as far as it may be shown."""

    def __init__(self, message: AddRequest, index: int, vocab: Vocab) -> None:
        self.message = message
        self._index = index
        self._vocab = vocab
        self._wants_logprobs = message.params.logprobs is not None
        self._detokenizer = Detokenizer(vocab)
        self._shown: list[str] = []  # what may be shown, in pieces
        self._num_shown = 0
        self._held = ""  # what follows; a stop may still claim it
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._last: RequestOutput | None = None

    def take(self, outputs: Sequence[RequestOutput]) -> None:
        """Take the next outputs, one or more."""
        self._last = last = outputs[-1]
        token_ids = [token_id for output in outputs for token_id in output.token_ids]
        self._token_ids += token_ids
        if self._wants_logprobs:
            self._logprobs += [
                _token_logprob(token_id, raw, self._vocab)
                for output in outputs
                for token_id, raw in zip(output.token_ids, output.logprobs, strict=False)
                if raw is not None
            ]
        text = self._held + self._detokenizer.extend(token_ids[:-1] if last.hide_last_token else token_ids)
        if last.finish_reason is not None:
            text += self._detokenizer.flush()
        end = len(text)
        if last.releasable_text is not None:
            end = max(last.releasable_text - self._num_shown, 0)
        self._shown.append(text[:end])
        self._num_shown += len(self._shown[-1])
        self._held = text[end:]

    def chunk(self, outputs: Sequence[RequestOutput]) -> Chunk:
        """Take the next outputs, one or more, and return what they add to a stream."""
        num_tokens, num_logprobs = len(self._token_ids), len(self._logprobs)
        self.take(outputs)
        return Chunk(
            text=self._shown[-1],
            token_ids=tuple(self._token_ids[num_tokens:]),
            index=self._index,
            logprobs=tuple(self._logprobs[num_logprobs:]) if self._wants_logprobs else None,
            completion=self.completion() if outputs[-1].finish_reason is not None else None,
        )

    def completion(self) -> Completion:
        """The whole, once the last output has been taken."""
        last = self._last
        assert last is not None and last.finish_reason is not None, self.message.request_id
        return Completion(
            text="".join(self._shown),
            token_ids=tuple(self._token_ids),
            finish_reason=last.finish_reason,
            usage=Usage(len(self.message.token_ids), last.num_cached_tokens, len(self._token_ids)),
            stop_reason=last.stop_reason,
            logprobs=tuple(self._logprobs) if self._wants_logprobs else None,
        )


class Arrived:
    """Outputs that a stream has not given out: what comes while its reader is busy goes into one chunk."""

    def __init__(self) -> None:
        self._outputs: list[RequestOutput] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, outputs: list[RequestOutput]) -> None:
        self._outputs += outputs
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def take(self) -> list[RequestOutput]:
        """All of them, as soon as there are some. One reader at a time."""
        while not self._outputs:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        taken, self._outputs = self._outputs, []
        return taken


def chunks_of(outputs: Iterable[RequestOutput], collectors: Mapping[str, Collector]) -> Iterator[Chunk]:
    """What outputs of several completions add to their stream: one chunk for each of them.

    Raises:
        RametError: a request failed; what it put out before has been given out.
    """
    by_request: dict[str, list[RequestOutput]] = {}
    for output in outputs:
        by_request.setdefault(output.request_id, []).append(output)
    for name, of_request in by_request.items():
        error = of_request[-1].error
        if error is not None:
            of_request.pop()
        if of_request:
            yield collectors[name].chunk(of_request)
        if error is not None:
            raise error


def encode_prompt(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The token ids of a prompt.

    Raises:
        InvalidRequest: there are none, or something in it is no text and no token.
    """
    try:
        token_ids = tokenizer.encode_prompt(prompt)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the prompt is not text: {error.reason}") from error
    if not token_ids:
        raise InvalidRequest("prompt must not be empty")
    for kind in set(map(type, token_ids)) - {int}:  # whoever builds a `Tokens` by hand
        raise InvalidRequest(f"prompt token ids must be integers, got {kind.__name__}")
    return token_ids


def encode_continuation(given: object, where: str, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """The text and the tokens of something to score. The core checks that it knows the tokens.

    Raises:
        InvalidRequest: it is neither text nor token ids, or has no tokens.
    """
    if isinstance(given, str):
        token_ids = tokenizer.encode_continuation(given)
        if not token_ids:
            raise InvalidRequest(f"{where} {given!r} has no tokens in this vocabulary")
        return given, token_ids
    if not isinstance(given, Sequence) or not given:
        raise InvalidRequest(f"{where} must be a string or a non-empty list of token ids")
    token_ids = check_ints(f"{where}: a token id", given, 0)
    return tokenizer.vocab.display(token_ids), token_ids


class Scorer:
    """Gathers the logprobs of one continuation."""

    def __init__(self, message: AddRequest, text: str, num_prompt_tokens: int, vocab: Vocab) -> None:
        self.message = message
        self._text = text
        self._num_prompt_tokens = num_prompt_tokens
        self._vocab = vocab
        self._raw: list[RawLogprob | None] = []
        self._num_cached_tokens = 0

    def take(self, outputs: Sequence[RequestOutput]) -> None:
        """Take the next outputs, one or more."""
        for output in outputs:
            self._raw += output.logprobs
        self._num_cached_tokens = min(outputs[-1].num_cached_tokens, self._num_prompt_tokens)

    def score(self) -> Score:
        """The whole, once the last output has been taken."""
        token_ids = tuple(self.message.token_ids[self._num_prompt_tokens :])
        assert len(self._raw) == len(token_ids), (self.message.request_id, len(self._raw), len(token_ids))
        top = None
        if self.message.params.logprobs:
            top = tuple(() if raw is None else _top(raw, self._vocab) for raw in self._raw)
        return Score(
            self._text,
            token_ids,
            tuple(None if raw is None else raw.logprob for raw in self._raw),
            Usage(self._num_prompt_tokens, self._num_cached_tokens, 0),
            top,
        )


def _token_logprob(token_id: int, raw: RawLogprob, vocab: Vocab) -> TokenLogprob:
    return TokenLogprob(token_id, vocab.text(token_id), raw.logprob, _top(raw, vocab))


def _top(raw: RawLogprob, vocab: Vocab) -> tuple[TopLogprob, ...]:
    return tuple(
        TopLogprob(token_id, vocab.text(token_id), logprob)
        for token_id, logprob in zip(raw.top_token_ids, raw.top_logprobs, strict=True)
    )
