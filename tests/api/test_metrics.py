# SPDX-License-Identifier: MIT
"""The server of figures answers one question and nothing else, and nobody can keep it busy."""

import asyncio

import pytest

from qg.errors import ListenError
from qg.metrics import MetricsServer, metrics_text
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def asked(server: MetricsServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics HTTP/1.1", b"200"),
        (b"GET /metrics?name=x HTTP/1.0", b"200"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/../secret HTTP/1.1", b"404"),
        (b"GET /metrics HTTP/2", b"400"),
        (b"\x16\x03\x01", b"400"),
        (b"", b"400"),
    ],
)
async def test_only_the_figures_are_there(request_line, status):
    async with MetricsServer("127.0.0.1", 0, lambda: "x 1\n") as server:
        answer = await asked(server, request_line + b"\r\nHost: me\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert f"Content-Length: {len(body)}".encode() in head
    assert (body == b"x 1\n") == (status == b"200")


async def test_a_request_that_is_too_long_is_cut_off():
    async with MetricsServer("127.0.0.1", 0, lambda: "x 1\n") as server:
        answer = await asked(server, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert answer.split()[1:2] in ([b"431"], [])  # or a reset, which takes the answer with it
        assert (await asked(server, b"GET /metrics HTTP/1.1\r\n\r\n")).split()[1] == b"200"


async def test_no_more_than_a_few_can_be_connected_and_silence_is_not_waited_for_for_long(monkeypatch):
    monkeypatch.setattr("qg.metrics._REQUEST_S", 0.05)
    async with MetricsServer("127.0.0.1", 0, lambda: "x 1\n") as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        for reader, _ in silent:
            assert await reader.read() == b""
        assert (await asked(server, b"GET /metrics HTTP/1.1\r\n\r\n")).split()[1] == b"200"
        for _, writer in silent:
            writer.close()


async def test_a_server_that_ends_leaves_nobody_waiting():
    async with MetricsServer("127.0.0.1", 0, lambda: "x 1\n") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /met")
        await asyncio.sleep(0)
    assert await reader.read() == b""
    writer.close()


async def test_a_port_in_use_is_said():
    async with MetricsServer("127.0.0.1", 0, str) as server:
        with pytest.raises(ListenError, match="metrics"):
            await MetricsServer("127.0.0.1", server.port, str).__aenter__()


async def test_figures_are_taken_without_the_lists_of_peers_and_links():
    """Writing those down for each scrape would hold up the loop of a node with very many."""
    async with network(3) as made:
        one = made.nodes[0]
        totals, whole = one.totals(), one.status()
        assert (totals.peers, totals.links) == ((), ())
        assert (whole.n_peers, whole.n_links) == (len(whole.peers), len(whole.links)) == (2, 2)
        assert {"qg_peers 2", "qg_links 2"} <= set(metrics_text(totals).splitlines())
