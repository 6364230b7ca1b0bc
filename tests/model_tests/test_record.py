# SPDX-License-Identifier: MIT
"""Records: lengths, epochs, generations and padding."""

import pytest
from model.errors import BadRecord
from model.primitives import TAG_LEN
from model.record import INNER_MAX, Direction, pad_light, padded_len

SUITES = sorted(TAG_LEN)
SECRET = bytes(range(32))


def open_record(direction, record):
    length = direction.length_unmask(record[:2])
    assert length == len(record) - 2
    return direction.open(record[2:])


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_sealed_opens_over_several_epochs(suite):
    sender, receiver = Direction(SECRET, suite), Direction(SECRET, suite)
    for i in range(200):
        inner = bytes([i]) * (1 + 83 * i % INNER_MAX)
        assert open_record(receiver, sender.seal(inner)) == inner
        for direction in (sender, receiver):
            direction.record_done(i % 50 == 49)
    assert (sender.seq, sender.epoch, sender.record_idx) == (200, 4, 0)
    assert sender.secret == receiver.secret != SECRET


def test_the_epoch_advances_once_after_65536_records_even_with_an_epoch_frame_in_the_last():
    for held_epoch in (False, True):
        direction = Direction(SECRET, 1)
        direction.seq = direction.record_idx = 65535
        direction.record_done(held_epoch)
        assert (direction.seq, direction.epoch, direction.record_idx) == (65536, 1, 0)


@pytest.mark.parametrize("suite", SUITES)
def test_every_flipped_bit_of_a_record_is_a_bad_record_or_waits_for_more(suite):
    sender = Direction(SECRET, suite)
    record = sender.seal(bytes(64))
    for bit in range(8 * len(record)):
        wrong = bytearray(record)
        wrong[bit // 8] ^= 1 << bit % 8
        receiver = Direction(SECRET, suite)
        with pytest.raises(BadRecord):
            length = receiver.length_unmask(bytes(wrong[:2]))
            receiver.open(bytes(wrong[2:]).ljust(length, b"\0")[:length])


@pytest.mark.parametrize("suite", SUITES)
def test_only_lengths_of_1_to_16384_inner_bytes_are_taken(suite):
    tag_len = TAG_LEN[suite]
    receiver = Direction(SECRET, suite)
    mask = int.from_bytes(receiver.length_mask(), "big")
    for length in (0, tag_len, tag_len + INNER_MAX + 1, 65535):
        with pytest.raises(BadRecord):
            receiver.length_unmask((length ^ mask).to_bytes(2, "big"))
    for length in (tag_len + 1, tag_len + INNER_MAX):
        assert receiver.length_unmask((length ^ mask).to_bytes(2, "big")) == length


def test_light_padding_wastes_at_most_an_eighth_above_1024():
    assert [pad_light(n) for n in (0, 64, 65, 1024)] == [64, 64, 128, 1024]
    for n in range(1025, INNER_MAX + 1):
        padded = pad_light(n)
        assert n <= padded <= min(INNER_MAX, n * 1.12)
        assert pad_light(padded) == padded


def test_blocks_are_whole_blocks():
    assert [padded_len(2, n) for n in (0, 1024, 1025)] == [1024, 1024, 2048]
    assert [padded_len(3, n) for n in (0, 1024, 16384)] == [16384] * 3
    assert [padded_len(0, n) for n in (0, 1, 77)] == [1, 1, 77]
