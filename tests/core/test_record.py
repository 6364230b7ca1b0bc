# SPDX-License-Identifier: MIT
"""Records have the bytes of the text, change keys when it says so, and none that was touched opens (protocol.md 4)."""

import hashlib
import json
import random

import pytest
from core.crypto_help import ROOT, status
from core.endpoint_help import AEGIS, CHACHA, GCM
from hypothesis import given, settings
from hypothesis import strategies as st
from model.record import Direction, Generation

from qg._core.crypto import keystream_block
from qg._core.envelope import rekey_prologue
from qg._core.noise import NoiseHandshake
from qg._core.record import RecordDirection, export_secrets

KNOWN = json.loads((ROOT / "tests" / "kat" / "record.json").read_text())["cases"]
NN = "Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256"
SUITES = [CHACHA, GCM, AEGIS]
TAG_LEN = {CHACHA: 16, GCM: 16, AEGIS: 32}
I2R, R2I = 0, 1
INNER_MAX = 16384
EPOCH_RECORDS = 1 << 16
K1, K2, H = (bytes([number]) * 32 for number in (1, 2, 3))

every_suite = pytest.mark.parametrize("suite", SUITES)


def pair(suite, which=I2R):
    """The two ends of one direction."""
    return RecordDirection(K1, K2, H, which, suite), RecordDirection(K1, K2, H, which, suite)


def model_of(suite, which=I2R):
    generation = Generation(H, K1, K2)
    return Direction(generation.i2r if which == I2R else generation.r2i, suite)


@every_suite
@pytest.mark.parametrize("length", [1, 2, 63, 64, 1024, INNER_MAX - 1, INNER_MAX])
def test_what_is_sealed_opens(suite, length):
    sender, receiver = pair(suite)
    inner = random.Random(length).randbytes(length)
    record = sender.seal(inner)
    assert len(record) == 2 + length + TAG_LEN[suite]
    assert receiver.open(record) == inner


SCRIPTS = st.lists(st.tuples(st.integers(1, 300), st.sampled_from(["", "", "epoch"])), min_size=1, max_size=40)


@settings(max_examples=60)
@given(st.sampled_from(SUITES), st.sampled_from([I2R, R2I]), SCRIPTS)
def test_the_other_implementation_makes_the_same_bytes(suite, which, script):
    sender, receiver = pair(suite, which)
    model = model_of(suite, which)
    for number, (length, mark) in enumerate(script):
        inner = bytes([number]) * length
        record = sender.seal(inner)
        assert record == model.seal(inner)
        assert receiver.open(record) == inner
        model.record_done(mark == "epoch")
        if mark:
            sender.end_epoch()
            receiver.end_epoch()
        assert sender.position == receiver.position == (0, model.epoch, model.seq)


@every_suite
def test_directions_have_keys_of_their_own(suite):
    sender, _ = pair(suite, I2R)
    _, receiver = pair(suite, R2I)
    assert receiver.open(sender.seal(b"reflected")) < 0


@every_suite
def test_every_flipped_bit_is_refused(suite):
    record = RecordDirection(K1, K2, H, I2R, suite).seal(b"one record of this suite")
    for bit in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        receiver = RecordDirection(K1, K2, H, I2R, suite)
        assert receiver.open(bytes(damaged)) in (status.E_TAG, status.E_LENGTH), bit
        assert receiver.position == (0, 0, 0)


@every_suite
def test_a_record_opens_once_and_in_its_place(suite):
    sender, receiver = pair(suite)
    records = [sender.seal(bytes([number])) for number in range(3)]
    assert receiver.open(records[1]) < 0
    assert receiver.open(records[0]) == b"\0"
    assert receiver.open(records[0]) < 0
    assert receiver.open(records[2]) < 0
    assert [receiver.open(record) for record in records[1:]] == [b"\1", b"\2"]


@every_suite
def test_lengths_out_of_range_are_refused_before_the_record_is_here(suite):
    head = RecordDirection(K1, K2, H, I2R, suite).seal(b"x")[:2]
    true_len = 1 + TAG_LEN[suite]
    for wanted in (0, 1, TAG_LEN[suite], INNER_MAX + TAG_LEN[suite] + 1, 0xFFFF):
        forged = (int.from_bytes(head, "big") ^ true_len ^ wanted).to_bytes(2, "big")
        assert RecordDirection(K1, K2, H, I2R, suite).open(forged + bytes(wanted)) == status.E_LENGTH
    for wanted in (true_len, INNER_MAX + TAG_LEN[suite]):
        forged = (int.from_bytes(head, "big") ^ true_len ^ wanted).to_bytes(2, "big")
        assert RecordDirection(K1, K2, H, I2R, suite).open(forged + bytes(wanted)) == status.E_TAG


@every_suite
def test_lengths_hide_behind_the_key_stream(suite):
    """Record i uses bytes 2i and 2i + 1 of the stream of the length key; an epoch starts it again."""
    sender = RecordDirection(K1, K2, H, I2R, suite)
    model = model_of(suite)
    for _ in range(2):
        stream = b"".join(keystream_block(model.len_key, counter) for counter in range(4))
        for number in range(100):
            record = sender.seal(bytes(number + 1))
            masked = int.from_bytes(record[:2], "big") ^ (number + 1 + TAG_LEN[suite])
            assert masked.to_bytes(2, "big") == stream[2 * number : 2 * number + 2]
            model.record_done(False)
        sender.end_epoch()
        model.epoch_advance()


# Epochs and generations


def roll(*directions, until):
    """Seal or open records until that many have gone."""
    sender, receivers = directions[0], directions[1:]
    while sender.position[2] < until:
        record = sender.seal(b"\0")
        for receiver in receivers:
            assert receiver.open(record) == b"\0"


@every_suite
def test_the_epoch_ends_after_65536_records(suite):
    sender, receiver = pair(suite)
    roll(sender, receiver, until=EPOCH_RECORDS - 1)
    assert sender.position == (0, 0, EPOCH_RECORDS - 1)
    roll(sender, receiver, until=EPOCH_RECORDS)
    assert sender.position == receiver.position == (0, 1, EPOCH_RECORDS)
    assert receiver.open(sender.seal(b"next epoch")) == b"next epoch"


def test_a_record_that_ends_the_epoch_by_number_and_by_frame_ends_it_once():
    sender, receiver = pair(CHACHA)
    roll(sender, receiver, until=EPOCH_RECORDS)
    sender.end_epoch()
    receiver.end_epoch()
    assert sender.position == receiver.position == (0, 1, EPOCH_RECORDS)


def test_an_epoch_that_began_late_still_ends_by_number():
    sender, receiver = pair(CHACHA)
    roll(sender, receiver, until=10)
    sender.end_epoch()
    receiver.end_epoch()
    roll(sender, receiver, until=EPOCH_RECORDS)
    assert sender.position == receiver.position == (0, 2, EPOCH_RECORDS)


@every_suite
def test_old_keys_open_nothing_of_the_next_epoch_or_generation(suite):
    for step in ("end_epoch", "renew"):
        sender, receiver = pair(suite)
        roll(sender, receiver, until=1)
        sender.end_epoch() if step == "end_epoch" else sender.renew(K2, K1, H)
        assert receiver.open(sender.seal(b"new")) < 0


@every_suite
def test_a_generation_starts_at_zero_with_the_same_suite(suite):
    sender, receiver = pair(suite)
    roll(sender, receiver, until=3)
    for direction in (sender, receiver):
        direction.end_epoch()
        direction.renew(K2, K1, bytes(32))
        assert direction.position == (1, 0, 0)
    record = sender.seal(b"new")
    assert record == Direction(Generation(bytes(32), K2, K1).i2r, suite).seal(b"new")
    assert receiver.open(record) == b"new"


def test_no_two_records_share_key_and_nonce():
    """Equal plaintexts never give equal ciphertexts, over epochs and generations."""
    sender, seen = RecordDirection(K1, K2, H, I2R, CHACHA), set()
    for number in range(300):
        seen.add(sender.seal(bytes(32))[2:])
        if number % 50 == 49:
            sender.end_epoch()
        if number % 100 == 99:
            sender.renew(K1, K2, hashlib.sha256(bytes([number // 2])).digest())
    assert len(seen) == 300


@pytest.mark.parametrize("suite", [0, 3, 8])
def test_an_unknown_suite_is_refused(suite):
    with pytest.raises(ValueError, match="not usable"):
        RecordDirection(K1, K2, H, I2R, suite)


# Known answers


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case["name"])
class TestKnownAnswers:
    @pytest.fixture
    def directions(self, case):
        secrets = [bytes.fromhex(case[name]) for name in ("k1", "k2", "hash")]
        return [RecordDirection(*secrets, which, case["suite"]) for which in (I2R, I2R, R2I)]

    def test_script(self, case, directions):
        sender, receiver, _ = directions
        for entry in case["script"]:
            inner = bytes.fromhex(entry["inner"])
            assert sender.position == (0, entry["epoch_before"], entry["seq"])
            record = sender.seal(inner)
            assert record.hex() == entry["record"]
            assert receiver.open(record) == inner
            if entry["epoch"]:
                sender.end_epoch()
                receiver.end_epoch()

    def test_rollover(self, case, directions):
        sender = directions[0]
        roll(sender, until=case["rollover"][0]["seq"])
        for entry in case["rollover"]:
            assert sender.position == (0, entry["epoch_before"], entry["seq"])
            assert sender.seal(bytes(64)).hex() == entry["record"]

    def test_secrets(self, case):
        made = export_secrets(*(bytes.fromhex(case[name]) for name in ("k1", "k2", "hash")))
        assert [secret.hex() for secret in made] == [case["rekey_psk"], case["exporter"]]

    def test_rekey(self, case, directions):
        """NNhfs+psk0 with the draws of the file, then the first records of generation 1."""
        known = case["rekey"]
        psk, _ = export_secrets(*(bytes.fromhex(case[name]) for name in ("k1", "k2", "hash")))
        sides = []
        for role in ("initiator", "responder"):
            script = b"".join(bytes.fromhex(draw["value"]) for draw in known[role + "_draws"])
            prologue = rekey_prologue(1, bytes.fromhex(case["hash"]), 0)
            sides.append(NoiseHandshake(NN, role, prologue, None, None, (psk,), script))
        assert sides[0].write_message(bytes(24)).hex() == known["rekey1"]
        assert sides[1].read_message(bytes.fromhex(known["rekey1"])) == bytes(24)
        assert sides[1].write_message(bytes(24)).hex() == known["rekey2"]
        k1, k2, digest = sides[1].split()
        assert digest.hex() == known["hash"]
        inner = bytes.fromhex(known["inner"])
        for direction, name in ((directions[0], "record_i2r"), (directions[2], "record_r2i")):
            direction.renew(k1.export_key(), k2.export_key(), digest)
            assert direction.seal(inner).hex() == known[name]
