"""Run in an engine's own Python as ``python run.py ADAPTER``: answers messages until its input ends."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # engines that start processes import this file again
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    adapter: Any = importlib.import_module(f"engine.peers.{sys.argv[1]}")
    importlib.import_module("engine.peers.wire").serve(adapter.load)
