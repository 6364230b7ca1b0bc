# SPDX-License-Identifier: MIT
"""The machine that changes keys, fed with frames and time by hand (protocol.md 4.5)."""

import pytest
from core.crypto_help import status
from qg._core.rekey import Rekey

SECOND_NS = 1_000_000_000
EPOCH, REKEY1, REKEY2, REKEY_DONE = b"\x20", b"\x21", b"\x22", b"\x23"
INITIATOR, RESPONDER = 0, 1


def machine(role):
    return Rekey(role, 120 * SECOND_NS, 600 * SECOND_NS, 60 * SECOND_NS)


@pytest.fixture
def one():
    return machine(INITIATOR)


@pytest.fixture
def other():
    return machine(RESPONDER)


def assert_same_keys(one, other, generation):
    assert one.sending[0] == other.receiving[0] == other.sending[0] == one.receiving[0] == generation
    assert other.open(one.seal(b"there")) == b"there"
    assert one.open(other.seal(b"back")) == b"back"
    for side in (one, other):
        assert side.held == (0, 0)
        assert not side.waits_with_next
        assert side.take() == b""


@pytest.mark.parametrize("starter", [INITIATOR, RESPONDER])
def test_three_records_make_new_keys_for_both_directions(one, other, starter):
    first, second = (one, other) if starter == INITIATOR else (other, one)
    for generation in (1, 2, 3):
        assert first.start() == 0
        ask = first.take()
        assert (ask[:1], len(ask)) == (REKEY1, 1273)
        assert second.read(ask) == 0
        answer = second.take()
        assert (answer[:1], answer[-1:], len(answer)) == (REKEY2, REKEY_DONE, 1178)
        assert (second.sending[0], second.receiving[0]) == (generation, generation - 1)
        assert first.read(answer) == 0
        assert (first.sending[0], first.receiving[0]) == (generation - 1, generation)
        assert first.waits_with_next
        assert first.take() == REKEY_DONE
        assert second.read(REKEY_DONE) == 0
        assert_same_keys(one, other, generation)


def test_a_responder_drops_its_own_exchange_and_an_initiator_does_not(one, other):
    assert one.start() == other.start() == 0
    ask = one.take()
    assert one.read(other.take()) == 0
    assert one.take() == b""
    assert other.read(ask) == 0
    assert one.read(other.take()) == 0
    assert other.read(one.take()) == 0
    assert_same_keys(one, other, 1)


def test_a_second_start_changes_nothing(one):
    one.start()
    ask = one.take()
    held = one.held
    assert one.start(5 * SECOND_NS) == 0
    assert (one.take(), one.held) == (b"", held)
    assert ask[:1] == REKEY1


def test_what_does_not_fit_waits(one, other):
    one.start()
    assert one.take(room=1272) == b""
    assert len(one.take(room=1273)) == 1273


@pytest.mark.parametrize(
    "frames",
    [
        REKEY2 + bytes(1176) + REKEY_DONE,
        REKEY_DONE,
        EPOCH + EPOCH,
        EPOCH + REKEY1 + bytes(1272),
        EPOCH + REKEY_DONE,
    ],
)
def test_frames_out_of_turn_are_violations(one, frames):
    assert one.read(frames) == status.E_STATE


@pytest.mark.parametrize("cut", ["without DONE", "EPOCH instead", "DONE twice"])
def test_an_answer_is_one_record_that_done_ends(one, other, cut):
    one.start()
    other.read(one.take())
    answer = other.take()[:-1]
    answer += {"without DONE": b"", "EPOCH instead": EPOCH, "DONE twice": REKEY_DONE * 2}[cut]
    assert one.read(answer) == status.E_STATE


def test_a_broken_message_changes_no_keys(one, other):
    """The CLOSE that follows is sealed with the keys that both sides have."""
    one.start()
    other.read(one.take())
    answer = bytearray(other.take())
    answer[-2] ^= 1
    assert one.read(bytes(answer)) == status.E_TAG
    assert (one.take(), one.sending) == (b"", (0, 0))


def test_an_exchange_of_another_generation_is_a_violation(one, other):
    """The prologue holds the number of the generation and the hash of the one before."""
    stale = machine(INITIATOR)
    stale.start()
    old = stale.take()
    one.start()
    other.read(one.take())
    one.read(other.take())
    other.read(one.take())
    assert other.read(old) == status.E_TAG


def test_asked_again_while_the_answer_is_under_way_is_a_violation(one, other):
    one.start()
    ask = one.take()
    assert other.read(ask) == 0
    assert other.read(ask) == status.E_STATE


def test_an_epoch_ends_by_word_in_one_direction(one, other):
    one.seal(b"first")
    assert one.deadline_ns == 120 * SECOND_NS
    assert one.tick(120 * SECOND_NS) == 0
    assert one.take() == EPOCH
    assert (one.sending, one.receiving) == ((0, 1), (0, 0))
    assert other.open(machine(INITIATOR).seal(b"first")) == b"first"
    assert other.read(EPOCH) == 0
    assert other.open(one.seal(b"second")) == b"second"


def test_the_next_exchange_is_due_after_ten_minutes_more_or_less():
    times = [machine(INITIATOR).deadline_ns / SECOND_NS for _ in range(50)]
    assert 480 <= min(times) < 540
    assert 660 < max(times) <= 720


@pytest.mark.parametrize(("n_records", "length"), [(1 << 32, 0), (0, 64 << 30)])
def test_much_traffic_makes_an_exchange_due(one, n_records, length):
    one.skip(max(n_records - 1, 0), max(length - 1, 0))
    assert one.tick(1) == 0
    assert not one.is_due
    one.skip(1, 1)
    assert one.tick(1) == 0
    assert one.is_due


def test_time_makes_an_exchange_due_and_starts_none(one, other):
    for hour in range(1, 30):
        assert one.tick(hour * 3600 * SECOND_NS) == 0
        assert (one.is_due, one.take(), one.held) == (True, b"", (0, 0))
    assert one.start(30 * 3600 * SECOND_NS) == 0
    assert not one.is_due
    assert one.deadline_ns == (30 * 3600 + 60) * SECOND_NS


@pytest.mark.parametrize("is_starter", [True, False])
def test_an_exchange_that_is_not_complete_within_60_seconds_ends_the_session(one, other, is_starter):
    one.start(SECOND_NS)
    other.read(one.take(), SECOND_NS)
    assert other.take() != b""
    side = one if is_starter else other
    assert side.deadline_ns == 61 * SECOND_NS
    assert side.tick(61 * SECOND_NS - 1) == 0
    assert side.tick(61 * SECOND_NS) == status.E_CLOSED


def test_who_drops_his_own_exchange_gets_the_time_of_the_new_one(one, other):
    other.start(SECOND_NS)
    other.take()
    one.start(31 * SECOND_NS)
    other.read(one.take(), 31 * SECOND_NS)
    assert other.tick(90 * SECOND_NS) == 0
    assert other.tick(91 * SECOND_NS) == status.E_CLOSED
