# SPDX-License-Identifier: MIT
"""Records of one direction: in their order they open to what was sealed, and nothing else ever opens."""

from qg._core.crypto import suites
from qg._core.record import RecordDirection
from tools.fuzz import Script

INNER_MAX = 16384
USABLE = [suite for suite in (1, 2, 4) if suites() & suite]
K1, K2, H = (bytes([number]) * 32 for number in (1, 2, 3))


def run(data: bytes) -> None:
    script = Script(data)
    which, suite = script.number() % 2, USABLE[script.number() % len(USABLE)]
    sender, receiver = (RecordDirection(K1, K2, H, which, suite) for _ in range(2))
    is_sound = True
    while is_sound and script:
        is_sound = (whole, whole, whole, changed, cut, foreign, left_out, again, epoch, renewed)[script.number() % 10](
            script, sender, receiver
        )
        assert not is_sound or sender.position == receiver.position


def sealed(script: Script, sender: RecordDirection) -> tuple[bytes, bytes]:
    inner = (script.counted() or b"\0")[:INNER_MAX]
    record = sender.seal(inner)
    assert isinstance(record, bytes)
    return inner, record


def whole(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    inner, record = sealed(script, sender)
    assert receiver.open(record) == inner
    return True


def changed(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    _, record = sealed(script, sender)
    bad = bytearray(record)
    bad[script.number(2) % len(bad)] ^= 1 << script.number() % 8
    return is_refused(receiver, bytes(bad))


def cut(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    _, record = sealed(script, sender)
    return is_refused(receiver, record[: script.number(2) % len(record)])


def foreign(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    return is_refused(receiver, script.counted())


def left_out(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    sealed(script, sender)
    return is_refused(receiver, sealed(script, sender)[1])


def again(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    inner, record = sealed(script, sender)
    assert receiver.open(record) == inner
    return is_refused(receiver, record)


def is_refused(receiver: RecordDirection, record: bytes) -> bool:
    """A session ends with such a record, and so does the run."""
    assert isinstance(receiver.open(record), int)
    return False


def epoch(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    sender.end_epoch()
    receiver.end_epoch()
    return True


def renewed(script: Script, sender: RecordDirection, receiver: RecordDirection) -> bool:
    k1 = script.exactly(32)
    sender.renew(k1, K2, H)
    receiver.renew(k1, K2, H)
    return True
