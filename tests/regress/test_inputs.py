# SPDX-License-Identifier: MIT
"""Inputs that fuzzing begins with, and those that once failed, hold; so do inputs near them (tools/fuzz)."""

import random

import pytest

from tools.fuzz import TARGETS, inputs, target_load

N_NEAR = {"engine": 100, "session": 60}  # those of the others take less than a millisecond each
N_NEAR_ELSE = 2000


def near(source, kept):
    """One of the inputs, with some of its bytes changed, left out, or followed by those of another one."""
    data = bytearray(source.choice(kept))
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data) + 1)
        how = source.randrange(5)
        if how == 0:
            data[at : at + 1] = source.randbytes(1)
        elif how == 1 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif how == 2:
            del data[at : at + source.randint(1, 16)]
        elif how == 3:
            data[at:at] = source.choice((b"\0", b"\xff" * 8, source.randbytes(3)))
        else:
            data[at:] = source.choice(kept)[at:]
    return bytes(data)


def check(run, data):
    try:
        run(data)
    except BaseException as error:
        error.add_note(f"the input, in hex: {data.hex()}")
        raise


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_and_those_near_them_hold(name):
    run, kept, source = target_load(name), list(inputs(name)), random.Random(name)
    assert kept
    for data in kept:
        check(run, data)
    for _ in range(N_NEAR.get(name, N_NEAR_ELSE)):
        check(run, near(source, kept))
