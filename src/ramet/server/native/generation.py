"""`/generate`: from bodies to work for the engine, and from what it says to outputs, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import UNSET

from ramet.errors import InvalidRequest
from ramet.sampling_params import SamplingParams
from ramet.server.calls import Call
from ramet.server.native.bodies import GenerateBody, prompts_of
from ramet.server.served import ServedEngine
from ramet.server.streaming import Events
from ramet.server.together import all_of, merged
from ramet.types import Chunk, Prompt, TokenLogprob, Tokens
from ramet.wire import Output, decode_params
from ramet.wire.outputs import Entry, MetaInfo, entries, finish_of, top_entries

MAX_COMPLETIONS = 1024
"""Of all prompts of a request together."""


@dataclass(frozen=True, slots=True)
class Work:
    """One prompt of a request. Its completions have the indices from ``first_index`` on."""

    prompt: Prompt
    params: SamplingParams
    first_index: int


@dataclass(frozen=True, slots=True)
class _InputLogprobs:
    """What was asked for of the prompt's own tokens."""

    tokens: Sequence[Entry]
    top: Sequence[Sequence[Entry] | None]


class Generation:
    """One request. How many tokens it had is added to ``log``.

    Attributes:
        as_list: it is answered with a list of outputs.

    Raises:
        InvalidRequest: the body asks for something that cannot be.
    """

    def __init__(
        self, engine: ServedEngine, body: GenerateBody, log: dict[str, Any], *, max_prompts: int
    ) -> None:
        prompts, many = prompts_of(body, max_prompts)
        given = body.sampling_params
        if isinstance(given, list) and len(given) != len(prompts):
            raise InvalidRequest(f"sampling_params must be as many as prompts: {len(given)}, {len(prompts)}")
        each = given if isinstance(given, list) else [given] * len(prompts)
        all_params = [decode_params(params) for params in each]
        if body.return_logprob:
            all_params = [replace(params, logprobs=body.top_logprobs_num) for params in all_params]
        num_completions = sum(params.n for params in all_params)
        if num_completions > MAX_COMPLETIONS:
            raise InvalidRequest(
                f"a request may ask for {MAX_COMPLETIONS} completions, got {num_completions}"
            )
        firsts = [sum(params.n for params in all_params[:index]) for index in range(len(prompts))]
        self.as_list = many or num_completions > 1
        self._log = log
        self._works = [Work(*work) for work in zip(prompts, all_params, firsts, strict=True)]
        self._engine = engine
        self._body = body
        self._started = time.monotonic()

    async def outputs(self, call: Call) -> bytes:
        """All of it, as JSON."""
        answered = await all_of([self._answer(work, call) for work in self._works])
        outputs = [output for each in answered for output in each]
        return msgspec.json.encode(outputs if self.as_list else outputs[0])

    async def events(self, call: Call) -> Events:
        """As a stream of JSON."""
        inputs = await all_of([self._inputs(work, call) for work in self._works])
        told: dict[int, _Told] = {}
        streams = [
            self._engine.stream(work.prompt, work.params, options=call.options) for work in self._works
        ]
        async with aclosing(merged(streams)) as chunks:
            async for which, chunk in chunks:
                work = self._works[which]
                index = work.first_index + chunk.index
                if index not in told:
                    told[index] = _Told(inputs[which], self._body.incremental)
                said, prompt_logprobs = told[index].take(chunk)
                output = self._output(call, work, said, prompt_logprobs, told[index].num_tokens)
                yield msgspec.json.encode(output)

    async def _answer(self, work: Work, call: Call) -> list[Output]:
        inputs = await self._inputs(work, call)
        completions = await self._engine.generate(work.prompt, work.params, options=call.options)
        wholes = [
            Chunk(completion.text, completion.token_ids, index, completion.logprobs, completion)
            for index, completion in enumerate(completions)
        ]
        return [self._output(call, work, whole, inputs, len(whole.token_ids)) for whole in wholes]

    def _output(
        self, call: Call, work: Work, said: Chunk, inputs: _InputLogprobs | None, num_tokens: int
    ) -> Output:
        with_text = self._body.return_text_in_logprobs
        completion, logprobs = said.completion, said.logprobs
        if completion is not None:
            prompt_tokens = 0 if said.index else completion.usage.prompt_tokens
            self._log["prompt_tokens"] = self._log.get("prompt_tokens", 0) + prompt_tokens
            self._log["completion_tokens"] = self._log.get("completion_tokens", 0) + num_tokens
        return Output(
            text=said.text,
            output_ids=said.token_ids,
            index=work.first_index + said.index,
            meta_info=MetaInfo(
                id=call.request_id,
                finish_reason=None if completion is None else finish_of(completion),
                completion_tokens=num_tokens,
                prompt_tokens=UNSET if completion is None else completion.usage.prompt_tokens,
                cached_tokens=UNSET if completion is None else completion.usage.cached_tokens,
                e2e_latency=UNSET if completion is None else round(time.monotonic() - self._started, 6),
                input_token_logprobs=UNSET if inputs is None else inputs.tokens,
                input_top_logprobs=UNSET if inputs is None else inputs.top,
                output_token_logprobs=UNSET if logprobs is None else entries(logprobs, with_text),
                output_top_logprobs=UNSET if logprobs is None else top_entries(logprobs, with_text),
            ),
        )

    async def _inputs(self, work: Work, call: Call) -> _InputLogprobs | None:
        """The logprobs of the prompt's tokens from the one on that was asked for."""
        body = self._body
        if not body.return_logprob:
            return None
        start = body.logprob_start_len
        if start < 0:
            return _InputLogprobs([], [])
        tokenizer, with_text = self._engine.tokenizer, body.return_text_in_logprobs
        token_ids = await self._engine.encode(work.prompt)
        if start >= len(token_ids):
            raise InvalidRequest(
                f"logprob_start_len must be less than the prompt's {len(token_ids)} tokens, got {start}"
            )
        tokens: list[Entry] = []
        top: list[Sequence[Entry] | None] = []
        if start == 0:  # nothing stands before the first token
            tokens.append((None, token_ids[0], tokenizer.vocab.text(token_ids[0]) if with_text else None))
            top.append(None)
        scored_from = max(start, 1)
        if scored_from < len(token_ids):
            before, scored = token_ids[:scored_from], token_ids[scored_from:]
            (score,) = await self._engine.score(
                Prompt((Tokens(tuple(before)),)),
                [scored],
                top_logprobs=body.top_logprobs_num,
                options=call.options,
            )
            for token_id, logprob in zip(score.token_ids, score.logprobs, strict=True):
                tokens.append((logprob, token_id, tokenizer.vocab.text(token_id) if with_text else None))
            alternatives = score.top or ((),) * len(scored)
            top += [entries(each, with_text) or None for each in alternatives]
        return _InputLogprobs(tokens, top)


class _Told:
    """What the events of one completion have said so far."""

    def __init__(self, inputs: _InputLogprobs | None, incremental: bool) -> None:
        self.num_tokens = 0
        self._inputs = inputs
        self._incremental = incremental
        self._is_first = True
        self._text = ""
        self._token_ids: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def take(self, chunk: Chunk) -> tuple[Chunk, _InputLogprobs | None]:
        """What the next event says: all so far, or what is new."""
        self.num_tokens += len(chunk.token_ids)
        # What is known of the prompt may be much: the first event says it, and the last one says all again
        inputs = self._inputs if self._is_first or (chunk.completion and not self._incremental) else None
        self._is_first = False
        if self._incremental:
            return chunk, inputs
        self._text += chunk.text
        self._token_ids += chunk.token_ids
        self._logprobs += chunk.logprobs or ()
        logprobs = None if chunk.logprobs is None else self._logprobs
        return replace(chunk, text=self._text, token_ids=self._token_ids, logprobs=logprobs), inputs
