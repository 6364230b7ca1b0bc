# SPDX-License-Identifier: MIT
"""What a node counts is named, explained, and said in the log in few lines."""

import asyncio
import logging
import re
from pathlib import Path

import pytest

import qg
from qg.status import _GUARD as GUARD
from qg.status import _OTHERS as OTHERS
from qg.status import COUNTERS, Watch, overloads
from qg.testing import network

SOON = qg.Config.from_dict({"limits": {"handshake_s": 1}})
PAGE = Path(__file__).parents[2] / "docs" / "running.md"


def core(by_status=(), guard_counts=(), n_accept_errors=0, is_locked=True, clock_skew_s=None):
    """The figures of the core that a watch looks at."""
    return {
        "by_status": dict(by_status),
        "guard_counts": [*guard_counts, *[0] * (len(GUARD) - len(guard_counts))],
        **dict.fromkeys(OTHERS, 0),
        "n_accept_errors": n_accept_errors,
        "is_locked": is_locked,
        "clock_skew_s": clock_skew_s,
    }


@pytest.fixture
def said(caplog):
    """What was logged since it was asked last: (level, first words)."""
    caplog.set_level(logging.INFO, "qg.node")

    def take():
        lines = [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records]
        caplog.clear()
        return lines

    return take


def test_what_strangers_do_is_one_line_for_each_reason_however_often(said):
    watch = Watch(10, 120)
    watch.look(core({-3: 1000, -14: 2}, [5, 7]))
    assert said() == [
        ("INFO", "counted bad_envelope=1000"),
        ("INFO", "counted replay=2"),
        ("INFO", "counted refused_accept_rate=7"),
    ]
    watch.look(core({-3: 1000, -14: 2}, [6, 7]))
    assert said() == []
    watch.look(core({-3: 1001, -14: 2}, [6, 7], n_accept_errors=1))
    assert said() == [("INFO", "counted bad_envelope=1"), ("WARNING", "counted accept_errors=1")]


def test_lines_that_strangers_cause_are_bounded(said):
    Watch(3, 120).look(core({-code: 1 for code in range(1, 21)}))
    lines = said()
    assert len(lines) == 4
    assert lines[-1] == ("INFO", "counted more=17")


def test_a_clock_that_is_off_by_half_the_window_is_said_once_each_time(said):
    watch = Watch(10, 120)
    for skew_s, n_lines in ((None, 0), (60, 0), (-61, 1), (-90, 0), (10, 0), (61, 1)):
        watch.look(core(clock_skew_s=skew_s))
        assert [level for level, _ in said()] == ["WARNING"] * n_lines


def test_keys_that_may_reach_the_swap_are_said_once(said):
    watch = Watch(10, 120)
    for _ in range(2):
        watch.look(core(is_locked=False))
    assert said() == [("WARNING", "not_locked")]


@pytest.mark.anyio
async def test_a_node_looks_by_itself(monkeypatch, said):
    monkeypatch.setattr("qg.node._WATCH_S", 0.5)
    config = qg.Config.from_dict({"allow": [str(qg.Identity.generate().peer_id)]})
    async with network(1, config=config) as net, qg.Node(qg.Identity.generate(), config=SOON) as stranger:
        with pytest.raises(qg.PeerTimeout):
            await stranger.connect(net.nodes[0].address)
        lines = []
        while ("INFO", "counted peers_denied=1") not in lines:
            await asyncio.sleep(0.01)
            lines += said()


def test_the_page_for_operators_explains_every_counter():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) | COUNTERS == dict(rows)


@pytest.mark.parametrize(
    ("figure", "most", "name"),
    [
        ("n_sessions", 10_000, "limits.sessions"),
        ("n_half_open", 1024, "limits.half_open"),
        ("n_circuits", 65_536, "limits.pipes"),
        ("receive_unread_len", 256 << 20, "limits.receive_credit_mib"),
        ("relay_held_len", 64 << 20, "relay.memory_mib"),
    ],
)
def test_a_budget_that_is_nearly_used_up_is_named(figure, most, name):
    names = ("n_sessions", "n_half_open", "n_sinks", "n_circuits", "receive_unread_len", "relay_held_len")
    figures = dict.fromkeys(names, 0)
    assert overloads(figures, qg.Config()) == ()
    assert overloads(figures | {figure: most * 89 // 100}, qg.Config()) == ()
    more = {"n_sessions": most * 9 // 10 + 1} if figure == "n_half_open" else {}
    assert overloads(figures | {figure: most * 9 // 10 + 1} | more, qg.Config()) == (name,)
