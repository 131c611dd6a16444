"""The native CPU kernels: whether this install has them, and why not if it has not.

The kernels are the compiled extension ``ramet.kernels._cpu`` (C++ in ``cpu/``). An install without a compiler
has no extension and runs on the torch reference; who computes asks here first. Importing this package costs
nothing and never fails; it knows no tensors, no models and no torch.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["load_native", "why_unavailable"]

_EXTENSION = f"{__name__}._cpu"


def load_native() -> ModuleType | None:
    """The extension, as ``_cpu.pyi`` describes it; None if it cannot be used (`why_unavailable` tells)."""
    loaded = _load()
    return loaded if isinstance(loaded, ModuleType) else None


def why_unavailable() -> str | None:
    """Why there are no native kernels ("they were not ..."), and what to do; None if they can be used."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def _load() -> ModuleType | str:
    """The extension, or why it cannot be used. Python keeps a loaded module, so asking again is cheap."""
    if sys.byteorder != "little":
        return "they read weights as little-endian numbers, and this machine is big-endian"
    try:
        return importlib.import_module(_EXTENSION)
    except ModuleNotFoundError as error:
        return _why_not_found() if error.name == _EXTENSION else _does_not_load(error)
    except ImportError as error:
        return _does_not_load(error)


def _why_not_found() -> str:
    for folder in __path__:
        for file in sorted(Path(folder).glob("_cpu.*")):
            if file.suffix in (".so", ".pyd"):  # Python only looks for the file names of its own version
                version = ".".join(map(str, sys.version_info[:2]))
                return f"{file} was compiled for another Python than this {version}; install Ramet again"
    return (
        "they were not compiled when Ramet was installed: that needs a C++17 compiler "
        "and Python's headers (`pip install --verbose` shows what was missing)"
    )


def _does_not_load(error: ImportError) -> str:
    return f"they do not load ({error}); install Ramet again"
