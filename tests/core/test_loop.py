# SPDX-License-Identifier: MIT
"""One worker's loop: wake-ups, deadlines, turns, its thread."""

import os
import sys
import threading
import time

import pytest
from qg._core.probe import Loop, Tcp

LIMIT_MS = 20_000


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


def test_a_wake_up_from_another_thread_ends_the_sleep(loop):
    sleeper = threading.Thread(target=loop.run, args=(LIMIT_MS,))
    sleeper.start()
    loop.wake()
    sleeper.join()
    assert (loop.n_wakes, loop.n_timers) == (1, 0)


def test_wake_ups_before_the_loop_looks_become_one(loop):
    for _ in range(1000):
        loop.wake()
    loop.run(LIMIT_MS)
    loop.run(20)
    assert (loop.n_wakes, loop.n_timers) == (1, 1)


def test_a_deadline_never_comes_early(loop):
    for ahead_ns in range(1, 3_000_000, 37_000):
        deadline_ns = time.monotonic_ns() + ahead_ns
        loop.start(deadline_ns)
        loop.join()
        assert loop.hook_ns >= deadline_ns
    assert loop.n_wakes == 0


def test_a_deadline_in_the_past_comes_at_once(loop):
    guard = threading.Timer(LIMIT_MS / 1000, loop.wake)
    guard.start()
    for _ in range(2):  # the same one again
        loop.start(1)
        loop.join()
    guard.cancel()
    assert (loop.n_wakes, loop.n_timers) == (0, 2)


def test_a_deadline_is_told_once_and_the_last_one_set_counts(loop):
    now_ns = time.monotonic_ns()
    for deadline_ns in (now_ns + 1, 0, now_ns + 2**62, 2**64 - 1, now_ns + 30_000_000):
        loop.set_deadline(deadline_ns)
    loop.start(now_ns + 30_000_000)
    loop.join()
    assert loop.hook_ns >= now_ns + 30_000_000
    loop.wake()
    loop.run(0)
    assert (loop.n_wakes, loop.n_timers) == (1, 1)


def test_a_turn_ends_before_each_sleep_and_an_idle_loop_takes_none(loop):
    loop.run(50)
    assert 2 <= loop.n_turns <= 4  # before the sleep, after the deadline; the kernel may end a sleep too early
    before = loop.n_turns
    loop.wake()
    loop.run(LIMIT_MS)
    assert loop.n_turns > before


def test_the_thread_runs_until_it_is_woken_and_counts_its_cpu_time(loop):
    loop.start(0)
    loop.wake()
    loop.join()
    assert loop.n_wakes == 1
    assert 0 < loop.cpu_ns < time.process_time_ns()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_thread_takes_no_signals(loop):
    before = set(os.listdir("/proc/self/task"))
    loop.start(0)
    (task,) = set(os.listdir("/proc/self/task")) - before
    with open(f"/proc/self/task/{task}/status") as file:
        blocked = int(next(line for line in file if line.startswith("SigBlk")).split()[1], 16)
    loop.wake()
    loop.join()
    with open("/proc/thread-self/status") as file:
        ours = int(next(line for line in file if line.startswith("SigBlk")).split()[1], 16)
    assert blocked & 0x7FFF_FFFF & ~(1 << 8 | 1 << 18) == 0x7FFF_FFFF & ~(1 << 8 | 1 << 18)  # all but KILL and STOP
    assert ours == 0


def test_the_read_buffer_has_a_limit():
    Loop(1 << 20).close()
    with pytest.raises(ValueError):
        Loop((1 << 20) + 1)


def test_a_loop_with_foreign_handles_is_not_freed():
    tcp = Tcp()
    with pytest.raises(RuntimeError):
        tcp.loop.close()
    tcp.stop()
    tcp.loop.close()
