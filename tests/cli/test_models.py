from __future__ import annotations

import pytest

from ramet.store import BUNDLED, default_cache_dir


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty model cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return default_cache_dir()


@pytest.fixture
def bundled(cache):
    """A file in the place of the bundled model."""
    path = cache / "models" / BUNDLED.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF" + bytes(2_400_000))
    return path


def test_list_shows_name_size_and_place(ramet, bundled):
    assert ramet("models", "list").stdout.split() == ["bundled", "2.4", "MB", str(bundled)]


def test_an_empty_cache_lists_nothing_and_says_what_to_do(ramet, cache):
    outcome = ramet("models", "list")
    assert outcome.stdout == ""
    assert "ramet models pull" in outcome.stderr


def test_remove_deletes_and_refuses_what_is_not_there(ramet, bundled):
    assert "removed bundled (2.4 MB)" in ramet("models", "remove", "bundled").stdout
    assert not bundled.exists()
    outcome = ramet("models", "remove", "bundled")
    assert outcome.exit_code == 1
    assert "holds no 'bundled'" in outcome.stderr


def test_path_fetches_nothing(ramet, cache):
    outcome = ramet("models", "path")
    assert outcome.exit_code == 1
    assert "`ramet models pull`" in outcome.stderr
    outcome = ramet("models", "path", "some/repository")
    assert outcome.exit_code == 1
    assert "`ramet models pull some/repository`" in outcome.stderr


def test_a_model_file_is_its_own_path(ramet, cache, tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    assert ramet("models", "path", file).stdout.strip() == str(file)
    assert ramet("models", "pull", file).stdout.strip() == str(file)


def test_pull_of_a_damaged_bundled_model_says_what_to_do(ramet, bundled):
    outcome = ramet("models", "pull")
    assert outcome.exit_code == 1
    assert "is damaged" in outcome.stderr
