"""Names of models to paths, and what lies in the cache. The hub is a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ramet.errors import ModelNotFound
from ramet.store import BUNDLED, list_models, remove_model, resolve_model


@pytest.fixture
def bundled(tmp_path) -> Path:
    """A cache that holds a file in the bundled model's place, marked as checked."""
    path = tmp_path / "cache" / "models" / BUNDLED.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF, not really")
    status = path.stat()
    marker = path.parent / f".{path.name}.checked"
    marker.write_text(
        f'{{"sha256": "{BUNDLED.sha256}", "size": {status.st_size}, "mtime_ns": {status.st_mtime_ns}}}'
    )
    return path


@pytest.mark.parametrize("name", [None, "bundled", "SmolLM2-135M-Instruct"])
def test_the_bundled_model_has_these_names(tmp_path, bundled, name):
    assert resolve_model(name, cache_dir=tmp_path / "cache") == bundled


def test_paths_to_gguf_files_and_checkpoints(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF....")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert resolve_model(str(file)) == file
    assert resolve_model(str(folder)) == folder


def test_what_is_wrong_with_a_path_is_said(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no model at .*nothing\.gguf; expected a GGUF file, a folder"):
        resolve_model(str(tmp_path / "nothing.gguf"))
    with pytest.raises(ModelNotFound, match=r"no model at models/x\.gguf"):
        resolve_model("models/x.gguf")
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"it holds a\.gguf: pass the path"):
        resolve_model(str(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"x")
    with pytest.raises(ModelNotFound, match=r"not a GGUF file.*pass the folder"):
        resolve_model(str(tmp_path / "a.safetensors"))
    with pytest.raises(ModelNotFound, match="must not be empty"):
        resolve_model("")


# ---------------------------------------------------------------------------------------------- the hub


class HubError(OSError):
    pass


@pytest.fixture
def hub(monkeypatch):
    """A huggingface_hub with one repository of safetensors, one of GGUF files, and no others."""
    module, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")

    def folder_of(repository: str, cache_dir: Path) -> Path:
        if not repository.startswith("org/"):
            raise HubError(f"404: no repository {repository}\nmore")
        return Path(cache_dir) / f"models--{repository.replace('/', '--')}" / "snapshots" / "main"

    def snapshot_download(repository, *, cache_dir, allow_patterns):
        folder = folder_of(repository, cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if repository == "org/safetensors":
            (folder / "config.json").write_text("{}")
        return str(folder)

    def hf_hub_download(repository, name, *, cache_dir):
        folder = folder_of(repository, cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF")
        return str(folder / name)

    module.snapshot_download, module.hf_hub_download, module.errors = (
        snapshot_download,
        hf_hub_download,
        errors,
    )
    errors.HfHubHTTPError = HubError
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


@pytest.mark.usefixtures("hub")
def test_hub_ids(tmp_path):
    folder = resolve_model("org/safetensors", cache_dir=tmp_path)
    assert (folder / "config.json").is_file()
    file = resolve_model("org/some-gguf:tiny.Q4_0.gguf", cache_dir=tmp_path)
    assert file.name == "tiny.Q4_0.gguf"


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_said(tmp_path):
    with pytest.raises(ModelNotFound, match=r"org/some-gguf:FILE\.gguf"):
        resolve_model("org/some-gguf", cache_dir=tmp_path)
    with pytest.raises(
        ModelNotFound, match=r"'other/model' is no local path.*404: no repository other/model\."
    ):
        resolve_model("other/model", cache_dir=tmp_path)


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFound, match=r"pip install 'ramet\[hub\]'"):
        resolve_model("org/model", cache_dir=tmp_path)


# -------------------------------------------------------------------------------------------- the cache


@pytest.mark.usefixtures("hub")
def test_models_in_the_cache_are_listed_and_removed(tmp_path, bundled):
    cache = tmp_path / "cache"
    resolve_model("org/some-gguf:x.gguf", cache_dir=cache)
    assert [(model.name, model.source, model.size) for model in list_models(cache)] == [
        ("bundled", "bundled", 16),
        ("org/some-gguf", "hub", 4),
    ]
    assert remove_model("org/some-gguf", cache).size == 4
    assert remove_model("bundled", cache).path == bundled
    assert list_models(cache) == []
    assert not bundled.exists()
    with pytest.raises(ModelNotFound, match="holds no 'bundled'; it holds nothing"):
        remove_model("bundled", cache)


def test_an_empty_cache_lists_nothing(tmp_path):
    assert list_models(tmp_path / "nowhere") == []
