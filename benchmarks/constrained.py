"""Constrained decoding measured: `python benchmarks/constrained.py`; ``--help`` says what and how."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from rich.console import Console

from constrained_decoding.extraction import JUMPING, STEPPING, Cost, Extraction, ExtractionRuns
from constrained_decoding.libraries import Library, Llguidance, Ramet, Xgrammar
from constrained_decoding.masks import MaskFigures, mask_notes, mask_table, measure_masks
from constrained_decoding.patterns import cases
from constrained_decoding.report import cost_notes, cost_table, extraction_notes, extraction_table
from constrained_decoding.vllm_folder import folder_with_tokenizer
from constrained_decoding.vocabularies import Vocabulary, enlarged
from constrained_decoding.workload import prompts
from engine.command import say
from engine.convert import hf_folder
from engine.engine_process import EngineFailed, EngineProcess, EngineSpec
from engine.specs import peer_specs
from ramet.store.resolve import resolve_model
from ramet.tokenizer.load import load_tokenizer
from ramet.tokenizer.tokenizer import Tokenizer

_RUN = Path(__file__).parent / "constrained_decoding" / "peers" / "run.py"
_WORKDIR = user_cache_path("ramet") / "benchmarks"
_PARTS = ("extraction", "cost", "masks")
_PEERS = ("vllm", "xgrammar")
_DESCRIPTION = """\
Measure constrained decoding on the bundled model. Run with the Python that Ramet is installed in.

Parts:
  extraction  16 chats at once, each answered by a JSON object of 8 fields with long keys, greedily:
              with jump-forward and without. The prefix cache is emptied before each run; what was
              compiled, and the masks made by the untimed run, are kept. Every output is checked
              against the schema
  cost        the same without jump-forward beside requests of the same lengths that have no
              constraint: what masks cost a step, once they are known and while they are made
  masks       compile + first mask of typical constraints, and the masks along a text, on the model's
              vocabulary and on one of 150,000 tokens; llguidance beside it where it is installed

Engines stay loaded in processes of their own and take turns run by run; those that wait are
stopped. Figures are medians unless they say otherwise. Peers need only their own package in their Python:
  --peer vllm --python ~/vllm/bin/python      extraction in vLLM for CPUs (its xgrammar backend,
                                              compact JSON)
  --peer xgrammar --python ~/vllm/bin/python  masks of xgrammar
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    given.workdir.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[: given.threads]
    if len(cores) < given.threads:
        raise SystemExit(f"--threads {given.threads}, but this process may use only {len(cores)} cores")
    os.sched_setaffinity(0, cores)  # engines inherit it
    model = resolve_model(given.model)
    tokenizer = load_tokenizer(model)
    record: dict[str, Any] = {"model": model.name, "threads": given.threads, "quick": given.quick}

    if "extraction" in given.part:
        extraction, cost = _run_engines(given, model, tokenizer, cores)
        if extraction.answers:
            console.print(extraction_table(extraction, tokenizer))
        _print_lines(console, extraction_notes(extraction))
        record["extraction"] = asdict(extraction)
        if cost is not None:
            console.print(cost_table(cost))
            _print_lines(console, cost_notes(cost))
            record["cost"] = asdict(cost)
    if "masks" in given.part:
        record["masks"] = []
        vocabularies = [
            Vocabulary(f"{tokenizer.vocab_size // 1000}k tokens", tokenizer),
            enlarged(tokenizer, 60_000 if given.quick else 150_000),
        ]
        for vocabulary in vocabularies:
            figures = _run_masks(given, vocabulary)
            console.print(mask_table(figures))
            _print_lines(console, mask_notes(figures))
            record["masks"].append(asdict(figures))
    if given.json:
        given.json.write_text(json.dumps(record, indent=2))


def _run_engines(
    given: argparse.Namespace, model: Path, tokenizer: Tokenizer, cores: Sequence[int]
) -> tuple[Extraction, Cost | None]:
    token_ids = [tokenizer.encode_prompt(prompt) for prompt in prompts(4 if given.quick else 16)]
    specs = [_ramet_spec(given, model, name) for name in (JUMPING, STEPPING)]
    if "vllm" in given.peers:
        folder = folder_with_tokenizer(hf_folder(model, given.workdir), tokenizer)
        specs.append(_vllm_spec(given, folder, cores))
    with ExitStack() as stack:
        engines = [
            stack.enter_context(EngineProcess(spec, _log(given.workdir, spec), timeout=given.timeout))
            for spec in specs
        ]
        runs = ExtractionRuns(engines, token_ids, say)
        cost: Cost | None = None
        try:
            runs.extract(given.runs)
            if "cost" in given.part:
                cost = runs.cost(given.runs)
        except KeyboardInterrupt:
            say("interrupted: what is there so far follows")
    return runs.extraction, cost


def _ramet_spec(given: argparse.Namespace, model: Path, name: str) -> EngineSpec:
    options = {"model": str(model), "threads": given.threads, "jump_forward": name == JUMPING}
    command = (Path(sys.executable), _RUN, "ramet_adapter")
    return EngineSpec(name, command, options, {"OMP_NUM_THREADS": str(given.threads)})


def _vllm_spec(given: argparse.Namespace, folder: Path, cores: Sequence[int]) -> EngineSpec:
    [known] = peer_specs(
        "vllm",
        given.peers["vllm"],
        folder,
        threads=given.threads,
        cores=cores,
        workdir=given.workdir,
        llama_formats=(),
        openvino_formats=(),
    )
    command = (given.peers["vllm"], _RUN, "vllm_adapter")
    return EngineSpec(known.name, command, {"model": str(folder)}, known.environment)


def _log(workdir: Path, spec: EngineSpec) -> Path:
    words = "".join(letter if letter.isalnum() else " " for letter in spec.name.lower()).split()
    return workdir / f"constrained-{'-'.join(words)}.log"


def _run_masks(given: argparse.Namespace, vocabulary: Vocabulary) -> MaskFigures:
    libraries: list[Library] = [Ramet(vocabulary)]
    try:
        libraries.append(Llguidance(vocabulary))
    except ImportError as error:
        say(f"without llguidance: {error}")
    if "xgrammar" in given.peers:
        try:
            python, threads = given.peers["xgrammar"], given.threads
            libraries.append(
                Xgrammar(vocabulary, python, given.workdir, threads=threads, timeout=given.timeout)
            )
        except EngineFailed as error:
            say(f"without xgrammar: {error}")
    try:
        return measure_masks(vocabulary.name, libraries, cases(quick=given.quick), given.runs, say)
    finally:
        for library in libraries:
            library.close()


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; ends the process with a message if they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/constrained.py",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--part", action="append", choices=_PARTS, help="which; repeatable (all). cost needs extraction")
    add("--runs", type=int, default=5, help="timed runs, after one untimed (5)")
    add("--threads", type=int, default=2, help="threads and cores for each engine (2)")
    add("--model", help="GGUF file, Hugging Face folder or hub id (the bundled model)")
    add("--peer", action="append", default=[], choices=_PEERS, help="to compare with; repeatable")
    add("--python", action="append", default=[], type=Path, help="its Python; one for each --peer")
    add("--quick", action="store_true", help="few prompts and constraints: shows that it works, not how fast")
    add("--json", type=Path, help="write everything measured to this file")
    add("--timeout", type=float, default=600.0, help="seconds after which an engine has failed (600)")
    add("--workdir", type=Path, default=_WORKDIR, help=f"for converted models and logs ({_WORKDIR})")
    given = parser.parse_args(arguments)
    if given.runs < 1 or given.threads < 1:
        parser.error("--runs and --threads must be at least 1")
    if len(given.peer) != len(given.python):
        parser.error(f"{len(given.peer)} --peer and {len(given.python)} --python: give one for each")
    # Not resolved: the link is what makes a Python that of a virtual environment
    given.peers = {
        peer: path.expanduser().absolute() for peer, path in zip(given.peer, given.python, strict=True)
    }
    for path in given.peers.values():
        if not path.is_file():
            parser.error(f"there is no Python at {path}")
    given.part = set(given.part or _PARTS)
    if "cost" in given.part:
        given.part.add("extraction")  # it says how long the requests are
    return given


if __name__ == "__main__":
    main()
