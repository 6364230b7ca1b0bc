# SPDX-License-Identifier: MIT
"""One identity in two running nodes: said in both logs."""

import pytest
from net.support import LISTEN, config

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
