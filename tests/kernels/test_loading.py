"""Whether there are native kernels, and what is said if not.

Each case is an install of its own: a copy of the package under another name, with another extension.
"""

from __future__ import annotations

import importlib.machinery
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ramet import kernels

PACKAGE = Path(kernels.__file__)
COPY = "kernels_of_an_install"
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[
    0
]  # of this Python, such as ".cpython-311-x86_64-linux-gnu.so"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install({"_cpu.py": "..."})``: the package with these files beside it."""
    monkeypatch.syspath_prepend(tmp_path)

    def copy(files):
        (tmp_path / COPY).mkdir()
        shutil.copy(PACKAGE, tmp_path / COPY / "__init__.py")
        for name, text in files.items():
            (tmp_path / COPY / name).write_text(text)
        return importlib.import_module(COPY)

    yield copy
    for name in (COPY, f"{COPY}._cpu"):
        sys.modules.pop(name, None)


def test_the_extension_and_a_reason_exclude_each_other():
    assert (kernels.load_native() is None) == (kernels.why_unavailable() is not None)


def test_a_loaded_extension_knows_what_this_cpu_can_run():
    native = kernels.load_native()
    if native is None:
        pytest.skip(kernels.why_unavailable())
    supported = native.supported_isas()
    assert supported[-1] == "baseline"  # runs anywhere
    assert supported == [name for name in native.compiled_isas() if name in supported]


def test_an_extension_is_used(install):
    package = install({"_cpu.py": "answer = 42"})
    assert package.load_native().answer == 42
    assert package.load_native() is package.load_native()
    assert package.why_unavailable() is None


def test_not_compiled(install):
    package = install({"_cpu.pyi": ""})
    assert package.load_native() is None
    assert "were not compiled when Ramet was installed" in package.why_unavailable()
    assert "C++17 compiler" in package.why_unavailable()


def test_compiled_for_another_python(install):
    other = "_cpu.cpython-27-x86_64-linux-gnu.so"
    package = install({other: ""})
    assert package.load_native() is None
    assert other in package.why_unavailable()
    assert "another Python" in package.why_unavailable()


def test_a_file_that_is_no_extension(install):
    package = install({f"_cpu{SUFFIX}": "not a shared library"})
    assert package.load_native() is None
    assert f"_cpu{SUFFIX}" in package.why_unavailable()  # the loader's own words name the file
    assert "do not load" in package.why_unavailable()


def test_an_extension_that_needs_what_is_not_there(install):
    package = install({"_cpu.py": "import no_such_library"})
    assert package.load_native() is None
    assert "no_such_library" in package.why_unavailable()


def test_a_machine_whose_numbers_are_the_other_way_round(install, monkeypatch):
    package = install({"_cpu.py": ""})
    monkeypatch.setattr(sys, "byteorder", "big")
    assert package.load_native() is None
    assert "big-endian" in package.why_unavailable()


def test_asking_is_cheap():
    """Neither the package nor its extension brings NumPy or torch along."""
    code = (
        "import sys; from ramet import kernels; kernels.load_native(); "
        "print(sorted({'numpy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
