# SPDX-License-Identifier: MIT
"""The log of a service: lines for people, or one JSON object per line.

What qg logs is written `event key=%s key=%d: text`. The parts are taken from that template and its arguments, not
from the finished line, so a value may hold spaces, quotes and line breaks.
"""

import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

__all__ = ["JsonFormatter", "logs_start"]

_TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TEMPLATE = re.compile(
    r"(?P<event>\w+|%s)(?P<fields>(?: (?:\w+|%s)=(?:[^\s:]|:(?=\S))*)*)(?:: (?P<text>.*))?", re.DOTALL
)
_FIELD = re.compile(r" (\w+|%s)=(\S*)")
_SPEC = re.compile(r"%[-+#0 ]*[\d.]*[a-zA-Z]")


def logs_start(level: str, style: Literal["text", "json"]) -> None:
    """Log to stderr from `level` on, in place of what was set before; for programs: the library sets up no logging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(_TEXT_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON.

    Always `time` (RFC 3339, UTC), `level` and `logger`; then `event`, its fields and `text`, or `message` where the
    record is not written in that form, and `exception` where there was one. Fields whose names are taken keep them with
    a `_` behind.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        parts = _parts(record) if record.name.startswith("qg.") else None
        line |= parts if parts is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


_TAKEN = frozenset({"time", "level", "logger", "event", "text", "message", "exception"})


def _parts(record: logging.LogRecord) -> dict[str, Any] | None:
    """Split a record into its event, fields and text; None where it is not written so."""
    match = _TEMPLATE.fullmatch(record.msg) if isinstance(record.msg, str) else None
    if match is None or isinstance(record.args, dict):
        return None
    values = iter(record.args or ())
    try:
        parts = {"event": _filled(match["event"], values)}
        for key, value in _FIELD.findall(match["fields"]):
            key = _filled(key, values)
            parts[f"{key}_" if key in _TAKEN else key] = _filled(value, values)
        if match["text"] is not None:
            parts["text"] = _filled(match["text"], values)
    except (StopIteration, TypeError):
        return None
    return parts


def _filled(template: str, values: Iterator[Any]) -> Any:
    """Put the next values into a template; a value that stands alone keeps its type where JSON has it."""
    specs = _SPEC.findall(template)
    if specs == [template]:
        value = next(values)
        return value if isinstance(value, int | float | str | None) else str(value)
    return template % tuple(next(values) for _ in specs)
