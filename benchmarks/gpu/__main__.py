"""``python benchmarks/gpu``: the folder above becomes importable, then `gpu.command` runs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.pop(0)  # this folder: its modules have names that others may have too
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
