"""How much the default format costs in quality: `python benchmarks/perplexity.py [--tokens 20000]`.

The same windows of real text go through two runners, the one an engine has by default and the float32
reference in torch, and every token is scored by both. Windows are independent: nothing stands before them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ramet.config import ModelOptions
from ramet.model_io import CHUNK_TOKENS, ModelInput, ModelRunner, Sampling, Segments, execute
from ramet.runner.build import build_runner
from ramet.store.resolve import resolve_model
from ramet.tokenizer.load import load_tokenizer
from ramet.tokenizer.tokenizer import Tokenizer

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_WINDOW = 512
_DTYPES = ("auto", "float32", "bfloat16")
_REFERENCE = ModelOptions(dtype="float32", kernels="torch")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of texts, and where the public original is."""

    name: str
    file: str
    origin: str
    read: Callable[[str], Iterator[str]]


def _mt_bench(content: str) -> Iterator[str]:
    for line in content.splitlines():
        yield "\n".join(json.loads(line)["turns"])


def _gsm8k(content: str) -> Iterator[str]:
    for line in content.splitlines():
        problem = json.loads(line)
        yield f"{problem['question']}\n{problem['answer']}"


def _hotpotqa(content: str) -> Iterator[str]:
    for problem in json.loads(content):
        yield f"{problem['question']}\n{problem['answer']}"


SOURCES = (
    Source("MT-bench", "mt_bench_questions.jsonl", "lm-sys/FastChat", _mt_bench),
    Source("GSM8K", "gsm8k_test.jsonl", "openai/grade-school-math", _gsm8k),
    Source("HotpotQA", "hotpotqa_dev_simplified.json", "ysymyth/ReAct", _hotpotqa),
)


@dataclass(frozen=True, slots=True)
class Scored:
    """Of one runner over all windows: natural logprobs of the tokens, and the likeliest ones instead."""

    logprobs: NDArray[np.float32]  # [num_scored]
    likeliest: NDArray[np.int32]  # [num_scored]
    sources: NDArray[np.int32]  # [num_scored] index into SOURCES
    seconds: float

    def perplexity(self, source: int | None = None) -> float:
        """Over all tokens, or those of one source."""
        chosen = self.logprobs if source is None else self.logprobs[self.sources == source]
        return float(np.exp(-chosen.mean(dtype=np.float64)))


def read_windows(data: Path, tokenizer: Tokenizer, num_tokens: int) -> list[tuple[int, list[int]]]:
    """The first tokens of each source, an equal share of each, cut into windows; with the source's index.

    A source that is too short leaves its rest to the ones after it.
    """
    windows: list[tuple[int, list[int]]] = []
    left = num_tokens
    for index, source in enumerate(SOURCES):
        share = left // (len(SOURCES) - index)
        token_ids: list[int] = []
        for text in source.read((data / source.file).read_text(encoding="utf-8")):
            if len(token_ids) >= share:
                break
            token_ids += tokenizer.encode(text + "\n\n", parse_special=False)
        token_ids = token_ids[:share]
        left -= len(token_ids)
        windows += [(index, token_ids[at : at + _WINDOW]) for at in range(0, len(token_ids), _WINDOW)]
    return [(index, window) for index, window in windows if len(window) > 1]


def window_input(window: Sequence[int]) -> tuple[ModelInput, Sampling]:
    """All tokens of a window as rows of one step; all but the last sample greedily and score the next."""
    count = len(window)
    rows = np.arange(count, dtype=np.int32)
    starts = np.arange(0, count, CHUNK_TOKENS, dtype=np.int32)
    scored = rows[:-1]
    ones = np.ones(len(scored), dtype=np.float32)
    model_input = ModelInput(
        input_ids=np.array(window, dtype=np.int32),
        positions=rows,
        slot_ids=rows,
        segments=Segments(
            row_begin=starts,
            row_end=np.full(len(starts), count, dtype=np.int32),
            first_position=starts,
            slot_offsets=np.append(starts, np.int32(count)),
            slots=rows,
        ),
        logit_rows=rows[:-1],
        score_rows=scored,
        score_token_ids=np.array(window[1:], dtype=np.int32),
    )
    sampling = Sampling(
        rows=scored,
        temperature=np.zeros_like(ones),
        top_k=np.zeros(len(scored), dtype=np.int32),
        top_p=ones,
        min_p=np.zeros_like(ones),
        seeds=np.zeros(len(scored), dtype=np.uint64),
        positions=scored.astype(np.int64) + 1,
        num_top_logprobs=np.full(len(scored), -1, dtype=np.int32),
    )
    return model_input, sampling


def score(runner: ModelRunner, windows: Sequence[tuple[int, list[int]]], name: str) -> Scored:
    """Run all windows, saying on standard error how far it is."""
    started = time.perf_counter()
    logprobs, likeliest, sources = [], [], []
    for source, window in track(windows, name, console=Console(stderr=True)):
        output = execute(runner, *window_input(window))
        logprobs.append(output.score_logprobs)
        likeliest.append(output.token_ids)
        sources.append(np.full(len(window) - 1, source, dtype=np.int32))
    return Scored(
        np.concatenate(logprobs),
        np.concatenate(likeliest),
        np.concatenate(sources),
        time.perf_counter() - started,
    )


def report(tested: Scored, reference: Scored, name: str) -> Table:
    """Side by side, per source and over all."""
    agrees = tested.likeliest == reference.likeliest
    table = Table("text", "tokens", f"perplexity, {name}", "float32 reference", "difference", "same top-1")
    rows: list[tuple[str, int | None]] = [(source.name, index) for index, source in enumerate(SOURCES)]
    for title, source in [*rows, ("all", None)]:
        chosen = np.full(len(agrees), True) if source is None else tested.sources == source
        if not chosen.any():
            continue
        ours, theirs = tested.perplexity(source), reference.perplexity(source)
        table.add_row(
            title,
            f"{np.count_nonzero(chosen):,}",
            f"{ours:.4f}",
            f"{theirs:.4f}",
            f"{ours / theirs - 1:+.3%}",
            f"{agrees[chosen].mean():.2%}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Perplexity of a model on real text, by default format and float32 reference."
    )
    parser.add_argument("--tokens", type=int, default=20_000, help="of text, a third per source (20000)")
    parser.add_argument("--model", help="GGUF file, Hugging Face folder or hub id (the bundled model)")
    parser.add_argument("--dtype", default="auto", choices=_DTYPES, help="to test (auto)")
    parser.add_argument("--data", type=Path, default=_DATA, help=f"folder of the texts ({_DATA})")
    given = parser.parse_args()
    if given.tokens < 2 * len(SOURCES):
        parser.error(f"--tokens must be at least {2 * len(SOURCES)}, got {given.tokens}")
    for source in SOURCES:
        if not (given.data / source.file).is_file():
            parser.error(
                f"--data {given.data} lacks {source.file} ({source.name}, from {source.origin} on GitHub)"
            )
    path = resolve_model(given.model)
    windows = read_windows(given.data, load_tokenizer(path), given.tokens)
    scored = []
    name = "default" if given.dtype == "auto" else given.dtype
    for title, options in ((name, ModelOptions(dtype=given.dtype)), ("float32 reference", _REFERENCE)):
        runner = build_runner(path, options, max_kv_tokens=_WINDOW)
        scored.append(score(runner, windows, title))
        runner.close()
    tested, reference = scored
    Console(width=None if sys.stdout.isatty() else 120).print(report(tested, reference, name))
    print(f"{path.name}, windows of {_WINDOW} tokens; {tested.seconds:.1f} s and {reference.seconds:.1f} s")


if __name__ == "__main__":
    main()
