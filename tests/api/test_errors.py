# SPDX-License-Identifier: MIT
"""The exception tree, and the reasons of the wire."""

import copy
import pickle
import re
from pathlib import Path

import pytest

from qg import errors
from qg.errors import ConfigError, LocalError, QGError, Reason, RemoteError, error_from_reason

ROOT = Path(__file__).parents[2]
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_every_error_is_our_users_or_the_peers_and_never_both():
    for kind in set(CLASSES) - {QGError}:
        assert issubclass(kind, LocalError) != issubclass(kind, RemoteError), kind


def test_every_error_and_reason_is_exported():
    assert {kind.__name__ for kind in CLASSES} | {"Reason", "error_from_reason"} == set(errors.__all__)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.REFUSED, PermissionError),
        (Reason.UNREACHABLE, ConnectionError),
        (Reason.TIMEOUT, TimeoutError),
        (Reason.SLOW_READER, ConnectionResetError),
        (Reason.SHUTDOWN, ConnectionError),
    ],
)
def test_an_error_is_also_the_standard_one_that_programs_expect(reason, kind):
    with pytest.raises(kind):
        raise error_from_reason(reason, "opening a stream", "peer x")


def test_every_reason_says_what_where_and_what_to_do():
    for reason in Reason:
        error = error_from_reason(reason, "opening a stream", "peer x")
        assert isinstance(error, RemoteError)
        assert error.reason is reason
        assert re.fullmatch(r"opening a stream failed at peer x: [^;]+; [^;]+", str(error))


def test_unknown_reasons_read_as_none():
    for number in (17, 255, 2**62, -1):
        assert Reason(number) is Reason.NONE
        assert error_from_reason(number, "reading", "peer x").reason is Reason.NONE


def test_reasons_are_those_of_the_core():
    status = (ROOT / "qg/_core/status.pxd").read_text()
    core = dict(re.findall(r"REASON_(\w+) = (\d+)", status))
    assert int(core.pop("COUNT")) == len(core)
    assert {name: int(number) for name, number in core.items()} == {reason.name: reason.value for reason in Reason}


@pytest.mark.parametrize("error", [error_from_reason(Reason.BUSY, "dialling", "x"), ConfigError("a: b", "c: d")])
def test_errors_survive_copying_and_pickling(error):
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
