# SPDX-License-Identifier: MIT
"""Replay filter: once and only once, for as long as a flight's time is accepted, from any number of threads."""

import threading

import pytest
from core.crypto_help import fixed_bytes, status
from hypothesis import given, settings
from hypothesis import strategies as st

from qg._core.replay import ReplayFilter

NOW_S = 1_760_000_000
KEEP_S = 240
BACK_S = 65536


def ids(n, label="flights"):
    raw = fixed_bytes(label, 8 * n)
    return [raw[8 * i : 8 * i + 8] for i in range(n)]


def test_a_flight_is_accepted_once():
    replay = ReplayFilter(1024)
    flight, other = ids(2)
    assert replay.lookup(flight, NOW_S, NOW_S) == status.OK
    assert replay.insert(flight, NOW_S, NOW_S) == status.OK
    assert replay.lookup(flight, NOW_S, NOW_S) == status.E_REPLAY
    assert replay.insert(flight, NOW_S, NOW_S) == status.E_REPLAY
    assert replay.insert(other, NOW_S, NOW_S) == status.OK


def test_looking_up_does_not_remember():
    replay = ReplayFilter(1024)
    for _ in range(3):
        assert replay.lookup(b"12345678", NOW_S, NOW_S) == status.OK


@pytest.mark.parametrize("start_s", [NOW_S, (NOW_S | 0xFFFFFF) - 100])
def test_a_flight_is_remembered_for_240_seconds(start_s):
    """The second start makes the 24 bits of the second wrap within the window."""
    replay = ReplayFilter(1024)
    assert replay.insert(b"12345678", start_s, start_s) == status.OK
    for age_s in (1, 100, 101, 239, KEEP_S):
        assert replay.lookup(b"12345678", start_s, start_s + age_s) == status.E_REPLAY
        assert replay.insert(b"12345678", start_s, start_s + age_s) == status.E_REPLAY
    assert replay.lookup(b"12345678", start_s, start_s + KEEP_S + 1) == status.OK
    assert replay.insert(b"12345678", start_s, start_s + KEEP_S + 1) == status.OK


def test_no_accepted_time_can_be_replayed():
    """A flight's time is accepted within 120 s of now, either way; the memory must cover every later moment of that."""
    for skew_s in (-120, -1, 0, 1, 120):
        replay = ReplayFilter(1024)
        assert replay.insert(b"12345678", NOW_S + skew_s, NOW_S) == status.OK
        for later_s in range(0, 121 + skew_s):
            assert replay.lookup(b"12345678", NOW_S + skew_s, NOW_S + later_s) == status.E_REPLAY


def test_a_clock_set_back_forgets_nothing():
    replay = ReplayFilter(1024)
    replay.insert(b"12345678", NOW_S, NOW_S)
    for back_s in (1, 240, 241, 3600, BACK_S - 1):
        assert replay.lookup(b"12345678", NOW_S, NOW_S - back_s) == status.E_REPLAY


def test_old_entries_do_not_fill_the_table_for_good():
    replay = ReplayFilter(256)
    now_s = NOW_S
    for _ in range(20):
        for flight in ids(256, str(now_s)):
            assert replay.insert(flight, now_s, now_s) == status.OK
        now_s += KEEP_S + 1
    assert replay.n_full == 0


def test_an_entry_is_found_behind_older_ones_that_expired():
    replay = ReplayFilter(256)
    old, new = ids(100, "old"), ids(100, "new")
    for flight in old:
        assert replay.insert(flight, NOW_S, NOW_S) == status.OK
    for flight in new:
        assert replay.insert(flight, NOW_S + 200, NOW_S + 200) == status.OK
    later_s = NOW_S + KEEP_S + 1
    assert all(replay.lookup(flight, NOW_S, later_s) == status.OK for flight in old)
    assert all(replay.insert(flight, NOW_S, later_s) == status.E_REPLAY for flight in new)


def test_a_full_table_fails_closed_and_counts():
    replay = ReplayFilter(256)
    for flight in ids(256):
        assert replay.insert(flight, NOW_S, NOW_S) == status.OK
    assert replay.insert(b"one more", NOW_S, NOW_S) == status.E_FULL
    assert replay.n_full == 1
    assert all(replay.lookup(flight, NOW_S, NOW_S) == status.E_REPLAY for flight in ids(256))
    assert replay.insert(b"one more", NOW_S, NOW_S + KEEP_S + 1) == status.OK


def test_a_table_of_the_default_size_takes_three_quarters_without_a_refusal():
    replay = ReplayFilter()
    n = 3 * 2**18 // 4
    assert replay.insert_all(fixed_bytes("many", 8 * n), NOW_S, NOW_S) == n
    assert replay.insert_all(fixed_bytes("many", 8 * n), NOW_S, NOW_S + KEEP_S) == 0
    assert replay.n_full == 0


def test_strangers_cannot_aim_at_a_slot():
    """Slots follow from a secret key: the same flights lie elsewhere in another process."""
    full = []
    for key in (b"a" * 16, b"b" * 16):
        replay = ReplayFilter(512, KEEP_S, key)
        codes = [replay.insert(flight, NOW_S, NOW_S) for flight in ids(511)]
        full.append([i for i, code in enumerate(codes) if code == status.E_FULL])
    assert full[0] != full[1]


def test_flights_at_or_below_the_floor_are_refused():
    replay = ReplayFilter(1024)
    replay.set_floor(NOW_S)
    for time_s in (NOW_S, NOW_S - 1, 0):
        assert replay.lookup(b"12345678", time_s, NOW_S) == status.E_CLOCK
        assert replay.insert(b"12345678", time_s, NOW_S) == status.E_CLOCK
    assert replay.insert(b"12345678", NOW_S + 1, NOW_S) == status.OK


def test_the_newest_accepted_time_is_kept():
    replay = ReplayFilter(1024)
    flights = ids(4)
    for flight, time_s in zip(flights, (NOW_S, NOW_S + 100, NOW_S - 5, NOW_S + 99), strict=True):
        replay.insert(flight, time_s, NOW_S)
    replay.insert(flights[0], NOW_S + 110, NOW_S)  # a replay moves nothing
    assert replay.newest_s == NOW_S + 100


def race(replay, flights, clocks_s):
    """Let a thread per clock insert the same flights at the same time; return how many insertions were accepted."""
    start = threading.Barrier(len(clocks_s))
    accepted = []

    def run(now_s):
        start.wait()
        accepted.append(replay.insert_all(flights, NOW_S, now_s))

    threads = [threading.Thread(target=run, args=(now_s,)) for now_s in clocks_s]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(accepted)


def test_threads_that_race_for_the_same_flights_never_both_win():
    """Clocks of workers differ by a second: to one of them the entries from before have just expired."""
    n_flights = 20000
    for number in range(10):
        replay = ReplayFilter(2**16)
        replay.insert_all(fixed_bytes(f"before {number}", 8 * 40000), NOW_S - KEEP_S, NOW_S - KEEP_S)
        flights = fixed_bytes(f"raced {number}", 8 * n_flights)
        # Both may give way to each other, never both win.
        assert n_flights // 2 <= race(replay, flights, (NOW_S, NOW_S + 1)) <= n_flights
        assert replay.insert_all(flights, NOW_S, NOW_S + 1) == 0


@pytest.mark.parametrize("arguments", [(0,), (128,), (1000,), (256, 0), (256, BACK_S), (256, 240, b"short")])
def test_misuse_is_refused(arguments):
    with pytest.raises(ValueError):
        ReplayFilter(*arguments)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 100)), max_size=200))
def test_it_agrees_with_a_dictionary(steps):
    """As long as nothing is refused for want of room, a dictionary of insertion times is the same thing."""
    replay = ReplayFilter(4096)
    model = {}
    now_s = NOW_S
    for number, gap_s in steps:
        now_s += gap_s
        flight = number.to_bytes(8, "big")
        seen = number in model and now_s - model[number] <= KEEP_S
        assert replay.lookup(flight, now_s, now_s) == (status.E_REPLAY if seen else status.OK)
        assert replay.insert(flight, now_s, now_s) == (status.E_REPLAY if seen else status.OK)
        if not seen:
            model[number] = now_s


def test_what_was_seen_can_be_handed_on():
    first, second = ReplayFilter(4096, key=bytes(range(16))), ReplayFilter(4096)
    seen = ids(500)
    for n, flight in enumerate(seen):
        assert first.insert(flight, 1000 + n, 1000 + n) == status.OK  # the first have expired when the last come
    assert second.restore(first.save()) == status.OK
    assert second.newest_s == first.newest_s == 1499
    for flight in seen:
        assert second.insert(flight, 1500, 1499) == first.insert(flight, 1500, 1499)
    assert second.save() == first.save()


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1], lambda raw: raw[:31], lambda raw: raw[:-12] + b"\xff" * 12])
def test_what_is_damaged_is_not_taken_over(spoil):
    first, second = ReplayFilter(4096), ReplayFilter(4096)
    assert first.insert(bytes(8), 1000, 1000) == status.OK
    assert second.restore(spoil(first.save())) < 0
    assert second.save() == ReplayFilter(4096).save()


def test_a_filter_that_keeps_longer_refuses_what_it_may_have_forgotten():
    """A flight taken under a window of 120 s is forgotten after 240; a window of 600 s would take it again."""
    replay = ReplayFilter(1024, keep_s=KEEP_S)
    early, late = ids(2)
    assert replay.insert(early, NOW_S + 120, NOW_S) == status.OK
    assert replay.insert(late, NOW_S + 200, NOW_S + 200) == status.OK
    now_s = NOW_S + 241  # the first one is forgotten
    assert replay.lookup(early, NOW_S + 120, now_s) == status.OK
    replay.widen(1200, now_s)
    assert replay.lookup(early, NOW_S + 120, now_s) == status.E_CLOCK
    assert replay.insert(early, NOW_S + 120, now_s + 1) == status.E_CLOCK
    assert replay.lookup(b"honest  ", NOW_S + 122, now_s) == status.OK
    for later_s in (now_s, NOW_S + 500, NOW_S + 1400):
        assert replay.lookup(late, NOW_S + 200, later_s) == status.E_REPLAY


def test_a_filter_never_keeps_for_a_shorter_time_than_before():
    replay = ReplayFilter(1024, keep_s=KEEP_S)
    flight = ids(1)[0]
    assert replay.insert(flight, NOW_S, NOW_S) == status.OK
    replay.widen(20, NOW_S)
    assert replay.lookup(flight, NOW_S, NOW_S + KEEP_S) == status.E_REPLAY
    assert replay.lookup(b"anybody ", NOW_S - 1000, NOW_S) == status.OK  # nothing is barred
