"""No code made for one instruction set is ever run in the name of another.

`isa.cpp` is compiled once per instruction set. Of an inline function that several of its objects share, the
linker keeps one copy: if it keeps that of AVX-512, a CPU without it stops at an illegal instruction. So
whatever the linker may merge carries the instruction set in its name. Looks at what the last build left.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILDS = f"build/cp{sys.version_info.major}{sys.version_info.minor}-*/CMakeFiles"
OBJECTS = sorted(ROOT.glob(f"{BUILDS}/ramet_*.dir/**/isa.cpp.o"))

MERGED = frozenset("uVWvw")  # nm's letters for symbols the linker may take from another object


def isa_of(path: Path) -> str:
    return (
        next(part for part in path.parts if part.startswith("ramet_"))
        .removeprefix("ramet_")
        .removesuffix(".dir")
    )


@pytest.mark.skipif(not OBJECTS, reason="the kernels were not built in this checkout")
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, from binutils")
@pytest.mark.parametrize("path", OBJECTS, ids=isa_of)
def test_what_may_be_merged_names_its_instruction_set(path):
    listing = subprocess.check_output(["nm", "--demangle", "--defined-only", path], text=True)
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
    assert [name for kind, name in symbols if kind in MERGED and f"ramet::{isa_of(path)}::" not in name] == []
