"""Reading one JSON object of a model folder, with errors that name the file.

Knows nothing of what the object means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ramet.errors import CorruptWeights, ModelNotFound


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelNotFound: the file cannot be read.
        CorruptWeights: it is no JSON, or no object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotFound(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # JSONDecodeError, or bytes that are not UTF-8
        raise CorruptWeights(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CorruptWeights(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_optional_json_object(path: Path) -> dict[str, Any]:
    """The same, or ``{}`` where there is no such file."""
    return read_json_object(path) if path.is_file() else {}
