# SPDX-License-Identifier: MIT
"""What two nodes say to each other looks like random bytes of random length to whoever watches (protocol.md, P7).

All bounds hold for random bytes but with a probability of less than 10^-6 for the whole file.
"""

import asyncio
import math
from collections import Counter

import pytest
from api.services import Echo, Held
from looks.measure import chi_square, deviations, kolmogorov_smirnov
from model import frames
from net.live import CLOSED_NETWORK, OPEN_NETWORK, Model, host
from net.proxy import DOWN, UP, Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.net]

N_FLIGHTS = 200
PAD_MAX = 1023
FIRST_MIN, SECOND_MIN = 1368, 1392  # lengths of flights 1 and 2 without padding (3.4)
N_RECORD_BYTES = 10_000_000
ERROR = 1e-9  # of one family of comparisons

networks = pytest.mark.parametrize("secret", [OPEN_NETWORK, CLOSED_NETWORK], ids=["open", "closed"])


def nibbles_at(pieces, offset):
    """Count the values of each half of the byte at an offset of all pieces."""
    values = [piece[offset] for piece in pieces]
    return Counter(value >> 4 for value in values), Counter(value & 15 for value in values)


@pytest.fixture(scope="module")
def captures():
    return {}


async def flights_capture(captures, secret):
    """Give first and second flights of dials through a proxy; each is all that came in its direction until then."""
    if secret not in captures:
        flights = {UP: [], DOWN: []}
        async with host(secret=secret) as dialler, host(secret=secret) as answerer:
            for _ in range(N_FLIGHTS):
                async with Proxy(answerer.node.address) as proxy:
                    far = await dialler.node.connect(proxy.address)
                    for direction, into in flights.items():
                        into.append(proxy.chunks[direction][0])
                    await far.close()
        captures[secret] = flights
    return captures[secret]


@networks
async def test_every_byte_of_a_flight_takes_all_values(captures, secret):
    for pieces in (await flights_capture(captures, secret)).values():
        n_common = min(map(len, pieces))
        limit = deviations(ERROR / (4 * n_common))
        for offset in range(n_common):
            for counts in nibbles_at(pieces, offset):
                assert chi_square(counts, 16) < limit, offset


@networks
async def test_lengths_of_flights_are_uniform(captures, secret):
    """The bound on the distance is that of Dvoretzky, Kiefer, Wolfowitz and Massart."""
    flights = await flights_capture(captures, secret)
    for direction, least in ((UP, FIRST_MIN), (DOWN, SECOND_MIN)):
        lengths = [len(piece) for piece in flights[direction]]
        assert least <= min(lengths)
        assert max(lengths) <= least + PAD_MAX
        distance = kolmogorov_smirnov(lengths, least, least + PAD_MAX)
        assert distance < math.sqrt(math.log(2 / ERROR) / (2 * N_FLIGHTS))
        assert chi_square(Counter(length % 16 for length in lengths), 16) < deviations(ERROR)


@networks
async def test_nothing_repeats_in_flights(captures, secret):
    """Random bytes give 0.006 repeats of four bytes at the same offset, 10^-8 of eight bytes anywhere."""
    for pieces in (await flights_capture(captures, secret)).values():
        n_repeats = 0
        for offset in range(min(map(len, pieces)) - 3):
            n_repeats += N_FLIGHTS - len({piece[offset : offset + 4] for piece in pieces})
        assert n_repeats <= 2
        grams = [piece[at : at + 8] for piece in pieces for at in range(len(piece) - 7)]
        assert len(set(grams)) == len(grams)


@networks
async def test_all_bytes_of_records_take_all_values(secret):
    """Of ten million zero bytes, sent and echoed: single bytes, and pairs of neighbours."""
    async with host(secret=secret) as dialler, host(secret=secret) as answerer, Proxy(answerer.node.address) as proxy:
        far = await dialler.node.connect(proxy.address)
        stream = await far.open_stream(Held.id)
        reader = asyncio.create_task((await answerer.held.streams.get()).read())
        await stream.write(bytes(N_RECORD_BYTES))
        stream.finish()
        assert len(await reader) == N_RECORD_BYTES
        records = b"".join(proxy.chunks[UP])
    pairs = Counter(memoryview(records[: len(records) & ~1]).cast("H"))
    singles = Counter()
    for pair, n in pairs.items():
        singles[pair & 255] += n
        singles[pair >> 8] += n
    assert sum(singles.values()) >= N_RECORD_BYTES
    assert chi_square(singles, 256) < deviations(ERROR)
    assert chi_square(pairs, 65536) < deviations(ERROR)


async def test_masked_lengths_of_records_take_all_values():
    """The model knows where records begin; those of an echo of one byte all have the same length."""
    n_records = 1500
    async with host() as answerer, Proxy(answerer.node.address) as proxy, Model() as model:
        link = model.dial(proxy.address)
        await model.connected(link.peer)
        stream = link.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        for _ in range(n_records):
            link.peer.stream_write(stream, b"x")
            await model.until(lambda: link.peer.stream_read(stream))
        overhead = 2 + link.peer.keys.recv.tag_len
        lengths = [record.length + overhead for record in link.peer.records]
        received = b"".join(proxy.chunks[DOWN])
    heads, at = [], len(received) - sum(lengths)  # behind flight 2
    for length in lengths:
        heads.append(received[at : at + 2])
        at += length
    assert len(set(lengths[1:])) == 1
    for offset in (0, 1):
        for counts in nibbles_at(heads, offset):
            assert chi_square(counts, 16) < deviations(ERROR)
