"""From the outputs of the core to what callers get: completions, chunks, scores."""

from __future__ import annotations

from dataclasses import replace

from ramet.engine.messages import AddRequest
from ramet.scheduler.request import RawLogprob, RequestOutput
from ramet.tokenizer.detokenizer import Detokenizer
from ramet.tokenizer.vocab import Vocab
from ramet.types import Chunk, Completion, FinishReason, Score, TokenLogprob, TopLogprob, Usage


class Collector:
    """Gathers the outputs of one completion and turns its bytes into text as far as it may be shown."""

    def __init__(self, message: AddRequest, index: int, vocab: Vocab) -> None:
        self.message = message
        self._index = index
        self._vocab = vocab
        self._detokenizer = Detokenizer(vocab)
        self._text = ""
        self._num_shown = 0
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish_reason: FinishReason = "length"
        self._last: RequestOutput | None = None

    def take(self, output: RequestOutput) -> None:
        """Take the next output."""
        visible = output.token_ids[:-1] if output.hide_last_token else output.token_ids
        for token_id in visible:
            self._text += self._detokenizer.append(token_id)
        self._token_ids += output.token_ids
        self._logprobs += _token_logprobs(output, self._vocab)
        if output.finish_reason is not None:
            self._text += self._detokenizer.flush()
            self._finish_reason = output.finish_reason
            if output.releasable_text is not None:
                self._text = self._text[: output.releasable_text]
        self._last = output

    def chunk(self, output: RequestOutput) -> Chunk:
        """Take the next output and return what it adds to a stream."""
        self.take(output)
        finished = output.finish_reason is not None
        releasable = len(self._text)
        if not finished and output.releasable_text is not None:
            releasable = min(releasable, output.releasable_text)
        text = self._text[self._num_shown : releasable]
        self._num_shown += len(text)
        logprobs = None if self.message.params.logprobs is None else _token_logprobs(output, self._vocab)
        return Chunk(
            text=text,
            token_ids=tuple(output.token_ids),
            index=self._index,
            logprobs=logprobs,
            completion=self.completion() if finished else None,
        )

    def completion(self) -> Completion:
        """The whole, once the last output has been taken."""
        last = self._last
        assert last is not None and last.finish_reason is not None, self.message.request_id
        return Completion(
            text=self._text,
            token_ids=tuple(self._token_ids),
            finish_reason=self._finish_reason,
            usage=Usage(len(self.message.token_ids), last.num_cached_tokens, len(self._token_ids)),
            stop_reason=last.stop_reason,
            logprobs=None if self.message.params.logprobs is None else tuple(self._logprobs),
        )


class Scorer:
    """Gathers the logprobs of one continuation."""

    def __init__(self, message: AddRequest, text: str, num_prompt_tokens: int) -> None:
        self.message = message
        self._score = Score(
            text, tuple(message.token_ids[num_prompt_tokens:]), (), Usage(num_prompt_tokens, 0, 0)
        )

    def take(self, output: RequestOutput) -> None:
        """Take the next output."""
        values = tuple(None if raw is None else raw.logprob for raw in output.logprobs)
        usage = self._score.usage
        if output.finish_reason is not None:
            usage = replace(usage, cached_tokens=min(output.num_cached_tokens, usage.prompt_tokens))
        self._score = replace(self._score, logprobs=self._score.logprobs + values, usage=usage)

    def score(self) -> Score:
        """The whole, once the last output has been taken."""
        assert len(self._score.logprobs) == len(self._score.token_ids), self._score
        return self._score


def _token_logprobs(output: RequestOutput, vocab: Vocab) -> tuple[TokenLogprob, ...]:
    return tuple(
        _token_logprob(token_id, raw, vocab)
        for token_id, raw in zip(output.token_ids, output.logprobs, strict=False)
        if raw is not None
    )


def _token_logprob(token_id: int, raw: RawLogprob, vocab: Vocab) -> TokenLogprob:
    top = tuple(
        TopLogprob(other, vocab.text(other), logprob)
        for other, logprob in zip(raw.top_token_ids, raw.top_logprobs, strict=True)
    )
    return TokenLogprob(token_id, vocab.text(token_id), raw.logprob, top)
