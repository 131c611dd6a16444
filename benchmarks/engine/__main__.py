"""``python benchmarks/engine``: the folder above becomes importable, then `engine.command` runs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.command import main

if __name__ == "__main__":
    main()
