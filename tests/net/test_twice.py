# SPDX-License-Identifier: MIT
"""One identity in two running nodes: said in both logs."""

import pytest
from net.support import LISTEN, config, until

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def test_two_nodes_of_one_identity_that_meet_say_so_in_both_logs(caplog):
    identity = qg.Identity.generate()
    async with conserved() as nodes:
        first = qg.Node(identity, listen=LISTEN, config=config(allow_first_contact=True))
        async with first, qg.Node(identity) as second:
            nodes += [first, second]
            peer = await second.connect(first.address._replace(link_key=None))
            await peer.ping()
            assert peer.id == first.id == second.id
            warned = [record for record in caplog.records if "identity_twice" in record.getMessage()]
            assert [record.levelname for record in warned] == ["WARNING", "WARNING"]
            assert all(str(first.id) in record.getMessage() for record in warned)
            with pytest.raises(qg.UsageError, match=r"this node itself, or .* the same identity"):
                await second.connect(first.address)


async def test_a_node_that_meets_two_of_one_identity_says_so_once_and_the_older_one_hears_it(caplog):
    def warned(words):
        return [record for record in caplog.records if words in record.getMessage()]

    identity = qg.Identity.generate()
    async with conserved() as nodes:
        third = qg.Node(qg.Identity.generate(), listen=LISTEN)
        async with third, qg.Node(identity) as first, qg.Node(identity) as second:
            nodes += [first, second, third]
            older = await first.connect(third.address)
            await until(lambda: third.peers, lambda: third.peers)
            (seen,) = third.peers
            newer = await second.connect(third.address)
            await until(lambda: not older.is_connected, lambda: older)
            assert newer.is_connected
            await until(lambda: len(seen.links) == 1, lambda: seen.links)
            assert third.peers == (seen,)
            assert await seen.ping() > 0
            assert len(warned("two nodes run with this identity")) == 1
            assert len(warned("another node with this identity has a newer session there")) == 1
            again = await first.connect(third.address)
            await until(lambda: not newer.is_connected, lambda: newer)
            assert again.is_connected
            assert len(warned("two nodes run with this identity")) == 1
            assert all(str(first.id) in record.getMessage() for record in warned("identity_twice"))
