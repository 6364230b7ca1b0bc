# SPDX-License-Identifier: MIT
"""Slots for keys: zeroed, wiped, bounded, locked in memory, and gone in a forked child."""

import os
import resource
import subprocess
import sys

import pytest
from core.crypto_help import ROOT

from qg._core import _build_info
from qg._core.secret import SecretPool

SLOT_LEN = 1536
SLAB_SLOTS = 42
SLAB_LEN = 65536


def in_child(action):
    """Run `action` in a forked child; return the bytes that it returned."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, action())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return answer


def test_a_fresh_slot_is_zero_and_aligned():
    pool = SecretPool(100)
    for _ in range(100):
        slot = pool.take()
        assert pool.read(slot) == bytes(SLOT_LEN)
        assert pool.offset(slot) == 0


def test_a_slot_given_back_is_wiped():
    pool = SecretPool(2)
    slot = pool.take()
    pool.write(slot, b"\xa5" * SLOT_LEN)
    assert pool.read(slot) == b"\xa5" * SLOT_LEN
    pool.give(slot)
    content = pool.read(slot)
    assert content[8:] == bytes(SLOT_LEN - 8)  # the first word links the free list
    assert b"\xa5" * 9 not in content  # longer than that word
    assert pool.take() == slot
    assert pool.read(slot) == bytes(SLOT_LEN)


def test_slots_do_not_overlap():
    pool = SecretPool(SLAB_SLOTS + 1)
    slots = [pool.take() for _ in range(SLAB_SLOTS + 1)]
    for slot in slots:
        pool.write(slot, bytes([slot]) * SLOT_LEN)
    assert all(pool.read(slot) == bytes([slot]) * SLOT_LEN for slot in slots)


def test_the_pool_is_bounded_and_counts():
    pool = SecretPool(SLAB_SLOTS + 1)
    slots = [pool.take() for _ in range(SLAB_SLOTS + 1)]
    assert (pool.n_taken, pool.n_slabs) == (SLAB_SLOTS + 1, 2)
    assert pool.take() is None
    pool.give(slots[0])
    assert pool.n_taken == SLAB_SLOTS
    assert pool.take() == slots[0]
    assert pool.take() is None


def test_many_sessions_coming_and_going_take_no_more_slabs():
    pool = SecretPool(10 * SLAB_SLOTS)
    for _ in range(20):
        slots = [pool.take() for _ in range(2 * SLAB_SLOTS)]
        for slot in slots:
            pool.give(slot)
    assert (pool.n_taken, pool.n_slabs) == (0, 2)


def test_an_empty_pool_takes_no_memory():
    assert SecretPool(1000).n_slabs == 0


@pytest.mark.parametrize("arguments", [(0,), (1, b"maybe")])
def test_misuse_is_refused(arguments):
    with pytest.raises(ValueError):
        SecretPool(*arguments)


def test_a_forked_child_reads_zeros_and_gets_no_slot():
    pool = SecretPool(SLAB_SLOTS)
    slots = [pool.take() for _ in range(SLAB_SLOTS)]
    for slot in slots:
        pool.write(slot, b"\xa5" * SLOT_LEN)
    if not pool.is_wiped_on_fork:
        pytest.skip("this system cannot wipe memory on fork")

    def child():
        is_wiped = all(pool.read(slot) == bytes(SLOT_LEN) for slot in slots)
        pool.give(slots[0])
        return repr((is_wiped, pool.is_alive, pool.take(), pool.n_taken)).encode()

    assert in_child(child) == f"(True, False, None, {SLAB_SLOTS})".encode()
    assert pool.is_alive
    assert all(pool.read(slot) == b"\xa5" * SLOT_LEN for slot in slots)
    pool.give(slots[0])
    assert pool.n_taken == SLAB_SLOTS - 1


def test_a_forked_child_may_drop_the_pool():
    pools = [SecretPool(10)]
    pools[0].take()

    def child():
        pools.clear()
        return b"alive"

    assert in_child(child) == b"alive"


# Locked memory. A process with CAP_IPC_LOCK is not limited, so these run as an ordinary user where we are root.

limited = pytest.mark.skipif(_build_info.IS_SANITIZED, reason="under AddressSanitizer mlock does nothing")

LIMITED = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from qg._core.secret import SecretPool
resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(sys.argv[2]), int(sys.argv[2])))
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
pool = SecretPool(1000, sys.argv[3].encode())
taken = [pool.take() for _ in range(1000)]
print(sum(slot is not None for slot in taken), pool.is_locked)
"""


def slots_under(limit_len, policy):
    """Return (slots taken of 1,000, is_locked) in a process that may lock `limit_len` bytes."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(ROOT), str(limit_len), policy], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    n_taken, is_locked = done.stdout.split()
    return int(n_taken), is_locked == "True"


@limited
def test_enough_lockable_memory_is_used_and_said():
    if os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
        pytest.skip("the limit cannot be raised here")
    assert slots_under(4 << 20, "required") == (1000, True)


@limited
def test_a_required_lock_stops_at_the_limit():
    n_taken, is_locked = slots_under(3 * SLAB_LEN, "required")
    assert is_locked
    assert 0 < n_taken <= 3 * SLAB_SLOTS
    assert n_taken % SLAB_SLOTS == 0


@limited
def test_a_preferred_lock_goes_on_unlocked_and_says_so():
    assert slots_under(3 * SLAB_LEN, "preferred") == (1000, False)


@limited
def test_nothing_lockable_at_all():
    assert slots_under(0, "required") == (0, True)
    assert slots_under(0, "preferred") == (1000, False)
