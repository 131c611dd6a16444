"""Python files that define programs: loading one, and finding the program in it.

Invariant: whatever is wrong with a file ends in an error that names the file and, where there is one, the
line. The file is run like an imported module, so its ``if __name__ == "__main__":`` part is not.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from ramet import Program
from ramet.errors import InvalidRequest, ProgramError, RametError

MODULE_NAME = "ramet_program"


def load_program(file: Path, name: str | None) -> Program:
    """Run the file and return its program, or the one called ``name``.

    Raises:
        InvalidRequest: the file cannot be read or is not Python, or which program is meant is unclear.
        ProgramError: the file's own code failed.
    """
    module = _load(file)
    programs = {
        attribute: value
        for attribute, value in vars(module).items()
        if isinstance(value, Program) and (value.__module__ == MODULE_NAME or attribute == name)
    }
    names = ", ".join(programs) or "none"
    if name is not None:
        if name not in programs:
            raise InvalidRequest(f"{file} has no program {name!r} (its programs: {names})")
        return programs[name]
    if not programs:
        raise InvalidRequest(
            f"{file} defines no program: write a function whose first parameter is s, "
            "and put @rm.function on the line above it"
        )
    if len(programs) > 1:
        raise InvalidRequest(f"{file} defines several programs ({names}): pick one with --function NAME")
    return next(iter(programs.values()))


def _load(file: Path) -> ModuleType:
    source = _source(file)
    try:
        code = compile(source, str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise InvalidRequest(f"{file}:{error.lineno or 1}: {error.msg}") from error
    except ValueError as error:  # a null byte
        raise InvalidRequest(f"{file} is not Python source: {error}") from error
    module = ModuleType(MODULE_NAME)
    module.__file__ = str(file)
    sys.modules[MODULE_NAME] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(file.resolve().parent))  # as `python FILE` does
    with OwnErrors(file):
        exec(code, vars(module))
    return module


def _source(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidRequest(
            f"there is no file {file}; expected a Python file with a program in it"
        ) from error
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{file} is not UTF-8 text (byte {error.object[error.start]:#04x} at offset {error.start}); "
            "save it as UTF-8"
        ) from error


# ------------------------------------------------------------------------------------------- arguments


def parse_arguments(program: Program, given: Sequence[str], file: Path) -> dict[str, Any]:
    """The program's arguments from ``name=value`` words. A value is JSON if it parses, else a string.

    Raises:
        InvalidRequest: not of that form, given twice, unknown, or one the program needs is missing.
    """
    parameters = list(inspect.signature(program).parameters.values())[1:]
    names = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    known = f"{program.name} in {file} takes {', '.join(names) or 'no arguments'}"
    arguments: dict[str, Any] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidRequest(f"--arg must be name=value, got {word!r}; {known}")
        if name in arguments:
            raise InvalidRequest(f"--arg {name} is given twice")
        if name not in names and not takes_any:
            raise InvalidRequest(f"unknown --arg {name}: {known}")
        arguments[name] = _value(value)
    for parameter in parameters:
        missing = parameter.name in names and parameter.name not in arguments
        if missing and parameter.default is parameter.empty:
            raise InvalidRequest(f"{known}: pass --arg {parameter.name}=VALUE")
    return arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")  # so NaN and Infinity stay words


# --------------------------------------------------------------------------------------------- failures


class OwnErrors:
    """Around a file's own code: what it raises becomes a `ProgramError` that names the line.

    A context manager, and not an ``except``, for it must let through what is no `Exception`, and what
    has nothing to do with the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
            return
        place = self._place(error)
        if place is not None:
            reason = str(error) if isinstance(error, RametError) else f"{type(error).__name__}: {error}"
            raise ProgramError(f"{place}: {reason}") from error

    def _place(self, error: BaseException) -> str | None:
        """The last line of the file that the error, or what caused it, has passed through."""
        cause: BaseException | None = error
        while cause is not None:
            for frame in reversed(traceback.extract_tb(cause.__traceback__)):
                if frame.filename == str(self._file):
                    inside = "" if frame.name == "<module>" else f" in {frame.name}"
                    return f"{self._file}:{frame.lineno}{inside}"
            cause = cause.__cause__
        return None
