"""Models from the Hugging Face hub, through the optional huggingface_hub package."""

from __future__ import annotations

from pathlib import Path

from ramet.errors import ModelNotFound

# Weights in other formats and copies of them lie in many repositories; these files are all we read.
_PATTERNS = ["*.json", "*.jinja", "model*.safetensors"]


def fetch_from_hub(repository: str, file_name: str | None, folder: Path) -> Path:
    """The local path of a repository (a folder), or of one GGUF file in it.

    What is in ``folder`` already is not downloaded again, and is used when there is no network.

    Raises:
        ModelNotFound: huggingface_hub is not installed, there is no network or no such repository or file,
            or the repository holds no ``config.json``.
    """
    try:
        import huggingface_hub  # the [hub] extra
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ModelNotFound(
            f"{repository!r} is no local path; to load models from the hub, run pip install 'ramet[hub]'"
        ) from error
    try:
        if file_name is not None:
            return Path(huggingface_hub.hf_hub_download(repository, file_name, cache_dir=folder))
        path = Path(huggingface_hub.snapshot_download(repository, cache_dir=folder, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, OSError, ValueError) as error:
        # OSError and ValueError are bases of its errors for missing networks, entries and wrong names.
        reason = str(error).strip().partition("\n")[0]
        name = repository if file_name is None else f"{repository}:{file_name}"
        raise ModelNotFound(
            f"{name!r} is no local path, and the hub does not give it: {reason}. Check the name, the network "
            "and your access, or pass the path of a model"
        ) from error
    if not (path / "config.json").is_file():
        raise ModelNotFound(
            f"{repository!r} on the hub has no config.json; if it holds GGUF files, name one: "
            f"{repository}:FILE.gguf"
        )
    return path
