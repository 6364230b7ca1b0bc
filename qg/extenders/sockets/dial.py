# SPDX-License-Identifier: MIT
"""Connections to targets, at the first of several addresses that answers."""

import asyncio
import errno
import os
import socket
from collections.abc import Sequence

from aiohappyeyeballs import AddrInfoType, start_connection

from qg.extenders.sockets.outcome import Outcome, Refusal

__all__ = ["dial_first"]

_NEXT_ADDRESS_S = 0.25  # RFC 8305, section 8
_UNREACHABLE = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ENETUNREACH: Outcome.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Outcome.HOST_UNREACHABLE,
    errno.ETIMEDOUT: Outcome.TIMED_OUT,
    errno.EACCES: Outcome.NOT_ALLOWED,
    errno.EPERM: Outcome.NOT_ALLOWED,
}


async def dial_first(hosts: Sequence[str], port: int) -> socket.socket:
    """Connect to the first of the addresses that answers; a silent one does not hold up the next (RFC 8305).

    Raises `Refusal` when none does.
    """
    try:
        if len(hosts) == 1:
            sock = await _dial(hosts[0], port)
        else:
            places = [_place(host, port) for host in hosts]
            sock = await start_connection(places, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1)
    except OSError as error:
        outcome = _UNREACHABLE.get(error.errno or 0, Outcome.FAILED)
        raise Refusal(outcome, f"{len(hosts)} addresses, none answers: {error}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _dial(host: str, port: int) -> socket.socket:
    """Connect to one address. What is on this machine has answered when the first call returns: no need to wait."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        error = sock.connect_ex((host, port))
        if error == errno.EINPROGRESS:
            error = sock.connect_ex((host, port))  # how it stands
        if error in (errno.EINPROGRESS, errno.EALREADY):
            error = await _answer_wait(sock)
        if error not in (0, errno.EISCONN):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


async def _answer_wait(sock: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock.fileno(), _woken, waiter)
    try:
        await waiter
    finally:
        loop.remove_writer(sock.fileno())
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _woken(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _place(host: str, port: int) -> AddrInfoType:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
