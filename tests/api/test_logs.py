# SPDX-License-Identifier: MIT
"""Log lines for machines: what qg logs splits into fields without a look at the finished text."""

import ast
import json
import logging
from pathlib import Path

import pytest

import qg
from qg.logs import _TEMPLATE, JsonFormatter

SOURCES = Path(qg.__file__).parent


def line_of(message: object, *values: object, name: str = "qg.test", error: BaseException | None = None) -> dict:
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.INFO, "", 0, message, values, exc_info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line.pop("time")
    assert (line.pop("level"), line.pop("logger")) == ("info", name)
    return line


@pytest.mark.parametrize(
    ("message", "values", "fields"),
    [
        ("closing", (), {"event": "closing"}),
        ("peer_up peer=%s n=%d", ('a b="c"\n', 3), {"event": "peer_up", "peer": 'a b="c"\n', "n": 3}),
        ("%s remote=%s:%d", ("link_up", "::1", 7), {"event": "link_up", "remote": "::1:7"}),
        ("counted %s=%d: %s", ("io", 2, "a=b: c"), {"event": "counted", "io": 2, "text": "a=b: c"}),
        ("skew by_s=%+.0f: from %d s on", (1.5, 120), {"event": "skew", "by_s": 1.5, "text": "from 120 s on"}),
        ("x relayed=%s none=%s", (True, None), {"event": "x", "relayed": True, "none": None}),
        ("x event=%s", ("y",), {"event": "x", "event_": "y"}),
        ("not an event at all", (), {"message": "not an event at all"}),
        ("too few n=%d", (), {"message": "too few n=%d"}),
    ],
)
def test_an_event_is_split_into_its_fields(message, values, fields):
    assert line_of(message, *values) == fields


def test_what_others_log_stays_a_message():
    assert line_of("task done=%s", 1, name="asyncio") == {"message": "task done=1"}


def test_an_exception_stands_in_a_field_of_its_own():
    try:
        raise ValueError("broken")
    except ValueError as error:
        line = line_of("hook_failed hook=%s", "f", error=error)
    assert "ValueError: broken" in line["exception"]
    assert line["hook"] == "f"


def test_everything_that_qg_logs_is_an_event_with_fields():
    templates = []
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if not (isinstance(call.func.value, ast.Name) and call.func.value.id == "_log"):
                continue
            template = call.args[1 if call.func.attr == "log" else 0]
            assert isinstance(template, ast.Constant), f"{path}:{call.lineno}: not a literal"
            templates.append(template.value)
            assert _TEMPLATE.fullmatch(template.value), f"{path}:{call.lineno}: {template.value}"
    assert len(templates) > 20
