# SPDX-License-Identifier: MIT
"""A small internet: nodes in processes with networks of their own, joined by a router that delays and loses packets.

Each node lives in a network namespace without a name, so it vanishes with its process. Its one interface is a TUN
device whose other end the router here holds: real TCP over packets that come late, do not come, or no longer come at
all. (Netem would do the same, but many kernels are built without it.)
"""

import asyncio
import contextlib
import fcntl
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile

from net.child import Child

import qg

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_MAX = 65536
PORT = 7447
WAITING_MAX = 2000  # packets under way; more are lost, as in any router


def why_not():
    """Why this machine cannot make an internet; None if it can."""
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not here"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    done = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], stderr=subprocess.PIPE, text=True)
    return None if done.returncode == 0 else f"network namespaces are not allowed: {done.stderr.strip()}"


class Guest(Child):
    """A node in a network namespace of its own, at one address."""

    def __init__(self, router, ip, **tables):
        super().__init__(**tables, listen=[f"tcp://{ip}:{PORT}"])
        self._router, self.ip = router, ip

    def _program(self):
        # The shell says that the namespace, which is that of its process, is there; then it waits for the interface.
        return ["unshare", "--net", "sh", "-c", 'echo && read -r _ && exec "$@"', "sh", *super()._program()]

    async def _started(self):
        assert await self._process.stdout.readline(), (await self._errors).decode()
        await asyncio.to_thread(self._router.attach, self.ip, self._process.pid)
        self._process.stdin.write(b"\n")


class Router:
    """Forward packets by their destination, `delay_s` later, except the share `loss` and what goes over a cut link."""

    def __init__(self, delay_s, loss, seed=1):
        self.delay_s, self.loss = delay_s, loss
        self.n_lost = self.n_forwarded = 0
        self._random = random.Random(seed)
        self._devices = {}  # address -> descriptor of its TUN device
        self._cut = set()  # pairs of addresses
        self._n_waiting = 0
        self._loop = asyncio.get_running_loop()

    def attach(self, ip, pid):
        """Give the namespace of a process its interface."""
        name = f"qg{pid}"
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._devices[ip] = device
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        run("ip", "link", "set", name, "netns", str(pid))
        inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{ip}/32", "dev", name)
        run(*inside, "link", "set", name, "up")
        run(*inside, "route", "add", "default", "dev", name)
        self._loop.call_soon_threadsafe(self._loop.add_reader, device, self._read, device)

    def cut(self, one, other):
        """Let nothing pass between two addresses any more; nobody is told."""
        self._cut.add(frozenset((one, other)))

    def _read(self, device):
        try:
            while True:
                self._forward(os.read(device, PACKET_MAX))
        except BlockingIOError:
            pass
        except OSError:  # gone with its process
            self._loop.remove_reader(device)

    def _forward(self, packet):
        if packet[0] >> 4 != 4:
            return
        source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        device = self._devices.get(destination)
        is_cut = frozenset((source, destination)) in self._cut
        if device is None or is_cut or self._n_waiting == WAITING_MAX or self._random.random() < self.loss:
            self.n_lost += 1
            return
        self._n_waiting += 1
        self._loop.call_later(self.delay_s, self._deliver, device, packet)

    def _deliver(self, device, packet):
        self._n_waiting -= 1
        self.n_forwarded += 1
        with contextlib.suppress(OSError):  # its queue is full, or its process has ended
            os.write(device, packet)

    def close(self):
        for device in self._devices.values():
            self._loop.remove_reader(device)
            os.close(device)
        self._devices.clear()


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@contextlib.asynccontextmanager
async def internet(n_guests, *, delay_s, loss, **tables):
    """Run so many nodes, members of one closed network who relay for each other, each in a /16 of its own."""
    router = Router(delay_s, loss)
    relay = {"allow": "members", "targets": ["10.0.0.0/8"], "ports": [PORT]}
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(router.close)
        secret = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "net")
        qg.NetworkSecret.generate().create(secret)
        guests = [
            await stack.enter_async_context(
                Guest(router, f"10.{n + 1}.0.1", network_secret=secret, relay=relay, **tables)
            )
            for n in range(n_guests)
        ]
        yield router, guests
