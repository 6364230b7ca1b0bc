# SPDX-License-Identifier: MIT
"""What a service manager is told: sd_notify(3) over the datagram socket that it names in the environment."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic_ns
from typing import final

from qg.errors import LocalError, UsageError

__all__ = ["Notifier"]

_log = logging.getLogger("qg.daemon")


@final
class Notifier:
    """Tell the service manager how the service is; one made without an address tells nobody.

    `watchdog_s` is how often the manager wants to hear `alive`, None for never; half of what it set.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if address is None:
            return
        if not address.startswith(("/", "@")):
            raise UsageError(f"NOTIFY_SOCKET={address!r}: must be a path, or @ and the name of an abstract socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            self._socket.close()
            raise LocalError(f"NOTIFY_SOCKET={address}: nobody listens there ({error.strerror})") from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Notifier":
        """Take the manager's socket and watchdog from the variables that it sets; raises `UsageError` without them."""
        address = environment.get("NOTIFY_SOCKET")
        if not address:
            raise UsageError("--notify is for service managers: NOTIFY_SOCKET is not set; see Type=notify in systemd")
        limit_us = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, int(limit_us) / 2e6 if limit_us.isdigit() and int(limit_us) and is_ours else None)

    def ready(self, text: str) -> None:
        """Say that the service is up, also after `reloading`; `text` is what people see."""
        self._send("READY=1", f"STATUS={text}")

    def reloading(self) -> None:
        """Say that the configuration is being read anew; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self, text: str) -> None:
        """Say that the service is about to end, and what it waits for."""
        self._send("STOPPING=1", f"STATUS={text}")

    def waiting(self, text: str) -> None:
        """Say what the service waits for before it can be up."""
        self._send(f"STATUS={text}")

    def extend(self, wait_s: float) -> None:
        """Ask the manager to be patient for that long while the service starts or ends."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(wait_s * 1e6)}")

    def alive(self) -> None:
        """Say that the service still does its work."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a manager that is gone or slow is no reason to end
                self._socket.send("\n".join(lines).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    async def watch(self, is_alive: Callable[[], bool]) -> None:
        """Say `alive` as often as the manager wants, unless it is not true, until cancelled."""
        while self.watchdog_s is not None:
            if is_alive():
                self.alive()
            else:
                _log.error("stuck: a native thread takes no turns; the service manager is not told that all is well")
            await asyncio.sleep(self.watchdog_s)

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
