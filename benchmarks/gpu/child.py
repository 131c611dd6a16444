"""The process that measures: section after section, until one fails or leaves something behind.

What went wrong on a device may be wrong for the rest of a process, so that the next section gets a new one.
Importing this must not take long, nor import torch: the parent does.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from engine.peers.wire import die_with_parent
from gpu.sections import SECTIONS
from gpu.settings import Settings, Skip

logger = logging.getLogger(__name__)


def measure(names: Sequence[str], settings: Settings, out: Connection) -> None:
    """Run sections and send what they find: see `gpu.record.Record` for what is sent."""
    die_with_parent()
    from gpu.bench import Bench  # with torch

    bench = Bench(settings, out.send)
    for section in (section for section in SECTIONS if section.name in names):
        bench.begin(section.seconds)
        out.send(("begin", section.name))
        started = time.perf_counter()
        try:
            section.run(bench)
        except Skip as reason:
            out.send(("end", ("skipped", str(reason), time.perf_counter() - started)))
        except Exception as error:  # the top of this process's loop: whatever went wrong is a figure too
            logger.exception("%s failed", section.name)
            failure = f"{type(error).__name__}: {error}".strip()
            out.send(("end", ("failed", failure, time.perf_counter() - started)))
            sys.exit(1)
        else:
            out.send(("end", ("done", "", time.perf_counter() - started)))
        if section.ends_process:
            return
