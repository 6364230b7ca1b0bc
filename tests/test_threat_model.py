# SPDX-License-Identifier: MIT
"""Every promise of docs/threat-model.md names tests that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
PROMISES = re.split(r"^### ", PAGE.partition("## Promises")[2].partition("## Not promised")[0], flags=re.MULTILINE)[1:]


def named(text):
    return re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)


def marks(text, letter):
    return sorted(set(re.findall(rf"^(?:\* )?\*\*({letter}\d+)\*\*", text, re.MULTILINE)))


def test_promises_are_those_of_the_protocol():
    assert sorted(promise.split()[0] for promise in PROMISES) == marks(PROTOCOL, "P")
    assert marks(PAGE, "N") == marks(PROTOCOL, "N")


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.split()[0])
def test_a_promise_is_held_by_tests(promise):
    tests = [name for name in named(promise) if name[1]]
    assert len(tests) >= 2


@pytest.mark.parametrize(("path", "test"), sorted(set(named(PAGE))))
def test_what_is_named_is_there(path, test):
    body = ast.parse((ROOT / path).read_text()).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert test in names if test else any(name.startswith("test_") for name in names)
