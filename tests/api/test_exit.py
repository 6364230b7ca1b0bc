# SPDX-License-Identifier: MIT
"""What a process is told when it leaves a node behind; and importing qg costs next to nothing."""

import os
import subprocess
import sys
import textwrap

import pytest

LIMIT_S = 60
PREPARED = """
    import asyncio, gc, os, sys, threading, time, warnings
    import qg
    warnings.simplefilter("ignore", ResourceWarning)
    def node_make():
        return qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"])
    async def pair_start():
        near, far = node_make(), node_make()
        await near.start()
        await far.start()
        peer = await far.connect(near.address)
        return near, far, peer
"""


def run(code):
    script = textwrap.dedent(PREPARED) + textwrap.dedent(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.net
def test_a_node_that_was_never_closed_is_warned_of():
    done = run("""
        warnings.simplefilter("always", ResourceWarning)
        async def main():
            await node_make().start()
        asyncio.run(main())
        gc.collect()
    """)
    assert "was never closed" in done.stderr
    assert "async with" in done.stderr


@pytest.mark.net
def test_a_node_whose_loop_was_closed_first_says_so_and_ends():
    done = run("""
        near, far, peer = asyncio.run(pair_start())
        async def late():
            for call in (near.close, peer.close, peer.ping):
                try:
                    await call()
                except qg.UsageError as error:
                    print("event loop" in str(error))
        asyncio.run(late())
    """)
    assert done.stdout.split() == ["True"] * 3


@pytest.mark.net
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts threads as Linux shows them")
def test_an_exception_out_of_a_block_stops_the_node_s_threads():
    done = run("""
        async def main():
            async with node_make():
                print(len(os.listdir("/proc/self/task")) > 1)
                raise ZeroDivisionError
        try:
            asyncio.run(main())
        except ZeroDivisionError:
            while len(os.listdir("/proc/self/task")) > 1:  # a thread that was joined may still be on its way out
                time.sleep(0)
            print("alone")
    """)
    assert done.stdout.split() == ["True", "alone"]


@pytest.mark.net
def test_sys_exit_and_interrupts_end_a_running_node():
    run("""
        async def main():
            near, far, peer = await pair_start()
            threading.Timer(0.05, lambda: os.kill(os.getpid(), 2)).start()
            await asyncio.Event().wait()
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            sys.exit(0)
        sys.exit(1)
    """)


def test_importing_qg_loads_nothing_of_it():
    done = run("""
        code = 'import sys; before = set(sys.modules); import qg; print(sorted(set(sys.modules) - before))'
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-c", code])
    """)
    assert not {"asyncio", "msgspec", "logging", "qg.node", "qg._core.runtime"} & set(eval(done.stdout))


def test_every_public_name_can_be_had_and_others_cannot():
    done = run("""
        for name in dir(qg):
            getattr(qg, name)
        print(sorted(name for name in dir(qg) if name[0].isupper()))
        print(qg.__version__)
        try:
            qg.nothing
        except AttributeError as error:
            print(error)
    """)
    names, version, error = done.stdout.splitlines()
    assert {"Node", "Peer", "Stream", "Extender", "Identity", "Config", "QGError", "Address"} <= set(eval(names))
    assert version.count(".") == 2
    assert error == "module 'qg' has no attribute 'nothing'"
