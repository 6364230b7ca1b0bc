# SPDX-License-Identifier: MIT
"""Programs that end without closing their nodes, and programs that fork: no hang, no crash, not a word."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.net

# What every program begins with: two nodes, a link, and a stream on which nobody says anything.
PROLOGUE = """
import asyncio, gc, os, sys, threading
import qg
from net.support import LISTEN, Echo, Held, Services

async def linked():
    nodes = [qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=Services()) for _ in range(2)]
    for node in nodes:
        await node.start()
    peer = await nodes[0].connect(nodes[1].address)
    stream = await peer.open_stream(Held.id)
    return nodes, peer, stream
"""


def run(program):
    """Run a program to its end; its exit code and what it wrote."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # From 3.12 on Python warns of every fork of a process with threads; these programs fork on purpose.
    quiet = ["-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *quiet, "-c", PROLOGUE + textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


NEVER_CLOSED = {
    "collected while the loop runs": """
        async def main():
            await linked()
            gc.collect()
            await asyncio.sleep(0)
        asyncio.run(main())
        """,
    "tasks still wait": """
        async def main():
            nodes, peer, stream = await linked()
            tasks = [asyncio.create_task(work) for work in (stream.read(1), peer.open_stream(Echo.id), peer.ping())]
            await asyncio.sleep(0)
        asyncio.run(main())
        """,
    "a write is under way": """
        async def main():
            nodes, peer, stream = await linked()
            task = asyncio.create_task(stream.write(bytes(8 << 20)))
            await asyncio.sleep(0)
        asyncio.run(main())
        """,
    "a handshake is under way": """
        async def main():
            node = qg.Node(qg.Identity.generate(), listen=LISTEN)
            await node.start()
            import socket
            with socket.create_server(("127.0.0.1", 0)) as silent:
                address = qg.Address(qg.Identity.generate().link_key, *silent.getsockname())
                task = asyncio.create_task(node.connect(address))
                await asyncio.sleep(0)
        asyncio.run(main())
        """,
    "the loop is closed by hand": """
        async def idle():
            near, far = qg.Node(qg.Identity.generate(), listen=LISTEN), qg.Node(qg.Identity.generate())
            await near.start()
            await far.start()
            return near, far, await far.connect(near.address)
        loop = asyncio.new_event_loop()
        kept = loop.run_until_complete(idle())
        loop.close()
        del kept
        gc.collect()
        """,
    "exit inside of the loop": """
        async def main():
            kept = await linked()
            sys.exit(0)
        asyncio.run(main())
        """,
    "kept by a module": """
        async def main():
            sys.modules["kept"] = await linked()
        asyncio.run(main())
        """,
    "part of a cycle": """
        class Owner:
            pass
        async def main():
            owner = Owner()
            owner.itself, owner.linked = owner, await linked()
        asyncio.run(main())
        """,
    "a loop in a thread that goes on": """
        up = threading.Event()
        async def main():
            kept = await linked()
            up.set()
            await asyncio.Event().wait()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        up.wait()
        """,
    "never started": """
        kept = qg.Node(qg.Identity.generate(), listen=LISTEN)
        """,
    "the start failed": """
        async def main():
            async with qg.Node(qg.Identity.generate(), listen=LISTEN) as node:
                other = qg.Node(qg.Identity.generate(), listen=[f"tcp://127.0.0.1:{node.address.port}"])
                try:
                    await other.start()
                except qg.ListenError:
                    pass
        asyncio.run(main())
        """,
    "streams arrive while the loop ends": """
        async def slow():
            try:
                yield
            finally:
                try:
                    await kept[0].open_stream(Held.id)
                    await kept[0].open_stream(Held.id)
                except qg.QGError:
                    pass
        kept = []
        async def main():
            nodes, peer, stream = await linked()
            kept[:] = peer, slow()
            await anext(kept[1])
        asyncio.run(main())
        """,
    "tasks still wait under uvloop": """
        import uvloop
        async def main():
            nodes, peer, stream = await linked()
            tasks = [asyncio.create_task(work) for work in (stream.read(1), peer.open_stream(Echo.id), peer.ping())]
            await asyncio.sleep(0)
        uvloop.run(main())
        """,
}


@pytest.mark.parametrize("name", NEVER_CLOSED)
def test_a_node_that_is_never_closed_neither_hangs_nor_crashes(name):
    if "uvloop" in name:
        pytest.importorskip("uvloop")
    assert run(NEVER_CLOSED[name]) == (0, "", "")


def test_the_peer_of_a_node_that_is_never_closed_is_told():
    program = """
        async def main():
            async with qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=Services()) as stays:
                goes = qg.Node(qg.Identity.generate())
                await goes.start()
                peer = await goes.connect(stays.address)
                stream = await peer.open_stream(Held.id)
                (far,) = stays.peers
                ping = asyncio.create_task(far.open_stream(Held.id))
                del goes, peer, stream
                gc.collect()
                try:
                    await ping
                except qg.RemoteError as error:
                    print(type(error).__name__)
        asyncio.run(main())
        """
    code, out, err = run(program)
    assert (code, err) == (0, "")
    assert out.strip() in ("Unreachable", "PeerClosed", "Unsupported")


# Forking while an asyncio loop runs, and then ending that loop in the child, breaks the parent's loop: they share its
# selector. So these children leave without ending it, as those of multiprocessing do.
FORK = """
    async def main():
        nodes, peer, stream = await linked()
        pid = os.fork()
        if pid == 0:
            child(nodes, peer, stream)
            sys.stdout.flush()
            os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        print("child", os.waitstatus_to_exitcode(status), flush=True)
        await stream.write(b"still here")
        await peer.ping()
        for node in nodes:
            await node.close()
    asyncio.run(main())
    """


def fork(child):
    return run(textwrap.dedent(child) + textwrap.dedent(FORK))


def test_a_forked_child_is_told_that_its_node_stayed_behind():
    code, out, err = fork(
        """
        async def later(method, *arguments):
            await method(*arguments)
        def child(nodes, peer, stream):
            calls = [nodes[0].status, stream.finish, stream.reset, lambda: stream.write_nowait(b"x")]
            for method, *arguments in (
                (nodes[0].connect, nodes[1].address), (nodes[0].close,), (peer.ping,), (peer.open_stream, Echo.id),
                (peer.send, Echo.id, b"x"), (peer.close,), (stream.write, b"x"), (stream.read, 1), (stream.close,)
            ):
                calls.append(lambda method=method, arguments=arguments: asyncio.run(later(method, *arguments)))
            for call in calls:
                try:
                    call()
                except qg.UsageError as error:
                    print("fork" in str(error))
        """
    )
    assert (code, err) == (0, "")
    assert out.split() == ["True"] * 13 + ["child", "0"]


def test_a_forked_child_that_drops_everything_harms_nobody():
    program = """
        def child(nodes, peer, stream):
            nodes.clear()
            del peer, stream
            gc.collect()
        """
    assert fork(program) == (0, "child 0\n", "")


def test_a_forked_child_can_run_nodes_of_its_own():
    program = """
        def child(*inherited):
            asyncio.run(own())
        async def own():
            nodes, peer, stream = await linked()
            assert await peer.ping() > 0
            for node in nodes:
                await node.close()
        """
    assert fork(program) == (0, "child 0\n", "")


def test_multiprocessing_by_fork_works_beside_a_node():
    program = """
        import multiprocessing
        async def main():
            nodes, peer, stream = await linked()
            worker = multiprocessing.get_context("fork").Process(target=print, args=("worker",))
            worker.start()
            await asyncio.to_thread(worker.join)
            print(worker.exitcode, await peer.ping() > 0)
            for node in nodes:
                await node.close()
        asyncio.run(main())
        """
    assert run(program) == (0, "worker\n0 True\n", "")


def test_a_child_forked_beside_a_loop_in_another_thread_ends_as_usual():
    program = """
        up, done = threading.Event(), threading.Event()
        async def main():
            nodes, peer, stream = await linked()
            up.set()
            await asyncio.to_thread(done.wait)
            print(await peer.ping() > 0)
            for node in nodes:
                await node.close()
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        up.wait()
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        done.set()
        thread.join()
        """
    assert run(program) == (0, "7\nTrue\n", "")
