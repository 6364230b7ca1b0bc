# SPDX-License-Identifier: MIT
"""What a relay has passed on is counted by month, whatever restarts and the clock do."""

import logging
from datetime import UTC, datetime

import pytest
from api.services import Echo
from net.support import core, trial, until

import qg
from qg.account import Account

MIB = 1 << 20


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOVEMBER, DECEMBER = at("2026-11-30T23:59:59"), at("2026-12-01T00:00:00")


def test_bytes_count_twice_for_they_come_in_and_go_out():
    account = Account(None, 0)
    for n_relayed in (100, 100, 250):
        account.look(n_relayed, NOVEMBER)
    assert account.used == 500
    assert not account.is_spent


def test_a_restart_goes_on_counting(tmp_path):
    path = str(tmp_path / "relayed")
    for used in (2000, 4000):
        account = Account(path, 4000)
        account.look(1000, NOVEMBER)
        account.save()
        assert account.used == used
    assert account.is_spent
    assert (tmp_path / "relayed").read_text() == "2026-11 4000\n"
    assert (tmp_path / "relayed").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["relayed"]


def test_a_new_month_begins_with_nothing():
    account = Account(None, 1000)
    account.look(500, NOVEMBER)
    assert account.is_spent
    account.look(500, DECEMBER)
    assert not account.is_spent
    assert account.used == 0


@pytest.mark.parametrize(
    "times",
    [
        (NOVEMBER, DECEMBER, NOVEMBER),  # back into a month that was counted
        (NOVEMBER, at("1970-01-01T00:00:00")),  # no clock at the start of the machine
        (at("2099-01-01T00:00:00"), NOVEMBER),  # it was ahead, and was set
    ],
)
def test_a_clock_that_is_set_back_gives_no_new_month(times):
    account = Account(None, 0)
    for n, time_s in enumerate(times):
        account.look(100 * (n + 1), time_s)
    assert account.used == 400


def test_old_months_are_forgotten(tmp_path):
    path = tmp_path / "relayed"
    account = Account(str(path), 0)
    for n in range(40):
        account.look(n + 1, at(f"{2026 + n // 12}-{n % 12 + 1:02}-15T00:00:00"))
    account.save()
    assert len(path.read_text().splitlines()) == 13
    assert path.read_text().endswith("2029-04 2\n")


@pytest.mark.parametrize("text", ["", "2026-11\n", "2026-13 5\n", "2026-11 x\n", "\x00\n"])
def test_a_damaged_file_is_said(tmp_path, text):
    path = tmp_path / "relayed"
    path.write_text(text)
    if text == "":
        assert Account(str(path), 0).used == 0
        return
    with pytest.raises(qg.LocalError, match="damaged"):
        Account(str(path), 0)


def test_the_log_tells_of_95_percent_and_of_the_end_once_each(caplog):
    caplog.set_level(logging.WARNING)
    account = Account(None, 2000)
    for n_relayed in (900, 950, 960, 1000, 1100):
        account.look(n_relayed, NOVEMBER)
    assert [record.message.split()[0] for record in caplog.records] == ["relay_month_low", "relay_month_spent"]


def test_what_cannot_be_written_is_tried_again(tmp_path, caplog):
    path = tmp_path / "none" / "relayed"
    account = Account(str(path), 0)
    account.look(5, NOVEMBER)
    account.save()
    assert "relay_month_unsaved" in caplog.text
    path.parent.mkdir()
    account.save()
    assert path.read_text() == "2026-11 10\n"


@pytest.mark.anyio
@pytest.mark.net
async def test_a_relay_whose_month_is_used_up_takes_no_new_circuits_and_keeps_the_old_ones(tmp_path):
    path = tmp_path / "relayed"
    path.write_text(f"{datetime.now(UTC):%Y-%m} {(1 << 30) - 3 * MIB}\n")
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address], relay={"monthly_gib": 1}, relay_account=str(path))
        far = await a.connect(c.address, via=[b.address])
        assert next(peer for peer in a.peers if not peer.is_relayed).relay_terms is not None
        async with await far.open_stream(Echo.id) as stream:
            await stream.write(bytes(MIB))
            await stream.readexactly(MIB)
            status = b.status()
            assert status.relayed_month_bytes >= status.relayed_month_limit == 1 << 30
            with pytest.raises(qg.Busy, match=r"refused by relay 1 of 1 .*a limit"):
                await a.connect(c.address, via=[b.address])
            await stream.write(b"still")
            assert await stream.readexactly(5) == b"still"
        async with qg.Node(qg.Identity.generate()) as late:
            assert (await late.connect(b.address)).relay_terms is None
        await far.close()
        await until(lambda: core(b)["n_circuits"] == 0, lambda: core(b))
