"""What a stream can do: one small class per kind of step.

Invariant: a step that owes a value (a variable, a snapshot, the beginning of a fork) delivers it in
`execute` or hands on the error in `abandon`; nobody waits forever. Steps run on the event loop only.
It must not know user handles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ramet.errors import BackendError, InvalidRequest, ProgramError
from ramet.event_loop import closing, gather, settled, shared_future
from ramet.lang.interpreter import Step, Stream, cause_of, plain_text
from ramet.lang.select import ChoicesMethod, select_meta
from ramet.lang.variable import Variable
from ramet.sampling_params import SamplingParams
from ramet.types import Completion, Generated, Part, Prompt, Score


@dataclass(eq=False, slots=True)
class Append(Step):
    """Text or role marks written by the program."""

    parts: tuple[Part, ...]

    async def execute(self, stream: Stream) -> None:
        stream.append(*self.parts)


@dataclass(eq=False, slots=True)
class Generate(Step):
    """The model writes."""

    params: SamplingParams
    variable: Variable

    async def execute(self, stream: Stream) -> None:
        run = stream.run
        if run.observe is not None:
            run.observe(run, stream.prompt)
        if run.streaming:
            completions = await self._streamed(stream)
        else:
            completions = await run.backend.generate(stream.prompt, self.params)
        if len(completions) != self.params.n:
            raise BackendError(f"the backend returned {len(completions)} completions, not {self.params.n}")
        first, metas = completions[0], [completion_meta(completion) for completion in completions]
        if first.text:
            stream.append(Generated(first.text, first.token_ids), streamed=run.streaming)
        if not run.streaming:
            self.variable.deltas.append((first.text, metas[0]))
        if self.params.n == 1:
            self.variable.resolve(first.text, metas[0])
        else:
            self.variable.resolve([completion.text for completion in completions], metas)

    async def _streamed(self, stream: Stream) -> list[Completion]:
        """The completions, recording the text of the first one as it comes."""
        finished: dict[int, Completion] = {}
        async with closing(stream.run.backend.stream(stream.prompt, self.params)) as chunks:
            async for chunk in chunks:
                if chunk.completion is not None:
                    finished[chunk.index] = chunk.completion
                if chunk.index == 0:
                    meta: dict[str, Any] = {
                        "token_ids": list(chunk.token_ids),
                        "logprobs": None if chunk.logprobs is None else list(chunk.logprobs),
                        "finish_reason": None,
                    }
                    if chunk.completion is not None:
                        meta = completion_meta(chunk.completion)
                    stream.record(chunk.text, meta, self.variable)
        return [finished[index] for index in sorted(finished)]

    def abandon(self, error: BaseException) -> None:
        self.variable.abandon(error)


def completion_meta(completion: Completion) -> dict[str, Any]:
    """What ``get_meta_info`` says of a generation."""
    return {
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        "prompt_tokens": completion.usage.prompt_tokens,
        "cached_tokens": completion.usage.cached_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "logprobs": None if completion.logprobs is None else list(completion.logprobs),
        "token_ids": list(completion.token_ids),
    }


@dataclass(eq=False, slots=True)
class Choose(Step):
    """The model's likeliest choice, by a rule."""

    choices: tuple[str, ...]
    method: ChoicesMethod
    variable: Variable

    async def execute(self, stream: Stream) -> None:
        run = stream.run
        if run.observe is not None:
            run.observe(run, stream.prompt)
        prompts = [stream.prompt]
        if self.method.needs_unconditional:
            prompts.append(Prompt())
        scored = await gather([self._score(stream, prompt) for prompt in prompts])
        scores, unconditional = scored[0], scored[1] if len(scored) > 1 else None
        if any(None in score.logprobs for score in scores):
            raise InvalidRequest("select needs a prompt: nothing before the choices to judge them by")
        decision = self.method.decide(scores, unconditional)
        choice = self.choices[decision.index]
        stream.append(Generated(choice, scores[decision.index].token_ids))
        self.variable.resolve(choice, select_meta(self.choices, scores, decision))

    async def _score(self, stream: Stream, prompt: Prompt) -> list[Score]:
        scores = await stream.run.backend.score(prompt, self.choices)
        if len(scores) != len(self.choices):
            raise BackendError(f"the backend returned {len(scores)} scores, not {len(self.choices)}")
        return scores

    def abandon(self, error: BaseException) -> None:
        self.variable.abandon(error)


@dataclass(eq=False, slots=True)
class ScopeBegin(Step):
    """Remember where the text is."""

    start: int = 0

    async def execute(self, stream: Stream) -> None:
        self.start = len(plain_text(stream.prompt))


@dataclass(eq=False, slots=True)
class ScopeEnd(Step):
    """The text since the beginning of the scope becomes a variable."""

    begin: ScopeBegin
    variable: Variable

    async def execute(self, stream: Stream) -> None:
        self.variable.resolve(plain_text(stream.prompt)[self.begin.start :])

    def abandon(self, error: BaseException) -> None:
        self.variable.abandon(error)


@dataclass(eq=False, slots=True)
class Fork(Step):
    """The children begin here; the stream itself goes on at once."""

    children: Sequence[Stream]

    async def execute(self, stream: Stream) -> None:
        if len(self.children) > 1 and stream.prompt.parts:
            stream.run.hint_prefix(stream.prompt)  # scheduled ahead of the children's requests
        for child in self.children:
            child.begin()

    def abandon(self, error: BaseException) -> None:
        for child in self.children:
            child.begin(error)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stream at one point of its sequence. After an error, ``prompt`` is what it had come to."""

    prompt: Prompt
    appended: Prompt
    error: BaseException | None


@dataclass(eq=False, slots=True)
class Checkpoint(Step):
    """Tells how things stand when the stream gets here. Its future is always resolved."""

    stream: Stream
    joins: bool = False  # what was appended so far is taken by a join
    snapshot: Future[Snapshot] = field(default_factory=shared_future)

    async def execute(self, stream: Stream) -> None:
        self._take(None)

    def abandon(self, error: BaseException) -> None:
        self._take(error)

    def _take(self, error: BaseException | None) -> None:
        self.snapshot.set_result(Snapshot(self.stream.prompt, self.stream.appended, error))
        if self.joins:
            self.stream.appended = Prompt()


async def join(checkpoints: Sequence[Checkpoint]) -> list[Snapshot]:
    """Wait until all forks have come to their checkpoints."""
    for checkpoint in checkpoints:
        await settled(checkpoint.snapshot)
    return [checkpoint.snapshot.result() for checkpoint in checkpoints]


def raise_first_failure(checkpoints: Sequence[Checkpoint], snapshots: Sequence[Snapshot]) -> None:
    """Raise the error of the first fork that has one, naming the fork."""
    for checkpoint, snapshot in zip(checkpoints, snapshots, strict=True):
        if snapshot.error is not None:
            raise ProgramError(
                f"{checkpoint.stream.label} failed: {cause_of(snapshot.error)}"
            ) from snapshot.error


@dataclass(eq=False, slots=True)
class GatherVariables(Step):
    """The forks' new variables become lists of the parent."""

    checkpoints: Sequence[Checkpoint]
    sources: Mapping[str, Sequence[Variable]]
    variables: Mapping[str, Variable]

    async def execute(self, stream: Stream) -> None:
        snapshots = await join(self.checkpoints)
        for name, variable in self.variables.items():
            # NOTE: settled, for a fork settles its variables before it passes its checkpoint
            futures = [source.outcome for source in self.sources[name]]
            if all(future.exception() is None for future in futures):
                variable.gather([future.result() for future in futures])
        raise_first_failure(self.checkpoints, snapshots)

    def abandon(self, error: BaseException) -> None:
        for variable in self.variables.values():
            variable.abandon(error)


@dataclass(eq=False, slots=True)
class Concatenate(Step):
    """What the forks have appended is appended to the parent, in order."""

    checkpoints: Sequence[Checkpoint]

    async def execute(self, stream: Stream) -> None:
        snapshots = await join(self.checkpoints)
        raise_first_failure(self.checkpoints, snapshots)
        for snapshot in snapshots:
            stream.append(*snapshot.appended.parts)
