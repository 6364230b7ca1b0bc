# SPDX-License-Identifier: MIT
"""A node in a process of its own, that a test can kill, stop and starve.

`Child` is the test's side. The file itself is the program: it takes one command per line on stdin and answers each with
one line of JSON on stdout.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys

from api.services import Echo
from net.support import LISTEN, Drain, Services, core, write_forever

import qg


class Child:
    """Control a node in another process. Used in `async with`: what still runs at the end is killed."""

    def __init__(self, preload=None, **tables):
        self._tables = tables
        self._preload = preload
        self.address = None
        self.id = None

    async def __aenter__(self):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if self._preload is not None:
            # Behind what this process has itself: the sanitizers' library must be the first.
            environment["LD_PRELOAD"] = f"{environment.get('LD_PRELOAD', '')} {os.fspath(self._preload)}".strip()
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._program(), stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        self._errors = asyncio.create_task(self._process.stderr.read())
        try:
            await self._started()
        except BaseException:
            await self.__aexit__()
            raise
        hello = await self._line()
        self.address = qg.Address.parse(hello["address"])
        self.id = qg.PeerId(hello["id"])
        return self

    def _program(self):
        return [sys.executable, __file__, json.dumps(self._tables)]

    async def _started(self):
        """Do what the process waits for; nothing."""

    async def __aexit__(self, *exc):
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._errors.cancel()
        self._process._transport.close()
        await asyncio.wait([self._errors])

    async def _line(self):
        line = await self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the child has ended: {(await self._errors).decode()}")
        return json.loads(line)

    async def ask(self, command, **arguments):
        """Let the child do something and give its answer."""
        self._process.stdin.write(json.dumps(arguments | {"do": command}).encode() + b"\n")
        return await self._line()

    @property
    def pid(self):
        return self._process.pid

    def kill(self):
        self._process.kill()

    async def stop(self):
        """Halt the process, and wait until it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def go(self):
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)

    async def end(self):
        """Let the child close its node and give its exit code and what it wrote to stderr."""
        await self.ask("quit")
        self._process.stdin.close()
        return await self._process.wait(), (await self._errors).decode()


def do_status(node):
    return {"counters": dict(node.status().counters), "core": core(node)}


def do_drained(node):
    return {"n_bytes": node.services.drain.n_bytes}


async def do_flood(node, to, via):
    """Write to a `Drain` for ever."""
    peer = await node.connect(to, via=via)
    stream = await peer.open_stream(Drain.id)
    node.flood = asyncio.create_task(write_forever(stream))
    return {}


async def do_flooded(node):
    """Wait for the end of that, and say what it was."""
    try:
        await node.flood
    except qg.QGError as error:
        return {"error": type(error).__name__, "reason": getattr(error, "reason", None), "text": str(error)}


async def do_connect(node, to):
    """Dial, and say how that failed."""
    try:
        await node.connect(to)
    except qg.QGError as error:
        return {"error": type(error).__name__}
    return {"error": None}


async def do_echo(node, to, via, n_bytes):
    """Let an `Echo` give so many bytes back; are they the same?"""
    data = os.urandom(n_bytes)
    peer = await node.connect(to, via=via)
    async with await peer.open_stream(Echo.id) as stream:
        writing = asyncio.create_task(stream.write(data))
        echoed = await stream.readexactly(n_bytes)
        await writing
    return {"is_same": echoed == data}


def do_starve(node, n_spare):
    """Leave room for only so many descriptors more."""
    used = max(int(name) for name in os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + n_spare, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return {}


async def run(tables):
    services = Services()
    listen = tables.pop("listen", LISTEN)
    node = qg.Node(qg.Identity.generate(), listen=listen, extenders=services, config=qg.Config.from_dict(tables))
    node.services = services
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with node:
        print(json.dumps({"address": str(node.address), "id": str(node.id)}), flush=True)
        while line := await reader.readline():
            arguments = json.loads(line)
            name = arguments.pop("do")
            answer = {} if name == "quit" else globals()["do_" + name](node, **arguments)
            if asyncio.iscoroutine(answer):
                answer = await answer
            print(json.dumps(answer), flush=True)
            if name == "quit":
                break


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(json.loads(sys.argv[1])))
