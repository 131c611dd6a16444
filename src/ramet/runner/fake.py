"""A runner without a model: the next token is a function of the context. For tests of all that plans steps.

It is strict. Every slot remembers the token and position written to it, and a row's context is read back
through the segments that contain the row, so a plan that skips, repeats or misplaces a position fails
with the values that are wrong. Imports no torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ramet.model_io import CHUNK_TOKENS, Finished, ModelInput, ModelOutput, Sampling

Context = tuple[int, ...]


def successor(context: Context) -> int:
    """The default next token: the last one plus one, so that outputs can be read off."""
    return context[-1] + 1


class FakeRunner:
    """A `ModelRunner` that predicts ``next_token(context) % vocab_size`` and always draws greedily.

    Attributes:
        steps: steps executed.
        rows: rows executed, in all of them.
        rows_of_steps: number of rows of each step, in order.
    """

    def __init__(
        self,
        next_token: Callable[[Context], int] = successor,
        *,
        num_slots: int = 4096,
        vocab_size: int = 1000,
        context_length: int = 2048,
        is_asynchronous: bool = False,
        before_step: Callable[[ModelInput], None] | None = None,
        before_draw: Callable[[Sampling], None] | None = None,
    ) -> None:
        """
        Args:
            next_token: the greedy token after a context.
            num_slots: slots of the pool.
            vocab_size: number of tokens.
            context_length: most positions of a sequence.
            is_asynchronous: what it says of itself; results are there at once in any case.
            before_step: called with each input before anything is computed; may raise to fail the step.
            before_draw: the same for what is to be sampled.
        """
        self._next_token = next_token
        self._num_slots = num_slots
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._is_asynchronous = is_asynchronous
        self._before_step = before_step
        self._before_draw = before_draw
        self._drawn = np.zeros(0, dtype=np.int32)
        self._slot_token = np.full(num_slots, -1, dtype=np.int64)
        self._slot_position = np.full(num_slots, -1, dtype=np.int64)
        self._closed = False
        self.steps = 0
        self.rows = 0
        self.rows_of_steps: list[int] = []

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def pool_bytes(self) -> int:
        return self._slot_token.nbytes + self._slot_position.nbytes

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def kernels(self) -> str:
        return "none: a function of the context"

    @property
    def is_asynchronous(self) -> bool:
        return self._is_asynchronous

    def launch(self, model_input: ModelInput) -> FakeStep:
        assert not self._closed, "launch() after close()"
        if self._before_step is not None:
            self._before_step(model_input)
        model_input = replace(model_input, input_ids=self._known(model_input.input_ids))
        self._check_rows(model_input)
        self._slot_token[model_input.slot_ids] = model_input.input_ids
        self._slot_position[model_input.slot_ids] = model_input.positions
        contexts = self._contexts(model_input)
        self.steps += 1
        self.rows += len(model_input.input_ids)
        self.rows_of_steps.append(len(model_input.input_ids))
        return FakeStep(self, model_input, contexts)

    def draw(self, model_input: ModelInput, contexts: list[Context], sampling: Sampling) -> ModelOutput:
        """What a step puts out; for `FakeStep`."""
        if self._before_draw is not None:
            self._before_draw(sampling)
        wanted = np.unique(np.concatenate((sampling.rows, model_input.score_rows)))
        assert wanted.tolist() == model_input.logit_rows.tolist(), (wanted, model_input.logit_rows)
        output = self._output(model_input, contexts, sampling)
        self._drawn = output.token_ids
        return output

    def _known(self, input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The ids with those in it that the step before drew."""
        unknown = np.flatnonzero(input_ids < 0)
        samples = -1 - input_ids[unknown]
        _check_range("sample of the step before", samples, len(self._drawn))
        input_ids = input_ids.copy()
        input_ids[unknown] = np.maximum(self._drawn[samples], 0)
        return input_ids

    def close(self) -> None:
        self._closed = True

    def logprob(self, context: Context, token_id: int) -> float:
        """The logprob of a token after a context: a hash of both in [-8, -1), and -0.5 for the next token."""
        if token_id == self._next_token(context) % self._vocab_size:
            return -0.5
        digest = zlib.crc32(np.array((*context, token_id), dtype=np.int64).tobytes())
        return float(np.float32(-8.0 + 7.0 * (digest / 2**32)))

    # ------------------------------------------------------------------------------------------ the plan

    def _check_rows(self, model_input: ModelInput) -> None:
        num_rows = len(model_input.input_ids)
        assert num_rows > 0, "a step without rows"
        assert len(model_input.positions) == len(model_input.slot_ids) == num_rows, "ragged row arrays"
        _check_range("input id", model_input.input_ids, self._vocab_size)
        _check_range("position", model_input.positions, self._context_length)
        _check_range("slot id", model_input.slot_ids, self._num_slots)
        written: dict[int, tuple[int, int]] = {}
        arrays = (
            model_input.slot_ids.tolist(),
            model_input.positions.tolist(),
            model_input.input_ids.tolist(),
        )
        for slot, position, token in zip(*arrays, strict=True):
            first = written.setdefault(slot, (position, token))
            assert first == (position, token), (
                f"slot {slot} is written twice: (position, token) {first} and {(position, token)}"
            )
        _check_range("logit_rows", model_input.logit_rows, num_rows)
        _check_range("score_rows", model_input.score_rows, num_rows)
        _check_range("score token id", model_input.score_token_ids, self._vocab_size)

    def _contexts(self, model_input: ModelInput) -> list[Context]:
        """The context of every row, read through the segments."""
        segments = model_input.segments
        contexts: list[list[int]] = [[] for _ in model_input.input_ids]
        previous = 0
        for index in range(len(segments.row_begin)):
            first = int(segments.first_position[index])
            begin, end = int(segments.row_begin[index]), int(segments.row_end[index])
            slots = segments.slots[segments.slot_offsets[index] : segments.slot_offsets[index + 1]]
            where = f"segment {index} (rows {begin}..{end - 1}, first position {first})"
            assert 0 <= begin < end <= len(contexts), f"{where}: there are {len(contexts)} rows"
            assert first % CHUNK_TOKENS == 0, f"{where}: not a multiple of {CHUNK_TOKENS}"
            assert first >= previous, f"{where}: after a segment at position {previous}"
            assert 0 < len(slots) <= CHUNK_TOKENS, f"{where}: {len(slots)} keys"
            previous = first
            held = self._slot_position[slots]
            expected = first + np.arange(len(slots))
            assert (held == expected).all(), (
                f"{where}: its slots {slots.tolist()} hold positions {held.tolist()}"
            )
            tokens = self._slot_token[slots].tolist()
            for row in range(begin, end):
                position = int(model_input.positions[row])
                assert position >= first, f"{where}: row {row} is at position {position}, before all keys"
                assert len(contexts[row]) == first, (
                    f"{where}: row {row} has seen {len(contexts[row])} positions, expected {first}"
                )
                contexts[row].extend(tokens[: position + 1 - first])
                if position - first < len(slots):
                    slot, own = int(slots[position - first]), int(model_input.slot_ids[row])
                    assert slot == own, f"{where}: row {row} is in slot {own}, its key is read from {slot}"
        for row, context in enumerate(contexts):
            position = int(model_input.positions[row])
            assert len(context) == position + 1, (
                f"row {row} at position {position} attends to {len(context)} positions"
            )
        return [tuple(context) for context in contexts]

    # ---------------------------------------------------------------------------------------- the output

    def _output(self, model_input: ModelInput, contexts: list[Context], sampling: Sampling) -> ModelOutput:
        num_samples = len(sampling.rows)
        max_top = max(int(sampling.num_top_logprobs.max(initial=0)), 0)
        output = ModelOutput(
            token_ids=np.full(num_samples, -1, dtype=np.int32),
            logprobs=np.full(num_samples, np.nan, dtype=np.float32),
            top_token_ids=np.zeros((num_samples, max_top), dtype=np.int32),
            top_logprobs=np.full((num_samples, max_top), -np.inf, dtype=np.float32),
            score_logprobs=np.empty(len(model_input.score_rows), dtype=np.float32),
        )
        for index, row in enumerate(sampling.rows):
            context = contexts[int(row)]
            token_id = self._choose(context, sampling, index)
            output.token_ids[index] = token_id
            num_top = min(int(sampling.num_top_logprobs[index]), self._vocab_size)
            if num_top < 0:
                continue
            output.logprobs[index] = self.logprob(context, token_id)
            if num_top > 0:
                top = sorted((-self.logprob(context, token), token) for token in range(self._vocab_size))
                output.top_token_ids[index, :num_top] = [token for _, token in top[:num_top]]
                output.top_logprobs[index, :num_top] = [-negated for negated, _ in top[:num_top]]
        for index, (row, token_id) in enumerate(
            zip(model_input.score_rows, model_input.score_token_ids, strict=True)
        ):
            output.score_logprobs[index] = self.logprob(contexts[int(row)], int(token_id))
        return output

    def _choose(self, context: Context, sampling: Sampling, sample: int) -> int:
        """The next token, or the first one after it that is not banned; -1 if all are.

        As logits: those after it are a little less likely, all within 1 of it, so that a bias counts.
        """
        wanted = self._next_token(context) % self._vocab_size
        bias, bitmask = sampling.bias, sampling.bitmask
        if bias is None and bitmask is None:
            return wanted
        tokens = np.arange(self._vocab_size)
        logits = -((tokens - wanted) % self._vocab_size) / self._vocab_size
        if bias is not None:
            of_sample = bias.entry_sample == sample
            np.add.at(logits, bias.entry_token[of_sample], bias.entry_value[of_sample])
        if bitmask is not None:
            allowed = bitmask[sample][tokens // 32] >> (tokens % 32).astype(np.uint32) & 1
            logits[allowed == 0] = -np.inf
        best = int(logits.argmax())
        return best if np.isfinite(logits[best]) else -1


@dataclass(frozen=True, slots=True)
class FakeStep:
    """A `LaunchedStep` of a fake runner."""

    runner: FakeRunner
    model_input: ModelInput
    contexts: list[Context]

    def draw(self, sampling: Sampling) -> Finished:
        return Finished(self.runner.draw(self.model_input, self.contexts, sampling))


def _check_range(name: str, values: NDArray[np.int32], limit: int) -> None:
    wrong = values[(values < 0) | (values >= limit)]
    assert len(wrong) == 0, f"{name} out of range 0..{limit - 1}: {wrong.tolist()}"
