"""How each engine is started: its adapter, the form of the model it reads, and its best environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.convert import float16_gguf, hf_folder
from engine.engine_process import EngineSpec

PEERS = ("llama.cpp", "vllm", "openvino", "transformers")
DEVICES = ("cpu", "cuda")
GPU_PEERS = ("transformers",)  # those that this benchmark can run on a GPU
LLAMA_FORMATS = ("Q4_0", "Q4_1", "Q8_0", "BF16", "F16")
DEFAULT_LLAMA_FORMATS = ("Q4_0", "BF16")
OPENVINO_FORMATS = ("stored", "F16")

_RUN = Path(__file__).parent / "peers" / "run.py"
_SYSTEM_LIBRARIES = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))


def ramet_spec(model: Path, threads: int, workdir: Path, device: str) -> EngineSpec:
    """Ramet in this Python."""
    return EngineSpec(
        "Ramet",
        _command(Path(sys.executable), "ramet_adapter"),
        _options(model, threads, workdir, device=device),
        {"OMP_NUM_THREADS": str(threads)},
    )


def peer_specs(
    kind: str,
    python: Path,
    model: Path,
    *,
    threads: int,
    cores: Sequence[int],
    workdir: Path,
    llama_formats: Sequence[str],
    openvino_formats: Sequence[str],
    device: str = "cpu",
) -> list[EngineSpec]:
    """One peer; once per format if it has several.

    Raises:
        SystemExit: the model has no form that the peer reads.
    """
    environment = {"OMP_NUM_THREADS": str(threads)}
    if kind in ("llama.cpp", "openvino") and model.is_dir():
        raise SystemExit(f"{kind} needs a GGUF file as --model, {model} is a folder")
    match kind:
        case "llama.cpp":
            return [
                EngineSpec(
                    f"llama.cpp {name}",
                    _command(python, "llama_cpp_adapter"),
                    _options(model, threads, workdir, None if _is_of_type(model, name) else name),
                    environment,
                )
                for name in llama_formats
            ]
        case "openvino":
            return [
                EngineSpec(
                    f"OpenVINO {name}",
                    _command(python, "openvino_adapter"),
                    _options(model if name == "stored" else float16_gguf(model, workdir), threads, workdir),
                    environment,
                )
                for name in openvino_formats
            ]
        case "vllm":
            options = _options(hf_folder(model, workdir), threads, workdir)
            environment |= _vllm_environment(python, cores)
            return [EngineSpec("vLLM", _command(python, "vllm_adapter"), options, environment)]
        case "transformers":
            options = _options(hf_folder(model, workdir), threads, workdir, device=device)
            return [
                EngineSpec("transformers", _command(python, "transformers_adapter"), options, environment)
            ]
    raise SystemExit(f"no peer {kind!r}; known are {', '.join(PEERS)}")


def _command(python: Path, adapter: str) -> tuple[Path | str, ...]:
    return python, _RUN, adapter


def _options(
    model: Path, threads: int, workdir: Path, name: str | None = None, *, device: str = "cpu"
) -> Mapping[str, Any]:
    options = {"threads": threads, "workdir": str(workdir), "format": name, "device": device}
    return {"model": str(model), **options}


def _is_of_type(model: Path, name: str) -> bool:
    """Whether a file says by its name that it is of this type already; else it is requantized to it."""
    return f".{name.lower()}." in model.name.lower()


def _vllm_environment(python: Path, cores: Sequence[int]) -> dict[str, str]:
    """Threads bound to cores, none held back, and the allocator and OpenMP that its documentation advises."""
    preload = [path for path in (_library(python, "libtcmalloc"), _library(python, "libiomp5")) if path]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "LD_PRELOAD": ":".join(str(path) for path in preload),
    }


def _library(python: Path, name: str) -> Path | None:
    """A shared library by the beginning of its name: in the environment of a Python, else in the system."""
    for folder in (python.parent.parent / "lib", *_SYSTEM_LIBRARIES):
        found = [path for path in sorted(folder.rglob(f"{name}*.so*")) if "_db" not in path.name]
        if found:
            return min(found, key=lambda path: len(path.name))
    return None
