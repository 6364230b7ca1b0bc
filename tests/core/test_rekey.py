# SPDX-License-Identifier: MIT
"""Keys change by epoch and by exchange, at their times, and never out of step (protocol.md 4.5)."""

import random

import pytest
from core.crypto_help import status
from core.endpoint_help import (
    AEGIS,
    BYTES,
    CHACHA,
    GCM,
    NORMAL,
    PROTOCOL,
    REKEY,
    SECOND_NS,
    UUID,
    WINDOW,
    Pair,
    suites_with,
    was_refused,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SUITES = [CHACHA, GCM, AEGIS]
INNER_MAX = 16384
EPOCH, REKEY1, REKEY2, REKEY_DONE = b"\x20", b"\x21", b"\x22", b"\x23"

every_suite = pytest.mark.parametrize("suite", SUITES)


# Epochs


def test_an_epoch_ends_120_seconds_after_its_first_record(connect):
    pair = connect()
    pair.run(119.9)
    assert pair.one.sending[1] == pair.other.sending[1] == 0
    pair.run(0.2)
    assert pair.one.sending[1] == pair.other.receiving[1] == 1
    assert pair.other.sending[1] == pair.one.receiving[1] == 1
    pair.run(100)
    assert pair.one.sending[1] == 1


def test_an_epoch_ends_in_one_direction_only(connect):
    pair = connect()
    pair.one.end_epoch()
    pair.pump()
    assert (pair.one.sending[1], pair.other.receiving[1]) == (1, 1)
    assert (pair.other.sending[1], pair.one.receiving[1]) == (0, 0)


@every_suite
def test_the_65536th_record_ends_the_epoch_of_a_session(endpoint, suite):
    pair = Pair(*(endpoint(side, suites=suites_with(suite)) for side in ("initiator", "responder")))
    pair.connect()
    while pair.one.sending[2] < 1 << 16:
        assert pair.one.sending[1] == 0
        pair.one.inject(b"\x18\x00")
        pair.other.feed(pair.one.take())
    assert pair.one.sending == pair.other.receiving == (0, 1, 1 << 16)
    pair.one.ping()
    pair.pump()
    assert ("pong", 0) in pair.one.events()


def test_the_record_that_ends_the_epoch_by_number_may_say_so_as_well(connect):
    pair = connect()
    while pair.one.sending[2] < (1 << 16) - 1:
        pair.one.inject(b"\x18\x00")
        pair.other.feed(pair.one.take())
    pair.one.end_epoch()
    pair.pump()
    assert pair.one.sending == pair.other.receiving == (0, 1, 1 << 16)
    pair.one.ping()
    pair.pump()
    assert ("pong", 0) in pair.one.events()


@pytest.mark.slow
def test_a_gigabyte_ends_the_epoch(connect):
    """In full records, for small ones their number comes first."""
    pair = connect()
    number = pair.stream()
    payload = bytes(3 * (INNER_MAX - 5))
    while pair.one.sending[1] == 0:
        pair.one.write(number, payload)
        pair.pump()
        assert len(pair.other.received(number)) == len(payload)
        pair.other.used(number, len(payload))
        assert pair.one.sending[2] < 1 << 16
    assert pair.one.sending[2] * (INNER_MAX + 32) >= 1 << 30
    assert pair.other.receiving[:2] == (0, 1)


# Generations


def in_step(pair):
    """Whether both sides are in the same generation of both directions and no exchange runs."""
    assert not pair.one.is_rekeying
    assert not pair.other.is_rekeying
    assert pair.one.sending == pair.other.receiving
    assert pair.other.sending == pair.one.receiving
    assert pair.one.sending[0] == pair.other.sending[0]
    assert pair.one.held[2] == pair.other.held[2] == 1
    return pair.one.sending[0]


@every_suite
@pytest.mark.parametrize("starter", ["initiator", "responder", "both"])
def test_new_keys_for_both_directions(endpoint, suite, starter):
    pair = Pair(*(endpoint(side, suites=suites_with(suite)) for side in ("initiator", "responder")))
    pair.connect()
    binding, exporter = pair.one.channel_binding, pair.one.exporter
    for generation in range(1, 6):
        if starter != "responder":
            pair.one.start_rekey()
        if starter != "initiator":
            pair.other.start_rekey()
        mine, theirs = pair.one.take(), pair.other.take()
        pair.other.feed(mine)
        pair.one.feed(theirs)
        pair.pump()
        assert in_step(pair) == generation
        number = pair.stream(b"with the new keys")
        assert pair.other.received(number) == b"with the new keys"
    assert (pair.one.channel_binding, pair.one.exporter) == (binding, exporter)
    assert pair.other.exporter == exporter


@pytest.mark.parametrize("order", ["one first", "other first"])
def test_crossing_exchanges_become_one(connect, order):
    """The responder drops its own and answers, whether or not its REKEY1 has been read."""
    pair = connect()
    pair.one.start_rekey()
    pair.other.start_rekey()
    mine, theirs = pair.one.take(), pair.other.take()
    if order == "one first":
        pair.other.feed(mine)
        pair.one.feed(theirs)
    else:
        pair.one.feed(theirs)
        pair.other.feed(mine)
    pair.pump()
    assert in_step(pair) == 1


def test_an_exchange_that_was_not_sent_yet_gives_way(connect):
    pair = connect()
    pair.one.start_rekey()
    pair.other.start_rekey()
    pair.other.feed(pair.one.take())
    pair.pump()
    assert in_step(pair) == 1


@pytest.mark.parametrize("n_generations", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_generations_stay_in_step(connect, n_generations):
    pair, source = connect(), random.Random(5)
    number = pair.stream()
    for generation in range(1, n_generations + 1):
        pair.run(6)  # a session takes one exchange in so long, not more
        pair.one.ping()
        pair.other.ping()
        pair.pump()
        for side in source.sample([pair.one, pair.other], source.randrange(1, 3)):
            side.start_rekey()
            if source.random() < 0.3:
                side.end_epoch()
        pair.one.write(number, bytes([generation % 256]))
        if source.random() < 0.5:
            pair.step(pair.one, pair.other)
        pair.pump()
        assert pair.other.received(number) == bytes([generation % 256])
        pair.other.used(number, 1)
        pair.tick(pair.one.now_ns + SECOND_NS // 4)
        assert in_step(pair) == generation


def use(pair, number, seconds, data=b"in use"):
    """Send something, then let time pass."""
    pair.one.write(number, data)
    pair.run(seconds)
    assert pair.other.received(number) == data
    pair.other.used(number, len(data))


def test_in_use_keys_change_after_about_ten_minutes(connect):
    times = []
    for _ in range(5):
        pair = connect()
        number = pair.stream()
        started = pair.one.now_ns
        while in_step(pair) == 0:
            use(pair, number, 1)
        times.append((pair.one.now_ns - started) / SECOND_NS)
    assert 480 <= min(times) < max(times) <= 722


def test_over_hours_of_use_keys_change_at_least_every_twelve_minutes(connect):
    pair = connect()
    number = pair.stream()
    generation, changed_ns = 0, pair.one.now_ns
    for _ in range(3 * 60):
        use(pair, number, 60)
        if in_step(pair) > generation:
            generation, changed_ns = generation + 1, pair.one.now_ns
        assert pair.one.now_ns - changed_ns <= (720 + 60) * SECOND_NS
    assert in_step(pair) >= 14


def test_an_idle_session_keeps_its_keys_for_hours_and_lives(connect):
    pair = connect()
    number = pair.stream()
    pair.run(5 * 3600)
    assert in_step(pair) == 0
    assert pair.one.sending[1] > 100
    use(pair, number, 1)
    assert in_step(pair) == 1
    pair.run(5 * 3600)
    assert in_step(pair) == 1


def test_an_exchange_that_is_due_goes_before_the_next_bytes_of_a_stream_which_do_not_wait_for_it(connect):
    pair = connect()
    number = pair.stream()
    pair.run(721)
    pair.one.write(number, b"the next bytes")
    pair.one.room = 1400
    pair.other.feed(pair.one.take())
    assert pair.other.is_rekeying
    assert pair.other.received(number) == b""
    pair.one.room = 1 << 30
    pair.other.feed(pair.one.take())
    assert pair.other.received(number) == b"the next bytes"
    assert pair.other.receiving[0] == 0
    pair.pump()
    assert in_step(pair) == 1


@pytest.mark.parametrize("frame", ["DATA", "OPEN"])
def test_an_exchange_that_is_due_starts_when_the_frame_of_a_stream_is_read(connect, frame):
    """Only one side's clock has come so far."""
    pair = connect()
    number = pair.stream()
    for _ in range(37):
        pair.other.tick(pair.other.now_ns + 20 * SECOND_NS)
        pair.other.take()
        pair.one.ping()
        pair.one.inject(b"\x18\x00")
        pair.other.feed(pair.one.take())
    assert not pair.other.is_rekeying
    if frame == "DATA":
        pair.one.write(number, b"bytes")
    else:
        pair.one.open_stream(BYTES, NORMAL, WINDOW, UUID)
    pair.other.feed(pair.one.take())
    assert pair.other.is_rekeying
    assert not pair.one.is_rekeying
    pair.one.clear()
    pair.other.clear()


@pytest.mark.parametrize("is_starter", [True, False])
def test_an_exchange_that_is_not_complete_within_60_seconds_ends_the_session(connect, is_starter):
    pair = connect()
    asks, other = (pair.one, pair.other) if is_starter else (pair.other, pair.one)
    pair.one.start_rekey()
    first = pair.one.take()
    if not is_starter:
        pair.other.feed(first)
        pair.other.take()
    for _ in range(60):
        assert asks.state == "open"
        other.inject(b"\x18\x00")
        asks.tick(asks.now_ns + SECOND_NS)
        asks.feed(other.take())
        asks.take()
    assert (asks.state, asks.reason) == ("closed", REKEY)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (REKEY1 + bytes(1272), "E_TAG"),
        (REKEY2 + bytes(1176), "E_STATE"),
        (REKEY_DONE, "E_STATE"),
        (REKEY2 + bytes(1176) + REKEY_DONE, "E_STATE"),
    ],
)
def test_an_exchange_out_of_turn_or_forged_ends_the_session(connect, frames, code):
    pair = connect()
    pair.one.inject(frames)
    pair.other.feed(pair.one.take())
    assert was_refused(pair, getattr(status, code))


def test_a_forged_answer_ends_the_session(connect):
    pair = connect()
    pair.other.start_rekey()
    pair.other.take()
    pair.one.inject(REKEY2 + b"\x09" * 1176 + REKEY_DONE)
    assert pair.other.feed(pair.one.take()) == status.E_TAG
    assert pair.other.take() != b""
    assert pair.other.events() == [("closed", PROTOCOL, False)]


def test_a_second_exchange_before_the_first_is_done_ends_the_session(connect):
    pair = connect()
    pair.one.start_rekey()
    pair.other.feed(pair.one.take())
    pair.one.inject(REKEY1 + bytes(1272))
    pair.other.feed(pair.one.take())
    assert pair.other.status == status.E_STATE


def test_more_exchanges_than_any_honest_peer_starts_end_the_session(connect):
    """Each costs its acceptor 130 us of public-key work, and a neighbour may have a thousand layers to ask in."""
    pair = connect()
    for second in range(60):
        pair.one.ping()
        pair.pump()
        pair.one.start_rekey()
        pair.pump()
        if pair.other.state != "open":
            break
        assert in_step(pair) == second + 1
        pair.tick(pair.one.now_ns + SECOND_NS)
    assert second < 15
    assert was_refused(pair, status.E_RATE)


def test_an_exchange_waits_for_room_and_nothing_overtakes_it(connect):
    pair = connect()
    number = pair.stream()
    pair.one.start_rekey()
    pair.one.write(number, b"behind the exchange")
    pair.one.room = 1000
    assert pair.one.take() == b""
    pair.one.room = 1 << 30
    pair.pump()
    assert in_step(pair) == 1
    assert pair.other.received(number) == b"behind the exchange"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "epoch", "rekey", "ping"]), st.booleans(), st.integers(1, 20_000)),
        st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 5000)),
        st.tuples(st.just("deliver"), st.booleans(), st.just(1 << 20)),
        st.tuples(st.just("room"), st.booleans(), st.sampled_from([0, 128, 300, 1000, 2000, 17_000, 1 << 30])),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(steps=STEPS, suite=st.sampled_from(SUITES), padding=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_whatever_crosses_on_the_wire_both_sides_stay_in_step(pairs, steps, suite, padding):
    with pairs(suites=[suites_with(suite)] * 2, padding=padding) as pair:
        number = pair.stream()
        wires = {True: bytearray(), False: bytearray()}
        sent, seen = {True: b"", False: b""}, {True: b"", False: b""}

        def deliver(is_one, length):
            source, target = (pair.one, pair.other) if is_one else (pair.other, pair.one)
            wires[is_one] += source.take()
            target.feed(bytes(wires[is_one][:length]))
            del wires[is_one][:length]
            data = target.received(number)
            target.used(number, len(data))
            seen[is_one] += data

        for step, is_one, amount in steps:
            side = pair.one if is_one else pair.other
            if step == "write":
                data = amount.to_bytes(4, "big") * (amount // 4)
                sent[is_one] += data
                side.write(number, data)
            elif step == "epoch":
                side.end_epoch()
            elif step == "rekey":
                pair.tick(pair.one.now_ns + SECOND_NS // 4)
                side.start_rekey()
            elif step == "ping":
                side.ping()
            elif step == "room":
                side.room = amount
            else:
                deliver(is_one, amount)
        pair.one.room = pair.other.room = 1 << 30
        for _ in range(100):
            deliver(True, 1 << 20)
            deliver(False, 1 << 20)
        assert seen == sent
        in_step(pair)


def test_a_peer_may_not_make_us_exchange_keys_whenever_it_likes(connect):
    pair = connect()
    for _ in range(11):
        assert pair.other.status == 0
        pair.one.ping()  # without a record in between there is nothing to renew
        pair.pump()
        pair.one.start_rekey()
        pair.pump()
    assert pair.other.status == status.E_RATE


def test_a_peer_may_not_make_us_derive_keys_whenever_it_likes(connect):
    """Each EPOCH costs new keys: 200 in a second are taken, the next one ends the session."""
    pair = connect()
    for _ in range(200):
        pair.one.end_epoch()
        assert pair.other.feed(pair.one.take()) == 0
    assert pair.other.receiving[1] == 200
    pair.one.end_epoch()
    assert pair.other.feed(pair.one.take()) == status.E_RATE


def test_a_peer_may_end_epochs_for_as_long_as_it_likes(connect):
    pair = connect()
    for _ in range(1000):
        pair.one.end_epoch()
        pair.tick(pair.one.now_ns + SECOND_NS // 100)
        pair.pump()
    assert pair.other.receiving[1] == 1000
    assert pair.other.state == "open"
