"""`ramet info`: what this machine and this install can do, for people and for bug reports.

It reports what the parts say of themselves; it loads no model and imports no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ramet import __version__
from ramet.kernels import load_native, why_unavailable
from ramet.runner.machine import available_cores, available_memory
from ramet.store import default_cache_dir, list_models

CPU_FACTS = Path("/proc/cpuinfo")
GPU_FACTS = Path("/proc/driver/nvidia/gpus")

_LABEL_WIDTH = 16

# What each instruction set asks of a CPU, as Linux spells it, best first (the build has the flags).
_AVX2 = {"avx2", "fma", "f16c", "bmi2"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}
_INSTRUCTION_SETS: dict[str, dict[str, set[str]]] = {
    "x86_64": {
        "avx512_bf16": _AVX512 | {"avx512_bf16"},
        "avx512": _AVX512,
        "avx2_vnni": _AVX2 | {"avx_vnni"},
        "avx2": _AVX2,
        "baseline": set(),
    },
    "aarch64": {"dotprod": {"asimddp", "asimdhp"}, "baseline": set()},
}


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One set of CPU instructions that kernels exist for."""

    name: str
    compiled: bool
    supported: bool
    in_use: bool
    missing: list[str]  # what the CPU lacks to run it, as far as the system tells

    def __str__(self) -> str:
        if self.in_use:
            return "in use"
        if not self.compiled:
            return "not compiled: the compiler did not know it"
        if not self.supported:
            return "not supported by this CPU" + (f": no {', '.join(self.missing)}" if self.missing else "")
        return "supported"


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """The compiled kernels, or why there are none (then the torch reference computes)."""

    in_use: bool
    reason: str | None
    instruction_sets: list[InstructionSet]  # best first


@dataclass(frozen=True, slots=True)
class Report:
    """What `ramet info` tells; its JSON has these fields."""

    version: str
    python: str
    platform: str
    cpu: str
    cores: int
    memory: int  # bytes
    native_kernels: NativeKernels
    gpus: list[str]  # of NVIDIA, as their driver names them
    torch: str | None
    triton: str | None  # which the kernels for GPUs are written in
    models_folder: str
    models: list[str]


def info(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Show what this machine and this install can do: put it into a bug report.

    Example: [bold]ramet info[/bold]
    """
    report = _report()
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    for label, value in _lines(report):
        console.print(Text.assemble((f"{label:<{_LABEL_WIDTH}}", "bold"), value))


def _report() -> Report:
    return Report(
        version=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        cpu=_cpu_name(),
        cores=available_cores(),
        memory=available_memory(),
        native_kernels=_native_kernels(),
        gpus=_gpu_names(),
        torch=_installed_version("torch"),
        triton=_installed_version("triton"),
        models_folder=str(default_cache_dir()),
        models=[model.name for model in list_models()],
    )


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    """Label and value of each line; a line without label belongs to the one above."""
    yield "ramet", report.version
    yield "python", report.python
    yield "platform", report.platform
    yield "cpu", report.cpu
    yield "cores", f"{report.cores} for this process"
    yield "memory", f"{report.memory / 1e9:.1f} GB free for this process"
    native = report.native_kernels
    yield "native kernels", "in use" if native.in_use else f"not in use: {native.reason}"
    width = max((len(each.name) for each in native.instruction_sets), default=0)
    for instruction_set in native.instruction_sets:
        yield "", f"{instruction_set.name:<{width}}  {instruction_set}"
    yield "gpus", ", ".join(report.gpus) or "none of NVIDIA"
    yield "torch", report.torch or "not installed"
    missing = (
        "not installed, and a GPU needs it: pip install 'ramet[gpu]'" if report.gpus else "not installed"
    )
    yield "triton", report.triton or missing
    yield "models", f"{report.models_folder} ({', '.join(report.models) or 'none yet'})"


def _native_kernels() -> NativeKernels:
    native = load_native()
    if native is None:
        return NativeKernels(in_use=False, reason=why_unavailable(), instruction_sets=[])
    compiled: list[str] = native.compiled_isas()
    supported: list[str] = native.supported_isas()
    needs = _INSTRUCTION_SETS.get(platform.machine(), {})
    features = set(_cpu_fact("flags", "Features").split())
    return NativeKernels(
        in_use=True,
        reason=None,
        instruction_sets=[
            InstructionSet(
                name=name,
                compiled=name in compiled,
                supported=name in supported,
                in_use=name == supported[0],
                missing=sorted(needs.get(name, set()) - features) if features else [],
            )
            for name in needs or compiled
        ],
    )


def _cpu_name() -> str:
    """As the system names it; the architecture alone where it does not."""
    name, machine = _cpu_fact("model name"), platform.machine()
    return f"{name} ({machine})" if name else machine


def _gpu_names() -> list[str]:
    found = sorted(GPU_FACTS.glob("*/information"))
    return [_fact(facts, "Model") or "unnamed" for facts in found]


def _cpu_fact(*keys: str) -> str:
    """What the system says of the first CPU under one of these keys; nothing if it is not Linux."""
    return _fact(CPU_FACTS, *keys)


def _fact(facts: Path, *keys: str) -> str:
    """The first value under one of these keys in a file of lines ``key : value``."""
    try:
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
