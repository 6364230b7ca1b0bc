# SPDX-License-Identifier: MIT
"""A hostile process: told by a line of JSON what to do to which node, it gets ready, waits for a line, and does it.

Flights are computed before it begins, so that they come as fast as they are wanted. The last line that it prints is its
tally. What it speaks is the protocol model of the tests, over sockets of loopback alone.
"""

import json
import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from api.services import Echo, Mailbox  # noqa: E402
from model import frames  # noqa: E402
from model.cert import Identity  # noqa: E402
from model.envelope import KIND_XK1  # noqa: E402
from model.frames import HelloValues, RelayTarget  # noqa: E402
from model.handshake import CARRIER_TCP, Initiator, Party  # noqa: E402
from model.peer import layer_dial, peer_dial  # noqa: E402
from model.reader import Address, varint_build  # noqa: E402
from model.tcp import TcpLink, dial  # noqa: E402

import qg  # noqa: E402

FLIGHTS_MAX = 2000  # computed before; then they are used again
NEVER_S = 1 << 40
KEYS = bytes([7]) * 32, bytes([8]) * 32  # of the attacker, so that the node can be told to relay for it
HELD_MAX = 12_000  # connections at a time
TICK_S = 0.005
BUSY_S = 5.0  # for the scripts of all sessions beside the time in which they begin
OVER = object()  # a script has come to its end
MIB = 1 << 20


class Tally(NamedTuple):
    """What was done: connections, bytes, in how many seconds, and what it took of the processor."""

    n_units: int
    n_bytes: int
    seconds: float
    cpu_s: float = 0.0


Script = Iterator[None]


def stranger() -> Identity:
    return Identity(random.randbytes(32), random.randbytes(32), NEVER_S)


def relayed() -> Identity:
    """The one that the node relays for."""
    return Identity(*KEYS, NEVER_S)


def flight(address: qg.Address, skew_s: int = 0) -> bytes:
    party = Party(stranger(), clock_s=lambda: int(time.time()) + skew_s)
    return Initiator(party, CARRIER_TCP, KIND_XK1, bytes(address.link_key)).flight1()


# Units of strangers: what each connection says


def garbage(address: qg.Address, n: int) -> list[bytes]:
    return [random.randbytes(random.randint(80, 4000)) for _ in range(min(n, FLIGHTS_MAX))]


def slow(address: qg.Address, n: int) -> list[bytes]:
    return [random.randbytes(random.randint(0, 79)) for _ in range(min(n, FLIGHTS_MAX))]


def half_open(address: qg.Address, n: int) -> list[bytes]:
    return [flight(address) for _ in range(min(n, FLIGHTS_MAX))]


def replay(address: qg.Address, n: int) -> list[bytes]:
    return [flight(address)]


def clock_skew(address: qg.Address, n: int) -> list[bytes]:
    return [flight(address, -600) for _ in range(min(n, FLIGHTS_MAX))]


def storm(address: qg.Address, units: list[bytes], n: int, rate: float, network: int, crowd: int) -> Tally:
    """Connect from one part of loopback, `crowd` times from each network; say a unit each, and stay."""
    held: deque[socket.socket] = deque()
    began, n_bytes = time.monotonic(), 0
    for idx in range(n):
        while (early_s := began + idx / rate - time.monotonic()) > 0:
            time.sleep(min(early_s, TICK_S))
        sock = socket.socket()
        with suppress(OSError):
            sock.settimeout(1)
            sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((f"127.{network}.{idx // crowd % 256}.{idx % 4 + 1}", 0))
            sock.connect((address.host, address.port))
            sock.setblocking(False)
            n_bytes += sock.send(units[idx % len(units)])
        held.append(sock)
        if len(held) > HELD_MAX:
            held.popleft().close()
    seconds = time.monotonic() - began
    time.sleep(min(1.0, seconds))
    for sock in held:
        sock.close()
    return Tally(n, n_bytes, seconds)


# Scripts of peers: what each session does, yielding until more has come


def connected(link: TcpLink) -> Script:
    while not link.peer.is_connected:
        yield


def overrun(link: TcpLink, address: qg.Address) -> Script:
    """Send at once more on each stream than it may before it is accepted."""
    yield from written(link, 10)


def window_kept(link: TcpLink, address: qg.Address) -> Script:
    yield from written(link, 2)


def written(link: TcpLink, n_frames: int) -> Script:
    yield from connected(link)
    for _ in range(10):
        stream = link.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        for _ in range(n_frames):
            link.peer.frame_send(frames.Data(stream.id, bytes(8000)))
        yield


def rapid_reset(link: TcpLink, address: qg.Address) -> Script:
    yield from connected(link)
    for _ in range(150):
        for _ in range(64):
            link.peer.stream_reset(link.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id)), 0)
        yield


def open_flood(link: TcpLink, address: qg.Address) -> Script:
    yield from connected(link)
    for _ in range(400):
        link.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
    yield


def stalled(link: TcpLink, address: qg.Address) -> Script:
    """Have much echoed, and give no credit for it."""
    yield from connected(link)
    stream = link.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
    link.peer.stream_write(stream, bytes(3 * MIB))
    yield


def fragments(link: TcpLink, address: qg.Address) -> Script:
    """Begin a record, and send ever one byte more of it, and never the last."""
    yield from connected(link)
    link.peer.ping(bytes(8))
    record = link.peer.output_bytes()
    for byte in record[:-1]:
        link.sock.send(bytes([byte]))
        yield


def oversized(link: TcpLink, address: qg.Address) -> Script:
    yield from connected(link)
    for _ in range(8):
        stream = link.peer.stream_open(frames.KIND_MESSAGES, bytes(Mailbox.id))
        link.peer.stream_write(stream, varint_build(2 * MIB) + bytes(1000))
        yield


def relay_loop(link: TcpLink, address: qg.Address) -> Script:
    """Have the node relay to itself, over layers in it."""
    yield from connected(link)
    pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
    layer = layer_dial(link.peer.party, link.peer, pipe, bytes(address.link_key))
    while not layer.is_connected:
        yield
    where = Address(4, socket.inet_aton(address.host), address.port)
    body = RelayTarget(bytes(address.link_key), bytes(32), (where,)).build()
    for _ in range(15):
        for _ in range(20):
            layer.stream_open(frames.KIND_RELAY, body)
        yield


def link_write(link: TcpLink) -> int:
    """Send what the socket takes; how much that is."""
    link.has_unsent()
    before = len(link._unsent)
    link.write()
    return before - len(link._unsent)


def sessions(
    address: qg.Address, script: Callable[[TcpLink, qg.Address], Script], n: int, rate: float, patience_s: float
) -> Tally:
    """Begin sessions at a rate, each with a script; those that are to meet a limit of time are left more of it."""
    patience_s = patience_s if script in PATIENT else 0.3
    live: list[tuple[TcpLink, Script]] = []
    began, n_done, n_bytes = time.monotonic(), 0, 0
    any_busy, latest = True, began + n / rate + BUSY_S
    while n_done < n or time.monotonic() < began + n / rate + patience_s or any_busy:
        if n_done < n and time.monotonic() >= began + n_done / rate:
            n_done += 1
            with suppress(OSError):
                party = Party(relayed() if script is relay_loop else stranger())
                peer = peer_dial(party, bytes(address.link_key), hello=HelloValues(max_pipes=8))
                link = dial(address.host, address.port, peer)
                live.append((link, script(link, address)))
        any_busy = False
        ready, _, _ = select.select([link for link, _ in live if not link.is_at_eof], [], [], TICK_S)
        for link in ready:
            link.read()
        for link, steps in live:
            if not link.is_at_eof:
                any_busy |= next(steps, OVER) is not OVER and time.monotonic() < latest
                n_bytes += link_write(link)
        if all(link.is_at_eof for link, _ in live) and n_done == n:
            break
    for link, _ in live:
        link.sock.close()
    return Tally(n, n_bytes, time.monotonic() - began)


# The same volume for a server that discards it


def volume(address: tuple[str, int], tally: Tally) -> Tally:
    """Make as many connections as an attack made, with as many bytes, in the same time and with as much work.

    Honest peers share the core: what its own cryptography costs the attacker must not count against the node.
    """
    began_cpu_s = time.process_time()
    payload = bytes(max(1, tally.n_bytes // max(1, tally.n_units)))
    held: deque[socket.socket] = deque(maxlen=HELD_MAX)
    began = time.monotonic()
    for idx in range(tally.n_units):
        while (early_s := began + idx / tally.n_units * tally.seconds - time.monotonic()) > 0:
            time.sleep(min(early_s, TICK_S))
        if len(held) == HELD_MAX:
            held.popleft().close()
        held.append(socket.create_connection(address))
        held[-1].sendall(payload)
        while time.process_time() - began_cpu_s < (idx + 1) / tally.n_units * tally.cpu_s:
            pass
    for sock in held:
        sock.close()
    return Tally(tally.n_units, tally.n_bytes, time.monotonic() - began)


PATIENT = (stalled, fragments)
STRANGERS = {
    "garbage": garbage, "slow_openers": slow, "half_open": half_open, "replay": replay, "clock_skew": clock_skew,
}  # fmt: skip
PEERS = {
    "window_overrun": overrun, "rapid_reset": rapid_reset, "open_flood": open_flood, "stalled_readers": stalled,
    "fragments": fragments, "oversized": oversized, "relay_loops": relay_loop, "window_kept": window_kept,
}  # fmt: skip


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    name, n, rate = order["attack"], order["n"], order["rate"]
    address = None if name == "volume" else qg.Address.parse(order["to"])
    units = STRANGERS[name](address, n) if name in STRANGERS and address is not None else []
    print("ready", flush=True)
    sys.stdin.readline()
    began_cpu_s = time.process_time()
    if address is None:
        host, _, port = order["to"].rpartition(":")
        tally = volume((host, int(port)), Tally(*order["tally"]))
    elif units:
        tally = storm(address, units, n, rate, order["network"], order["crowd"])
    else:
        tally = sessions(address, PEERS[name], n, rate, order["patience_s"])
    print(json.dumps(tally._replace(cpu_s=time.process_time() - began_cpu_s)), flush=True)


if __name__ == "__main__":
    main()
