# SPDX-License-Identifier: MIT
"""One ground for all programs that a process of pytest tries."""

import pytest
from clients.ground import ground as ground_make
from clients.programs import IS_ASKED_FOR, PROGRAMS, WAYS
from clients.report import table_write
from clients.targets import Targets


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    with ground_make(tmp_path_factory.mktemp("ground")) as made:
        yield made


@pytest.fixture(scope="session")
def targets(ground):
    return Targets(ground)


OUTCOMES = pytest.StashKey[dict]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Note how each way of each program has ended."""
    report = yield
    if call.when == "call" and not report.skipped and "program" in getattr(item, "fixturenames", ()):
        key = item.callspec.params["program"].name, item.callspec.params["way"]
        item.config.stash.setdefault(OUTCOMES, {})[key] = report.passed
    return report


def pytest_sessionfinish(session):
    outcomes = session.config.stash.get(OUTCOMES, {})
    if IS_ASKED_FOR and len(outcomes) == len(PROGRAMS) * len(WAYS):
        table_write(outcomes)
