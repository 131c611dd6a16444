"""What ``python benchmarks/engine`` accepts, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from engine.specs import DEFAULT_LLAMA_FORMATS, DEVICES, GPU_PEERS, LLAMA_FORMATS, OPENVINO_FORMATS, PEERS
from engine.workloads import SESSIONS

_WORKDIR = user_cache_path("ramet") / "benchmarks"
_DESCRIPTION = """\
Time Ramet's engine, beside other engines if their Python is given. Run as
`python benchmarks/engine` with the Python that Ramet is installed in.

Workloads (greedy, EOS ignored, fresh random token ids in every run):
  a  16 distinct prompts of 1,024 tokens, one token out
  b  one request: 32-token prompt, 256 tokens out
  c  32 requests: 32-token prompts, 128 tokens out
  d  64 requests: one prefix of 1,000 tokens + 50 own, 16 tokens out, nothing cached before:
     all at once; one first and then the rest (both timed together); all at once without cache
  e  16 branches of one prompt of 4,000 tokens + 8 own, 64 tokens out, and the same of 100
     tokens: cold, and again with the prompt cached (new own tokens), which is decode time

Engines stay loaded in processes of their own and take turns run by run; those that wait are
stopped. Each may stand idle for some seconds once it has loaded, as a server does before anybody
asks: a new KV cache is memory that somebody has to touch first. Figures are medians. Peers need
only their own package in their Python:
  --peer llama.cpp --python ~/llama/bin/python --peer openvino --python ~/ov/bin/python
llama.cpp shares prefixes by hand (seq_cp), transformers too (a repeated cache). OpenVINO reads
some formats with a loss ("first tokens as Ramet's" shows it), so it runs on the GGUF as stored and
on the same weights in float16.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; ends the process with a message if they make no sense."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if len(given.peer) != len(given.python):
        parser.error(f"{len(given.peer)} --peer and {len(given.python)} --python: give one for each")
    elsewhere = [kind for kind in given.peer if kind not in GPU_PEERS]
    if given.device == "cuda" and elsewhere:
        parser.error(f"--device cuda is for Ramet and {', '.join(GPU_PEERS)}, not for {elsewhere[0]}")
    given.limits = given.limits and given.device == "cpu"
    if given.no_ramet and not given.peer:
        parser.error("--no-ramet without a --peer leaves nothing to measure")
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/engine",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workload", type=_letters, default=list(SESSIONS), help="which, such as a,b (all)")
    add("--runs", type=_positive, default=3, help="timed runs per engine (3)")
    add("--warm-ups", type=_count, default=1, help="untimed runs before them (1)")
    add("--settle", type=_seconds, default=5.0, help="seconds engines stand idle once they have loaded (5)")
    add("--threads", type=_positive, default=2, help="threads and cores for each engine (2)")
    add("--device", choices=DEVICES, default="cpu", help="where Ramet and transformers compute (cpu)")
    add("--model", help="GGUF file, Hugging Face folder or hub id (the bundled model)")
    add("--peer", action="append", default=[], choices=PEERS, help="engine to compare with; repeatable")
    add("--python", action="append", default=[], type=_python, help="its Python; one for each --peer")
    add(
        "--peer-format",
        action="append",
        choices=LLAMA_FORMATS,
        help=f"format for llama.cpp, made from the model; repeatable ({' and '.join(DEFAULT_LLAMA_FORMATS)})",
    )
    add(
        "--openvino-format",
        action="append",
        choices=OPENVINO_FORMATS,
        help="for OpenVINO: the GGUF as it is stored, or made float16; repeatable (both)",
    )
    add("--no-ramet", action="store_true", help="peers only")
    add("--no-limits", dest="limits", action="store_false", help="do not measure the machine; a GPU never is")
    add("--quick", action="store_true", help="sizes divided by 8: shows that it works, not how fast")
    add("--seed", type=int, help="of the token ids (fresh each time)")
    add("--json", type=Path, help="write everything measured to this file")
    add("--timeout", type=float, default=1800.0, help="seconds after which an engine has failed (1800)")
    add("--workdir", type=Path, default=_WORKDIR, help=f"for converted models and logs ({_WORKDIR})")
    return parser


def _letters(text: str) -> list[str]:
    letters = text.split(",")
    unknown = [letter for letter in letters if letter not in SESSIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no workload {unknown[0]!r}; there are {', '.join(SESSIONS)}")
    return letters


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}")
    return seconds


def _python(text: str) -> Path:
    path = Path(text).expanduser().absolute()  # not resolved: the link is what makes it a virtual environment
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no Python at {text}")
    return path
