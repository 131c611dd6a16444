"""From what the engines did to tables, targets, and what a reader should know besides."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from constrained_decoding.extraction import JUMPING, STEPPING, Answer, Cost, Extraction, Kind, Statistic
from constrained_decoding.workload import NUM_FIELDS, differing_values, mistakes
from ramet.tokenizer.tokenizer import Tokenizer

_STATISTICS: tuple[tuple[str, Statistic], ...] = (("median", median), ("fastest", min))
_STEPS_TARGET, _TIME_TARGET, _COST_TARGET = 0.50, 1.6, 0.05


def extraction_table(extraction: Extraction, tokenizer: Tokenizer) -> Table:
    """A column per engine; in brackets how its time compares with Ramet's."""
    engines = list(extraction.answers)
    table = Table("extraction, median of the runs", *engines)

    def row(title: str, cells: Sequence[str]) -> None:
        table.add_row(title, *cells)

    ours = extraction.median(JUMPING) if JUMPING in engines else None
    answers = [extraction.answers[name] for name in engines]
    row("tokens put out", [f"{_num_tokens(answer):,}" for answer in answers])
    for title, counter in (
        ("sampled", "generated_tokens"),
        ("forced", "jump_forward_tokens"),
        ("steps", "steps"),
    ):
        row(title, [f"{answer['work'][counter]:,}" if answer["work"] else "-" for answer in answers])
    row("characters", [f"{sum(map(len, answer['texts'])):,}" for answer in answers])
    seconds = [extraction.median(name) for name in engines]
    spans = [
        f"{min(extraction.seconds[name]):.2f} .. {max(extraction.seconds[name]):.2f}" for name in engines
    ]
    row("seconds", [_against(value, ours) for value in seconds])
    row("fastest .. slowest run", spans)
    row(
        "tokens per second",
        [f"{_num_tokens(answer) / value:,.0f}" for answer, value in zip(answers, seconds, strict=True)],
    )
    row("valid outputs", [_valid(answer["texts"]) for answer in answers])
    row("in the tokens of the tokenizer", [_as_encoded(answer, tokenizer) for answer in answers])
    return table


def _num_tokens(answer: Answer) -> int:
    return sum(map(len, answer["token_ids"]))


def _as_encoded(answer: Answer, tokenizer: Tokenizer) -> str:
    """How many outputs are cut into tokens as the tokenizer cuts their text, which a model is used to."""
    written = [
        [token_id for token_id in token_ids if token_id not in tokenizer.eos_token_ids]
        for token_ids in answer["token_ids"]
    ]
    encoded = map(tokenizer.encode_continuation, answer["texts"])
    same = sum(ours == theirs for ours, theirs in zip(written, encoded, strict=True))
    return f"{same} of {len(written)}"


def _against(seconds: float, ours: float | None) -> str:
    if ours is None or seconds == ours:
        return f"{seconds:.2f}"
    return f"{seconds:.2f} ({seconds / ours:.2f}x)"


def _valid(texts: Sequence[str]) -> str:
    return f"{sum(not mistakes(text) for text in texts)} of {len(texts)}"


def extraction_notes(extraction: Extraction) -> list[str]:
    """Targets, differences between the modes, and what is wrong with outputs."""
    notes: list[str] = []
    jumping, stepping = extraction.answers.get(JUMPING), extraction.answers.get(STEPPING)
    if jumping is not None and stepping is not None:
        steps = jumping["work"]["steps"] / stepping["work"]["steps"]
        notes.append(
            _target("steps with jump-forward", f"{steps:.0%}", "at most 50%", steps <= _STEPS_TARGET)
        )
        speedup = extraction.median(STEPPING) / extraction.median(JUMPING)
        fastest = min(extraction.seconds[STEPPING]) / min(extraction.seconds[JUMPING])
        value = f"{speedup:.2f}x better by medians, {fastest:.2f}x by the fastest runs"
        met = min(speedup, fastest) >= _TIME_TARGET
        notes.append(_target("time with jump-forward", value, "1.6x", met))
        pairs = list(zip(jumping["texts"], stepping["texts"], strict=True))
        differ = sum(ours != theirs for ours, theirs in pairs)
        values = sum(
            differing_values(*pair) for pair in pairs if not mistakes(pair[0]) and not mistakes(pair[1])
        )
        notes.append(
            f"outputs that differ between the two modes: {differ} of {len(pairs)} "
            f"({differ / len(pairs):.0%}), in {values} of {NUM_FIELDS * len(pairs)} values"
        )
    for name, answer in extraction.answers.items():
        for index, text in enumerate(answer["texts"]):
            notes += [f"{name}, output {index}: {mistake}" for mistake in mistakes(text)]
    notes += [f"{name} failed: {reason}" for name, reason in extraction.failures.items()]
    return notes


def cost_table(cost: Cost) -> Table:
    """Steps of the same batches without a constraint, with one whose masks are known, and with a new one."""
    kinds: tuple[Kind, ...] = ("free", "known", "new")
    table = Table(
        "cost of a constraint, no jump-forward", "unconstrained", "constrained, known masks", "new masks"
    )
    table.add_row("steps", *(f"{cost.steps[kind]:,}" for kind in kinds))
    for name, of in _STATISTICS:
        for title, per_step in (
            (f"ms per step, {name} run", cost.per_step),
            (f"ms per step after the prompts, {name} run", cost.per_decode_step),
        ):
            free = per_step("free", of)
            cells = [f"{free * 1e3:.2f}"]
            for kind in kinds[1:]:
                seconds = per_step(kind, of)
                cells.append(f"{seconds * 1e3:.2f} ({seconds / free - 1:+.1%})")
            table.add_row(title, *cells)
    return table


def cost_notes(cost: Cost) -> list[str]:
    """The target. Noise only ever adds time, and it is larger than the target: the fastest runs count."""
    free = cost.per_decode_step("free", min)
    kinds: tuple[tuple[Kind, str], ...] = (("known", "masks known"), ("new", "every mask made in the run"))
    notes = []
    for kind, title in kinds:
        share = cost.per_decode_step(kind, min) / free - 1
        what = f"a constraint costs a step, {title}, by the fastest runs"
        notes.append(_target(what, f"{share:+.1%}", "at most +5%", share <= _COST_TARGET))
    return notes


def _target(what: str, value: str, target: str, is_met: bool) -> str:
    return f"{what}: {value} (target {target}: {'met' if is_met else 'MISSED'})"
