"""What a server writes while it runs: log lines on stderr, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time


def log_to_stderr(*, as_json: bool, requests: bool) -> None:
    """Send the log of this process to stderr.

    Args:
        as_json: a JSON object per line, with the facts of a request as its members.
        requests: also a line per request.
    """
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(handlers=[lines], level=logging.WARNING, force=True)
    level = logging.getLogger("ramet").level
    logging.getLogger("ramet.server").setLevel(min(level or logging.INFO, logging.INFO))
    logging.getLogger("ramet.server.access").setLevel(logging.INFO if requests else logging.WARNING)


class Lines(logging.Formatter):
    """``12:30:01 ramet.server: text``, with the level if it is not merely information."""

    def __init__(self) -> None:
        super().__init__(datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, self.datefmt)} {record.name}: {level}{record.message}"

    def usesTime(self) -> bool:  # noqa: N802  logging's name
        return True


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and what the record adds."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **getattr(record, "facts", {"message": record.getMessage()}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
