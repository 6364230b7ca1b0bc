# SPDX-License-Identifier: MIT
"""Configuration files, and what is written as one line of text: refused in words, or the same when written again."""

from pathlib import Path

import qg
from qg.address import Address, Endpoint, HostPort, Prefix
from qg.config import Config
from qg.exit_policy import ExitRule
from qg.forwarding import ForwardRule, ForwardSpec
from qg.types import LinkKey, PeerId
from tools.fuzz.targets.key_files import path_of

TEXTS = (Address, Endpoint, HostPort, Prefix, ForwardSpec)
RULES = (ExitRule.parse, ForwardRule.parse, LinkKey, PeerId)


def run(data: bytes) -> None:
    file_read(path_of(data))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    for kind in TEXTS:
        line_read(kind, text)
    for parse in RULES:
        try:
            parse(text)
        except qg.InvalidValue as error:
            assert str(error)


def file_read(path: Path) -> None:
    try:
        config = Config.load(path)
    except qg.ConfigError as error:
        assert all(line.startswith(f"{path}: ") for line in str(error).splitlines()), error
        return
    assert Config.load(path) == config


def line_read(kind: type[Address | Endpoint | HostPort | Prefix | ForwardSpec], text: str) -> None:
    try:
        value = kind.parse(text)
    except qg.InvalidValue as error:
        assert str(error)
        return
    assert kind.parse(str(value)) == value
    assert str(kind.parse(str(value))) == str(value)
