# SPDX-License-Identifier: MIT
"""Levels of security: what they decide, and that a running node changes from one to another."""

import itertools
from pathlib import Path

import msgspec
import pytest
from net.support import until

import qg
from qg.config import CoverConfig
from qg.policy import runtime_options
from qg.security import LEVELS
from qg.testing import conserved, network

from .services import Echo
from .test_keep import echo

PAGE_KEYS = ("handshake_delay_ms", "padding", "epoch_s", "rekey_s", "clock_window_s")


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_decides_the_same_settings_of_links_and_all_of_cover(level):
    assert tuple(LEVELS[level].link) == PAGE_KEYS
    own = qg.Config.from_dict({"cover": {"mode": "chaff", "budget_mib_h": 700}, "link": {"dead_peer_s": 9}})
    config = own.at_level(level)
    assert config.security == level
    assert config.link == qg.LinkConfig(dead_peer_s=9, **LEVELS[level].link)
    assert config.cover == CoverConfig(budget_mib_h=700, **LEVELS[level].cover)
    assert qg.Config.from_dict({"security": level}) == qg.Config().at_level(level)


def test_level_one_is_what_a_node_does_that_was_told_nothing():
    assert qg.Config().at_level("one") == msgspec.structs.replace(qg.Config(), security="one")


def test_each_level_hides_more_than_the_one_before():
    configs = [qg.Config().at_level(level) for level in LEVELS]
    steps = [
        (
            config.link.handshake_delay_ms,
            ["none", "light", "blocks-1k", "blocks-16k"].index(config.link.padding),
            ["off", "chaff", "shaped", "poisson"].index(config.cover.mode),
            -config.link.epoch_s,
            -config.link.rekey_s,
            -config.link.clock_window_s,
        )
        for config in configs
    ]
    for former, step in itertools.pairwise(steps):
        assert all(a <= b for a, b in zip(former, step, strict=True))
        assert former != step


def test_what_a_level_decides_must_not_stand_beside_it():
    with pytest.raises(qg.ConfigError) as raised:
        qg.Config.from_dict({"security": "three", "link": {"padding": "none", "dead_peer_s": 9}, "cover": {"size": 99}})
    problems = str(raised.value).splitlines()
    assert [problem.split(": ")[1] for problem in problems] == ["link.padding", "cover.size"]
    assert 'security = "three" decides it' in problems[0]
    own = {"security": "custom", "link": {"padding": "none"}, "cover": {"size": 999}}
    assert qg.Config.from_dict(own).cover.size == 999


def test_there_is_no_sixth_level():
    with pytest.raises(qg.QGError, match="one, two, three, four, five or custom"):
        qg.Config().at_level("six")


@pytest.mark.parametrize(
    ("cover", "names"),
    [
        ({"mode": "poisson", "rate_per_s": 2}, ["cover.rate_per_s"]),
        ({"mode": "shaped", "rate_per_s": 90}, ["cover.rate_per_s"]),
        ({"mode": "poisson", "rate_per_s": 90}, []),
        ({"mode": "poisson", "budget_mib_h": 11}, ["cover.budget_mib_h"]),
        ({"mode": "poisson", "budget_mib_h": 12}, []),
        ({"mode": "chaff", "budget_mib_h": 1}, []),
        ({"records_min": 31, "bytes_min": 300}, ["cover.records_min", "cover.bytes_min"]),
        ({"mode": "noise"}, ["cover.mode"]),
    ],
)
def test_cover_that_cannot_work_is_refused(cover, names):
    try:
        qg.Config.from_dict({"cover": cover})
        problems = []
    except qg.ConfigError as error:
        problems = str(error).splitlines()
    assert [problem.split(": ")[1].split(" ")[0] for problem in problems] == names


def test_the_workers_share_the_budget():
    config = qg.Config.from_dict({"workers": 4, "cover": {"mode": "poisson", "budget_mib_h": 100}})
    assert runtime_options(config, None)["cover"]["budget_len"] == 25 << 20


@pytest.mark.anyio
@pytest.mark.net
async def test_a_running_node_changes_its_level_and_goes_on_with_its_sessions():
    async with conserved() as nodes, network(2, extenders=lambda: [Echo()]) as net:
        nodes += net.nodes
        node, peer = net.nodes[0], net.peer(0, 1)

        def spent():
            return node.status().cover_bytes

        assert (node.status().security, spent()) == ("custom", 0)
        for level in (*LEVELS, *reversed(LEVELS)):
            await node.configure(qg.Config().at_level(level))
            assert node.status().security == level
            await echo(peer)
        before = spent()
        assert before > 0
        assert node.status().links[0].cover_bytes == before
        assert node.status().links[0].bytes_out > before
        await peer.ping()
        assert spent() == before  # level one: none


@pytest.mark.anyio
@pytest.mark.net
async def test_cover_flows_on_a_link_that_nobody_uses():
    cover = qg.Config.from_dict({"cover": {"mode": "poisson", "rate_per_s": 100}})
    async with network(2, extenders=lambda: [Echo()], config=cover) as net:
        node = net.nodes[0]
        await until(lambda: node.status().cover_bytes > 50_000, lambda: node.status().cover_bytes)
        assert node.status().counters.get("cover_overdrawn", 0) == 0
        await echo(net.peer(0, 1))


def test_the_page_has_the_settings_of_every_level():
    page = Path(__file__).parents[2].joinpath("docs", "security-levels.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {row[0] for row in rows} >= {f"`link.{key}`" for key in PAGE_KEYS}
    changed = {f"`cover.{key}`" for level in LEVELS.values() for key in level.cover}
    assert {row[0] for row in rows} >= changed
    for name, *values in rows:
        table, key = name.strip("`").split(".")
        found = [getattr(getattr(qg.Config().at_level(level), table), key) for level in LEVELS]
        assert values == [str(value).lower() if isinstance(value, bool) else str(value) for value in found], name
