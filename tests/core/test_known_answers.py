# SPDX-License-Identifier: MIT
"""Keys, identities, address records and whole handshakes have the bytes that an independent implementation computed.

`tests/kat/*.json` was written by a pure-Python implementation that shares no code with the core.
"""

import hashlib
import json
import uuid

import pytest
from core.crypto_help import ROOT, status

from qg._core import cert, crypto, envelope
from qg._core.envelope import EnvelopeKeys
from qg._core.noise import NoiseHandshake

XK, XX, NK = 1, 2, 3
REPLY, M3 = 4, 5
NAMES = {
    XK: "Noise_XKhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256",
    XX: "Noise_XXhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256",
    NK: "Noise_NKhfs+psk2_25519+MLKEM768_ChaChaPoly_SHA256",
}
STREAM_PAD_MAX, PIPE_FLIGHT_LEN, OVERHEAD = 1023, 2048, 96


def answers(name, key):
    return json.loads((ROOT / "tests" / "kat" / name).read_text("utf-8"))[key]


def secret_of(text):
    """The open network stands for 32 zero bytes, and both ways of naming it are the same."""
    raw = bytes.fromhex(text)
    return None if raw == bytes(32) else raw


NETWORKS = answers("identity.json", "network")
IDENTITIES = answers("identity.json", "identities")
RECORDS = [bytes.fromhex(each["record"]) for each in answers("identity.json", "records")]
HANDSHAKES = answers("handshake.json", "cases")


@pytest.mark.parametrize("network", NETWORKS)
def test_network_and_envelope_keys(network):
    secret = secret_of(network["secret"])
    assert [key.hex() for key in envelope.network_keys(secret)] == [network["nx"], network["psk"]]
    known = EnvelopeKeys.known(bytes.fromhex(network["link_public"]), secret)
    for made, expected in ((known, network["known"]), (EnvelopeKeys.open_mode(secret), network["open"])):
        assert [key.hex() for key in made.export_keys()] == list(expected.values())[:3]  # the others are for UDP


@pytest.mark.parametrize("identity", IDENTITIES)
def test_identities_and_certificates(identity):
    seed, link_secret = bytes.fromhex(identity["ed25519_seed"]), bytes.fromhex(identity["link_secret"])
    link_key = crypto.x25519_public_key(link_secret)
    peer_id = cert.peer_id_bytes(crypto.ed25519_public_key(seed))
    assert crypto.ed25519_public_key(seed).hex() == identity["ed25519_public"]
    assert link_key.hex() == identity["link_public"]
    assert peer_id.hex() == identity["peer_id"]
    assert str(uuid.UUID(bytes=cert.uuid_bytes(peer_id))) == identity["uuid"]
    assert cert.cert_bytes(seed, link_key, identity["not_after"]).hex() == identity["certificate"]
    assert cert.cert_fields(bytes.fromhex(identity["certificate"]), link_key, 0)[0] == peer_id


@pytest.mark.parametrize("idx", range(len(RECORDS)))
def test_address_records(idx):
    seed = bytes.fromhex(IDENTITIES[idx]["ed25519_seed"])
    record = RECORDS[idx]
    now_s = cert.peer_record_head(record)[1]
    peer_id, link_key, flags, *terms, addresses, issued_s, not_after_s = cert.peer_record_fields(record, now_s, 0)
    assert peer_id.hex() == IDENTITIES[idx]["peer_id"]
    certificate, addresses_raw = record[65:173], record[183:-80]
    made = cert.peer_record_bytes(
        seed, peer_id, link_key, certificate, flags, *terms, len(addresses), addresses_raw, issued_s, not_after_s
    )
    assert made == RECORDS[idx]


class Draws:
    """The randomness of one side, by purpose and in order."""

    def __init__(self, draws):
        self.draws = [(each["purpose"], bytes.fromhex(each["value"])) for each in draws]

    def take(self, purpose):
        """Remove and return the next value of a purpose, or None."""
        for idx, (name, value) in enumerate(self.draws):
            if name == purpose:
                del self.draws[idx]
                return value
        return None

    def script(self):
        """Take what the Noise engine draws, in its order."""
        purposes = ("ephemeral", "kem seed", "encaps randomness")
        return b"".join(value for value in map(self.take, purposes) if value)


def identity_of(peer_id):
    return next((each for each in IDENTITIES if each["peer_id"] == peer_id), None)


def side_of(case, role, draws):
    """Make one side of the handshake of a case."""
    kind = case["kind"]
    own, other = (
        identity_of(case[side + "_peer_id"]) for side in (role, "initiator" if role == "responder" else "responder")
    )
    _, psk = envelope.network_keys(secret_of(case["network_secret"]))
    is_anonymous = kind == NK and role == "initiator"
    return NoiseHandshake(
        NAMES[kind],
        role,
        envelope.prologue(kind, case["envelope_time"]),
        None if is_anonymous else bytes.fromhex(own["link_secret"]),
        bytes.fromhex(other["link_public"]) if role == "initiator" and kind != XX else None,
        (psk,),
        draws.script(),
    )


def keys_of(case):
    secret = secret_of(case["network_secret"])
    if case["kind"] == XX:
        return EnvelopeKeys.open_mode(secret)
    return EnvelopeKeys.known(bytes.fromhex(identity_of(case["responder_peer_id"])["link_public"]), secret)


def pad_len_of(case, draws, message):
    if case["carrier"] == "pipe":
        return PIPE_FLIGHT_LEN - OVERHEAD - len(message)
    return int.from_bytes(draws.take("flight padding"), "big") % (STREAM_PAD_MAX + 1)


@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: case["name"])
def test_whole_handshakes(case):
    draws = [Draws(case["initiator_draws"]), Draws(case["responder_draws"])]
    sides = [side_of(case, "initiator", draws[0]), side_of(case, "responder", draws[1])]
    flight_id = int.from_bytes(draws[0].take("flight id"), "big")
    keys = keys_of(case)
    reply = keys.reply(hashlib.sha256(bytes.fromhex(case["noise"][0]["message"])).digest())
    for idx, (expected, flight) in enumerate(zip(case["noise"], case["flights"], strict=True)):
        writer, reader, drawn = sides[idx % 2], sides[1 - idx % 2], draws[idx % 2]
        message = writer.write_message(bytes.fromhex(expected["payload"]))
        assert message.hex() == expected["message"], idx
        kind = (case["kind"], REPLY, M3)[idx]
        used = reply if idx == 1 else keys
        pad_len = pad_len_of(case, drawn, message)
        made = used.seal(drawn.take("flight nonce"), kind, flight_id, case["envelope_time"], message, pad_len)
        assert made.hex() == flight, idx
        assert used.check(made, 120, case["responder_time"]) == status.OK
        assert reader.read_message(used.open(made)).hex() == expected["payload"]
    for side in sides:
        k1, k2, digest = side.split()
        assert (k1.export_key().hex(), k2.export_key().hex(), digest.hex()) == (case["k1"], case["k2"], case["hash"])


@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: case["name"])
def test_the_payloads_of_handshakes(case):
    draws = [Draws(case["initiator_draws"]), Draws(case["responder_draws"])]
    payloads = [bytes.fromhex(each["payload"]) for each in case["noise"]]
    suites, kems, features, *versions = envelope.p1_fields(payloads[0])
    grease = draws[0].take("grease")
    assert envelope.p1_bytes(suites, kems, features, *versions, grease) == payloads[0]
    suite, kem, chosen, cid, time_s, certificate = envelope.p2_fields(payloads[1], suites, kems, features)
    assert (suite, cid, time_s) == (case["suite"], draws[1].take("cid"), case["responder_time"])
    assert certificate.hex() == identity_of(case["responder_peer_id"])["certificate"]
    assert crypto.suite_chosen(suites, 7) == suite
    assert envelope.p2_bytes(suite, kem, chosen, cid, time_s, certificate) == payloads[1]
    if len(payloads) == 3:
        responder_id = bytes.fromhex(case["responder_peer_id"])
        cid, echo, to_peer_id, certificate = envelope.p3_fields(payloads[2], chosen, responder_id)
        assert (cid, to_peer_id) == (draws[0].take("cid"), responder_id)
        assert certificate.hex() == identity_of(case["initiator_peer_id"])["certificate"]
        assert envelope.p3_bytes(cid, echo, to_peer_id, certificate) == payloads[2]
