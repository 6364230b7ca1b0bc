# SPDX-License-Identifier: MIT
"""Rules and scores outlive the node and are shared; a store that fails shuts the door, or leaves it as it was."""

import asyncio
import os
import resource
import sqlite3
import stat
from contextlib import contextmanager
from time import time

import pytest
from api.postgres import open_folder, postgres, postgres_url
from api.test_access import HASTY, LISTEN, is_let_in

import qg
from qg.access.rules import Standing
from qg.access.store import Change, StoreError, store_make

pytestmark = [pytest.mark.anyio, pytest.mark.net]

ANNA = qg.PeerRule(qg.PeerId(bytes(32)), "anna", True, False, None, 64)
BLOCK = qg.NetworkRule(qg.Prefix.parse("192.0.2.0/24"), False, "scans")
ALLOW = qg.NetworkRule(qg.Prefix.parse("2001:db8::/32"), True)
REFUSED = Standing(qg.Prefix.parse("198.51.100.7/32"), 100, 1, 0.0, 0.0)

__all__ = ["open_folder", "postgres", "postgres_url"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """A store that is new."""
    return f"sqlite:{tmp_path}/access.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.db"


def node_with(store, **settings):
    access = qg.AccessConfig(store=str(store) if ":" in str(store) else f"sqlite:{store}", **settings)
    return qg.Node(qg.Identity.generate(), listen=LISTEN, config=qg.Config(access=access))


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_rules_survive_and_are_written_as_a_whole(url):
    async with node_with(url) as node:
        assert node.access.store_state == node.status().access == "ready"
        await node.access.change([ANNA, BLOCK, ALLOW])
        await node.access.change([ANNA._replace(name="bert")], gone=[ALLOW.network])
        rules = node.access.rules
    async with node_with(url) as node:
        assert node.access.rules == rules
        assert rules.peers == {ANNA.peer_id: ANNA._replace(name="bert")}
        assert list(rules.networks.values()) == [BLOCK]
        assert not node.access.check_address("192.0.2.1").is_allowed


async def test_what_one_node_writes_another_hears(url):
    async with node_with(url) as one, node_with(url) as other:
        await one.access.change([ANNA, BLOCK])
        await until(lambda: other.access.rules == one.access.rules)
        assert not other.access.check_address("192.0.2.1").is_allowed
        await other.access.change(gone=[BLOCK.network, ANNA.peer_id])
        await until(lambda: not one.access.rules.networks)
        assert one.access.check_address("192.0.2.1").is_allowed
        # What one found out about an address.
        now_s = time()
        store = store_make(url)
        await store.open()
        await store.write(Change(standings=[REFUSED._replace(scored_s=now_s + 600, refused_s=now_s + 600)]), now_s)
        await store.close()
        for node in (one, other):
            await until(lambda: not node.access.check_address("198.51.100.7").is_allowed)  # noqa: B023
            assert "is refused for 10 min" in node.access.check_address("198.51.100.7").rule
        await one.access.pardon("198.51.100.7")
        assert one.access.check_address("198.51.100.7").is_allowed
        await until(lambda: other.access.check_address("198.51.100.7").is_allowed)


async def test_scores_survive(url):
    limits = qg.LimitsConfig(exempt=())
    identity = qg.Identity.generate()
    config = qg.Config(access=qg.AccessConfig(store=url), limits=limits)
    async with qg.Node(identity, listen=LISTEN, config=config) as node:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", node.address.port)
            writer.write(b"x" * 100)
            await writer.drain()
            writer.close()
        await until(lambda: node.access.check_address("127.0.0.1").notes == ("score 95 of 100",))
    async with qg.Node(identity, listen=LISTEN, config=config) as node:
        assert node.access.check_address("127.0.0.1").notes == ("score 95 of 100",)
        assert node.access.check_address("127.0.0.2").notes == ("score 95 of 100",)  # its network
        await node.access.pardon("127.0.0.1")
    async with qg.Node(identity, listen=LISTEN, config=config) as node:
        assert node.access.check_address("127.0.0.2").notes == ("score 100 of 100",)


async def test_a_file_is_the_owners_alone(path):
    async with node_with(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@contextmanager
def locked(path):
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
    other.close()


@contextmanager
def full(path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))  # of any file that this process writes
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def read_only(path):
    uid = os.geteuid()
    if not uid:  # root may write anywhere
        os.seteuid(65534)
    try:
        if uid:
            path.chmod(0o400)
            path.parent.chmod(0o500)
        yield
    finally:
        if uid:
            path.parent.chmod(0o700)
        else:
            os.seteuid(0)


@pytest.mark.parametrize("failing", [locked, full])
async def test_a_store_that_cannot_be_written_changes_nothing(path, failing):
    async with node_with(path) as node:
        await node.access.change([ANNA])
        with failing(path), pytest.raises(StoreError) as told:
            await node.access.change([BLOCK])
        assert str(path) in str(told.value)
        assert node.access.rules == qg.Rules(peers=[ANNA])
        assert node.access.check_address("192.0.2.1").is_allowed
        await until(lambda: node.access.store_state == "ready")
        await node.access.change([BLOCK])
        assert not node.access.check_address("192.0.2.1").is_allowed


async def test_a_node_starts_closed_while_its_store_is_damaged_and_opens_when_it_is_not(path, caplog):
    path.write_bytes(b"this is no database, but as long as the head of one is: a hundred bytes or more" * 3)
    async with node_with(path) as node, qg.Node(qg.Identity.generate(), config=HASTY) as other:
        assert "it is damaged or no database" in node.status().access
        assert "access_closed" in caplog.text
        assert node.access.check_peer(other.id).rule.startswith("the store has not been read")
        assert not await is_let_in(node, other)
        with pytest.raises(StoreError, match="cannot be changed now"):
            await node.access.change([BLOCK])
        path.unlink()
        await until(lambda: node.access.store_state == "ready")
        assert await is_let_in(node, other)


@pytest.mark.parametrize("damage", ["damaged", "locked", "read-only", "absent"])
async def test_a_node_goes_by_its_snapshot_while_its_store_is_away(open_folder, damage, monkeypatch):
    monkeypatch.setattr("qg.access.sqlite._BUSY_S", 0.1)
    path, snapshot = open_folder / "access.db", open_folder / "snapshot.json"
    async with node_with(path, snapshot=str(snapshot)) as node:
        await node.access.change([ANNA, BLOCK])
    good = path.read_bytes()
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    if damage == "damaged":
        path.write_bytes(good[:100] + b"\xff" * (len(good) - 100))
    elif damage == "absent":
        path.unlink()
        path.mkdir()
    elif damage == "read-only" and not os.getuid():
        snapshot.chmod(0o644)  # root's
    holding = {"locked": locked, "read-only": read_only}.get(damage)
    with holding(path) if holding else contextmanager(lambda: iter([None]))():
        node = node_with(path, snapshot=str(snapshot))
        await node.start()
        assert node.access.store_state.startswith("away")
        assert node.access.rules == qg.Rules([BLOCK], [ANNA])
        assert not node.access.check_address("192.0.2.1").is_allowed
    if damage == "absent":
        path.rmdir()
    if holding is None:
        path.write_bytes(good)
    await until(lambda: node.access.store_state == "ready")
    await node.access.change(gone=[BLOCK.network])
    await node.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"networks": [["x", true, ""]], "peers": []}',
        '{"networks": [["10.0.0.0/8", true, "%s"]], "peers": []}' % ("x" * 257),
        f'{{"networks": [], "peers": [["{ANNA.peer_id}", "anna", true, null, null, -1]]}}',
    ],
)
async def test_a_damaged_snapshot_lets_nobody_in(path, tmp_path, text, caplog):
    path.mkdir()
    snapshot = tmp_path / "snapshot.json"
    snapshot.write_text(text)
    async with node_with(path, snapshot=str(snapshot)) as node:
        assert node.access.rules.is_closed
        assert "no_snapshot" in caplog.text


async def test_a_file_that_another_takes_the_place_of_is_read_anew(path, tmp_path):
    async with node_with(path) as node:
        await node.access.change([BLOCK])
        async with node_with(tmp_path / "new.db") as other:
            await other.access.change([ANNA])
        os.replace(tmp_path / "new.db", path)
        await until(lambda: node.access.rules == qg.Rules(peers=[ANNA]))
        await until(lambda: node.access.store_state == "ready")


def written(path, statement):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "row",
    [
        "networks VALUES ('10.0.0.1/8', 0, '')",
        f"networks VALUES ('10.0.0.0/8', 0, '{'x' * 300}')",
        f"peers VALUES ('{ANNA.peer_id}', char(27) || '[2J', 1, 1, 1, 1)",
        f"peers VALUES ('{ANNA.peer_id}', '', 1, 1, 1, -1)",
        f"peers VALUES ('{ANNA.peer_id}', '', 1, 1, 1, 'x')",
        "peers VALUES ('x', '', 1, 1, 1, 1)",
    ],
)
async def test_a_store_with_nonsense_lets_nobody_in(path, row):
    async with node_with(path):
        pass
    written(path, f"INSERT INTO qg_access_{row}")
    async with node_with(path) as node:
        assert "a rule that is none" in node.access.store_state
        assert node.access.rules.is_closed


@pytest.mark.parametrize("figures", ["-1, 0, 0, 0", "101, 0, 0, 0", "5, -1, 0, 0", "5, 0, 9e999, 0", "5, 0, 0, 'x'"])
async def test_scores_that_nobody_can_have_are_not_taken(path, figures):
    async with node_with(path) as node:
        written(path, f"INSERT INTO qg_access_scores VALUES ('192.0.2.1/32', {figures}, {time()})")
        await until(lambda: node.access.store_state.startswith("away"))
        assert node.access.check_address("192.0.2.1").notes == ("score 100 of 100",)
        written(path, "DELETE FROM qg_access_scores")
        await until(lambda: node.access.store_state == "ready")


async def test_a_store_of_a_later_version_is_refused(path):
    async with node_with(path):
        pass
    written(path, "UPDATE qg_access_version SET version = 2")
    async with node_with(path) as node:
        assert "was made by a later qg" in node.access.store_state


async def test_a_node_goes_on_while_its_database_is_away(postgres):
    async with node_with(postgres.url) as node, qg.Node(qg.Identity.generate(), config=HASTY) as other:
        await node.access.change([ANNA, BLOCK])
        await asyncio.to_thread(postgres.stop)
        await until(lambda: node.access.store_state.startswith("away"))
        assert not node.access.check_address("192.0.2.1").is_allowed
        assert await is_let_in(node, other)
        with pytest.raises(StoreError, match="cannot be changed now"):
            await node.access.change([ALLOW])
        async with node_with(postgres.url) as late:
            assert late.access.rules.is_closed
            await asyncio.to_thread(postgres.start)
            for each in (node, late):
                await until(lambda: each.access.store_state == "ready")  # noqa: B023
            assert late.access.rules == node.access.rules == qg.Rules([BLOCK], [ANNA])
            await late.access.change([ALLOW])
            await until(lambda: node.access.rules == late.access.rules)


async def test_whoever_writes_to_the_database_is_heard(postgres_url):
    import asyncpg

    async with node_with(postgres_url) as node:
        db = await asyncpg.connect(postgres_url)
        await db.execute("INSERT INTO qg_access_networks VALUES ('192.0.2.0/24', false, 'by hand')")
        await db.close()
        await until(lambda: not node.access.check_address("192.0.2.1").is_allowed)


async def test_nodes_that_start_together_make_one_set_of_tables(postgres_url):
    nodes = [node_with(postgres_url) for _ in range(4)]
    await asyncio.gather(*(node.start() for node in nodes))
    assert [node.access.store_state for node in nodes] == ["ready"] * 4
    await asyncio.gather(*(node.close() for node in nodes))


async def test_no_error_shows_a_password():
    async with node_with("postgresql://qg:geheim@127.0.0.1:1/qg") as node:
        assert node.access.store_state.startswith("away")
        assert "geheim" not in node.access.store_state


@pytest.mark.parametrize("text", ["mysql:x", "sqlite:", "postgresql:", "x"])
def test_a_store_is_a_file_or_a_database(text):
    with pytest.raises(qg.ConfigError, match=r"access\.store"):
        qg.Config.from_dict({"access": {"store": text}})


# What stores and files of others may hold


@pytest.mark.parametrize(
    "row",
    [
        ("qg_access_peers", (str(ANNA.peer_id), "x", 1, 0, 0, 1.5)),
        ("qg_access_peers", (str(ANNA.peer_id), "x", 1, 0, 0, "fast")),
        ("qg_access_networks", ("10.0.0.0/8", 1, "two\nlines")),
    ],
)
async def test_a_store_with_a_rule_that_is_none_is_away(path, row):
    table, values = row
    async with node_with(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    async with node_with(path) as node:
        assert "rule that is none" in node.access.store_state
        assert node.access.rules.is_closed
        assert not node.access.check_address("192.0.2.1").is_allowed
        assert "nobody may connect" in node.access.check_address("192.0.2.1").rule


@pytest.mark.parametrize(("lost", "n_refusals"), [(1.5, 1), (1, 1 << 40), ("many", 1), (True, -1)])
async def test_a_score_that_is_none_does_not_end_the_hearing_of_others(path, lost, n_refusals):
    async with node_with(path) as node:
        with sqlite3.connect(path) as db:
            row = ("192.0.2.1/32", lost, n_refusals, time(), time() + 9, time())
            db.execute("INSERT INTO qg_access_scores VALUES (?, ?, ?, ?, ?, ?)", row)
        await until(lambda: "score that is none" in node.access.store_state)
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM qg_access_scores")
        await until(lambda: node.access.store_state == "ready")


async def test_a_pardon_is_not_undone_by_what_waited_for_the_store(path, monkeypatch):
    async with node_with(path) as node:
        access = node.access
        await access.change([BLOCK])
        access._unsent[REFUSED.network] = REFUSED._replace(scored_s=time(), refused_s=time() + 600)
        await access.pardon("198.51.100.7")
        await access._standings_write(access._store)
        assert [row.refused_s for row in await access._store.standings_read(0) if row.network == REFUSED.network] == [0]


async def test_a_snapshot_that_others_may_have_written_is_not_taken(path, tmp_path, caplog):
    path.mkdir()
    for name, make in {
        "open": lambda file: (file.write_text('{"networks": [], "peers": []}'), file.chmod(0o666)),
        "fifo": os.mkfifo,
        "bytes": lambda file: file.write_bytes(b'{"networks": [["10.0.0.0/8", true, "\xff"]], "peers": []}'),
    }.items():
        make(tmp_path / name)
        async with node_with(path, snapshot=str(tmp_path / name)) as node:
            assert node.access.rules.is_closed
    assert caplog.text.count("no_snapshot") == 3


async def test_a_store_of_sqlite_is_closed_twice_and_makes_no_file_for_it(path):
    store = store_make(f"sqlite:{path}")
    await store.close()
    await store.close()
    assert not path.exists()
