# SPDX-License-Identifier: MIT
"""Handshakes: live against two other implementations in both roles, and what a broken or misused one does."""

import itertools

import pytest
from core.crypto_help import fixed_bytes, status

from qg._core import crypto
from qg._core.noise import NoiseCipher, NoiseHandshake, protocol_needs

ONE_WAY = "N K X".split()
FUNDAMENTAL = "NN NK NX KN KK KX XN XK XX IN IK IX".split()
DEFERRED = ("NK1 NX1 X1N X1K XK1 X1K1 X1X XX1 X1X1 K1N K1K KK1 K1K1 K1X KX1 K1X1 I1N I1K IK1 I1K1 I1X IX1 I1X1").split()
WIRE = [
    "Noise_XKhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256",
    "Noise_XXhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256",
    "Noise_NKhfs+psk2_25519+MLKEM768_ChaChaPoly_SHA256",
    "Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256",
]
PROLOGUE = b"qg-v1\0\0\0\1prologue"
STATIC = {role: fixed_bytes(f"static of the {role}", 32) for role in ("initiator", "responder")}
OTHER = {"initiator": "responder", "responder": "initiator"}


def protocols(bases, ciphers=("ChaChaPoly", "AESGCM")):
    """List full names: each base alone, with every single psk, with all it can have, and with all but psk1."""
    names = []
    for base, cipher in itertools.product(bases, ciphers):
        if cipher == "AESGCM" and not crypto.suites() & 2:
            continue
        modifiers = [
            f"psk{i}" for i in range(5) if protocol_needs(f"Noise_{base}psk{i}_25519_{cipher}_SHA256", "initiator")
        ]
        assert len(modifiers) >= 2
        several = {"+".join(modifiers), "+".join(each for each in modifiers if each != "psk1")} - {"psk0"}
        names += [f"Noise_{base}{each}_25519_{cipher}_SHA256" for each in ["", *modifiers, *sorted(several)]]
    return names


def psks_for(name):
    return tuple(fixed_bytes(f"psk {i}", 32) for i in range(protocol_needs(name, "initiator")[2]))


def keys_for(name, role):
    """Return the keys of one side as keyword arguments."""
    needs_static, needs_remote, _ = protocol_needs(name, role)
    return {
        "static": STATIC[role] if needs_static else None,
        "remote_static": crypto.x25519_public_key(STATIC[OTHER[role]]) if needs_remote else None,
        "psks": psks_for(name),
    }


class Ours:
    """Our engine under the interface of the adapters below."""

    def __init__(self, name, role):
        self.role = role
        self.handshake = NoiseHandshake(name, role, prologue=PROLOGUE, **keys_for(name, role))
        self.write, self.read = self.handshake.write_message, self.handshake.read_message

    def finish(self):
        to_responder, to_initiator, self.hash = self.handshake.split()
        ciphers = (to_responder, to_initiator) if self.role == "initiator" else (to_initiator, to_responder)
        self.send, self.receive = ciphers
        self.seal, self.open = self.send.seal, self.receive.open


class NoiseProtocolPeer:
    """noiseprotocol (plizonczyk/noiseprotocol)."""

    names = protocols(ONE_WAY + FUNDAMENTAL)

    def __init__(self, name, role):
        connection = pytest.importorskip("noise.connection")
        self.connection = connection.NoiseConnection.from_name(name.encode())
        keys = keys_for(name, role)
        if role == "initiator":
            self.connection.set_as_initiator()
        else:
            self.connection.set_as_responder()
        self.connection.set_prologue(PROLOGUE)
        if keys["static"]:
            self.connection.set_keypair_from_private_bytes(connection.Keypair.STATIC, keys["static"])
        if keys["remote_static"]:
            self.connection.set_keypair_from_public_bytes(connection.Keypair.REMOTE_STATIC, keys["remote_static"])
        if keys["psks"]:
            self.connection.set_psks(psks=list(keys["psks"]))
        self.connection.start_handshake()

    def write(self, payload):
        return bytes(self.connection.write_message(payload))

    def read(self, message):
        return bytes(self.connection.read_message(message))

    def finish(self):
        self.hash = self.connection.get_handshake_hash()
        self.seal, self.open = self.connection.encrypt, self.connection.decrypt


class DissononcePeer:
    """dissononce (tgalal/dissononce). It takes no two psks in one message."""

    names = tuple(name for name in protocols(ONE_WAY + FUNDAMENTAL + DEFERRED) if "psk0+psk1" not in name)

    def __init__(self, name, role):
        pytest.importorskip("dissononce")
        from dissononce.cipher.aesgcm import AESGCMCipher
        from dissononce.cipher.chachapoly import ChaChaPolyCipher
        from dissononce.dh.x25519.private import PrivateKey
        from dissononce.dh.x25519.public import PublicKey
        from dissononce.dh.x25519.x25519 import X25519DH
        from dissononce.hash.sha256 import SHA256Hash
        from dissononce.processing.impl.cipherstate import CipherState
        from dissononce.processing.impl.handshakestate import HandshakeState
        from dissononce.processing.impl.symmetricstate import SymmetricState

        self.role = role
        cipher = AESGCMCipher() if "_AESGCM_" in name else ChaChaPolyCipher()
        self.symmetric = SymmetricState(CipherState(cipher), SHA256Hash())
        self.state = HandshakeState(self.symmetric, X25519DH())
        keys = keys_for(name, role)
        self.state.initialize(
            self.pattern(name),
            role == "initiator",
            PROLOGUE,
            s=X25519DH().generate_keypair(PrivateKey(keys["static"])) if keys["static"] else None,
            rs=PublicKey(keys["remote_static"]) if keys["remote_static"] else None,
            psks=list(keys["psks"]),
        )

    @staticmethod
    def pattern(name):
        import importlib

        from dissononce.processing.modifiers.psk import PSKPatternModifier

        text = name.split("_")[1]
        base = text.split("psk")[0]
        kind = "oneway" if base in ONE_WAY else "interactive" if base in FUNDAMENTAL else "deferred"
        module = importlib.import_module(f"dissononce.processing.handshakepatterns.{kind}.{base}")
        pattern = getattr(module, base + "HandshakePattern")()
        for modifier in text[len(base) :].split("+") if text != base else ():
            pattern = PSKPatternModifier(int(modifier[3:])).modify(pattern)
        return pattern

    def write(self, payload):
        buffer = bytearray()
        self.ciphers = self.state.write_message(payload, buffer)
        return bytes(buffer)

    def read(self, message):
        buffer = bytearray()
        self.ciphers = self.state.read_message(message, buffer)
        return bytes(buffer)

    def finish(self):
        self.hash = self.symmetric.get_handshake_hash()
        send, receive = self.ciphers if self.role == "initiator" else self.ciphers[::-1]
        self.seal = lambda text: send.encrypt_with_ad(b"", text)
        self.open = lambda text: receive.decrypt_with_ad(b"", text)


def meet(name, initiator, responder):
    """Run a whole handshake with payloads, then messages both ways; both hashes must be equal."""
    n_messages = NoiseHandshake(name, "initiator", **keys_for(name, "initiator")).n_messages
    for idx in range(n_messages):
        writer, reader = (initiator, responder) if idx % 2 == 0 else (responder, initiator)
        payload = fixed_bytes(f"payload {idx}", 7 * idx)
        assert reader.read(writer.write(payload)) == payload, (name, idx)
    initiator.finish()
    responder.finish()
    assert initiator.hash == responder.hash, name
    for idx in range(3):
        text = fixed_bytes(f"text {idx}", 50 * idx)
        assert responder.open(initiator.seal(text)) == text, name
        if n_messages > 1:
            assert initiator.open(responder.seal(text)) == text, name


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("peer", [NoiseProtocolPeer, DissononcePeer])
def test_every_pattern_that_a_peer_knows_works_live(peer, role):
    for name in peer.names:
        initiator, responder = (Ours, peer) if role == "initiator" else (peer, Ours)
        meet(name, initiator(name, "initiator"), responder(name, "responder"))
    assert len(peer.names) >= 160 // (1 if crypto.suites() & 2 else 2)


@pytest.mark.parametrize("name", [name for base in ONE_WAY + FUNDAMENTAL + DEFERRED for name in protocols([base])[:2]])
def test_every_pattern_works_between_two_of_us(name):
    meet(name, Ours(name, "initiator"), Ours(name, "responder"))


@pytest.mark.parametrize("base", [b for b in FUNDAMENTAL + DEFERRED])
def test_hfs_works_with_every_interactive_pattern(base):
    name = f"Noise_{base}hfs+psk2_25519+MLKEM768_ChaChaPoly_SHA256"
    meet(name, Ours(name, "initiator"), Ours(name, "responder"))


def test_rekey_agrees_with_a_peer_and_keeps_the_nonce():
    name = "Noise_XXpsk3_25519_ChaChaPoly_SHA256"
    ours, theirs = Ours(name, "initiator"), NoiseProtocolPeer(name, "responder")
    meet(name, ours, theirs)
    ours.send.rekey()
    theirs.connection.rekey_inbound_cipher()
    assert theirs.open(ours.seal(b"after")) == b"after"
    ours.receive.rekey()
    theirs.connection.rekey_outbound_cipher()
    assert ours.open(theirs.seal(b"after")) == b"after"


# Sizes and token order of the four wire patterns: protocol.md 3.2


@pytest.mark.parametrize(
    ("name", "lengths"),
    list(zip(WIRE, [(1248, 1152, 64), (1248, 1200, 64), (1248, 1152), (1248, 1152)], strict=True)),
)
def test_wire_patterns_have_the_sizes_of_the_protocol(name, lengths):
    sides = [NoiseHandshake(name, role, **keys_for(name, role)) for role in ("initiator", "responder")]
    for idx, length in enumerate(lengths):
        writer, reader = sides[idx % 2], sides[1 - idx % 2]
        assert writer.message_len(0) == reader.message_len(0) == length
        assert writer.message_len(100) == length + 100
        message = writer.write_message()
        assert len(message) == length
        assert reader.read_message(message) == b""
    assert all(side.is_done for side in sides)


@pytest.mark.parametrize("name", WIRE)
def test_every_side_of_a_wire_pattern_learns_the_other(name):
    ours = {role: Ours(name, role) for role in STATIC}
    meet(name, ours["initiator"], ours["responder"])
    for role, side in ours.items():
        has_other = protocol_needs(name, OTHER[role])[0]
        expected = crypto.x25519_public_key(STATIC[OTHER[role]]) if has_other else None
        assert side.handshake.remote_static == expected


# What is different must not agree


@pytest.mark.parametrize("name", WIRE)
@pytest.mark.parametrize("what", ["prologue", "psk"])
def test_another_prologue_or_psk_fails_the_handshake(name, what):
    keys = {role: keys_for(name, role) for role in STATIC}
    prologue = PROLOGUE
    if what == "psk":
        keys["responder"]["psks"] = (fixed_bytes("another psk", 32),)
    else:
        prologue += b"x"
    initiator = NoiseHandshake(name, "initiator", prologue=PROLOGUE, **keys["initiator"])
    responder = NoiseHandshake(name, "responder", prologue=prologue, **keys["responder"])
    outcome = b""
    for idx in range(initiator.n_messages):
        writer, reader = (initiator, responder) if idx % 2 == 0 else (responder, initiator)
        outcome = reader.read_message(writer.write_message())
        if isinstance(outcome, int):
            break
    assert outcome == status.E_TAG
    assert reader.is_wiped


def test_a_wrong_responder_key_fails_at_the_first_message():
    name = WIRE[0]
    keys = keys_for(name, "initiator")
    keys["remote_static"] = crypto.x25519_public_key(fixed_bytes("somebody else", 32))
    initiator = NoiseHandshake(name, "initiator", **keys)
    responder = NoiseHandshake(name, "responder", **keys_for(name, "responder"))
    assert responder.read_message(initiator.write_message()) == status.E_TAG


def replayed(name, upto):
    """Return (reader, message): a handshake brought to message `upto` with fixed randomness, not yet read."""
    sides = [
        NoiseHandshake(name, role, prologue=PROLOGUE, random=fixed_bytes(role, 256), **keys_for(name, role))
        for role in ("initiator", "responder")
    ]
    for idx in range(upto):
        sides[1 - idx % 2].read_message(sides[idx % 2].write_message())
    return sides[1 - upto % 2], sides[upto % 2].write_message(b"payload")


@pytest.mark.parametrize(("name", "upto"), [(name, idx) for name in WIRE for idx in range(3 if "_X" in name else 2)])
def test_no_flipped_bit_is_accepted(name, upto):
    """One bit of each byte here; every bit of each flight is flipped at the envelope (test_envelope.py)."""
    _, message = replayed(name, upto)
    is_first_of_nn = "_NN" in name and upto == 0
    for off in range(0, len(message), 7 if len(message) > 300 else 1):
        reader, same = replayed(name, upto)
        assert same == message
        changed = bytearray(message)
        changed[off] ^= 1 << (off % 8)
        outcome = reader.read_message(bytes(changed))
        assert outcome in (status.E_TAG, status.E_KEM), (off, outcome)
        assert not is_first_of_nn or outcome == status.E_TAG
        assert reader.is_wiped


@pytest.mark.parametrize("change", [-1, -17, -1000, -1279, 1, 40000, 70000])
def test_a_message_of_another_length_is_refused(change):
    reader, message = replayed(WIRE[0], 0)
    changed = message[:change] if change < 0 else message + bytes(change)
    expected = {-1: status.E_TAG, 70000: status.E_LONG}.get(change, status.E_SHORT if change < 0 else status.E_TAG)
    assert reader.read_message(changed) == expected
    assert reader.is_wiped
    assert reader.read_message(message) == status.E_STATE


def test_an_all_zero_dh_result_ends_the_handshake():
    name = "Noise_NN_25519_ChaChaPoly_SHA256"
    responder = NoiseHandshake(name, "responder")
    assert responder.read_message(bytes(32)) == b""
    assert responder.write_message() == status.E_DH
    assert responder.is_wiped
    assert responder.split() == status.E_STATE


def test_a_kem_key_that_is_not_reduced_is_refused():
    """FIPS 203 7.2: each 12-bit coefficient of the key is below 3329."""
    name = "Noise_NNhfs_25519+MLKEM768_ChaChaPoly_SHA256"
    message = NoiseHandshake(name, "initiator").write_message()
    responder = NoiseHandshake(name, "responder")
    assert responder.read_message(message[:32] + b"\xff\xff\xff" + message[35:]) == b""
    assert responder.write_message() == status.E_KEM
    assert responder.is_wiped


# Misuse changes nothing


def test_the_wrong_turn_is_refused_and_changes_nothing():
    name = WIRE[0]
    initiator, responder = (NoiseHandshake(name, role, **keys_for(name, role)) for role in STATIC)
    assert responder.write_message() == status.E_STATE
    assert initiator.read_message(bytes(1248)) == status.E_STATE
    assert initiator.split() == status.E_STATE
    first = initiator.write_message()
    assert initiator.write_message() == status.E_STATE
    assert responder.read_message(first) == b""
    assert responder.read_message(first) == status.E_STATE
    assert initiator.read_message(responder.write_message()) == b""
    assert responder.read_message(initiator.write_message()) == b""
    assert initiator.is_done
    assert initiator.write_message() == status.E_STATE
    assert initiator.split()[2] == responder.split()[2]
    assert initiator.split() == status.E_STATE


def test_a_payload_that_makes_the_message_too_long_changes_nothing():
    name = "Noise_NN_25519_ChaChaPoly_SHA256"
    initiator, responder = NoiseHandshake(name, "initiator"), NoiseHandshake(name, "responder")
    assert initiator.write_message(bytes(65535 - 31)) == status.E_LONG
    message = initiator.write_message(bytes(65535 - 32))
    assert len(message) == 65535
    assert responder.read_message(message) == bytes(65535 - 32)


@pytest.mark.parametrize("missing", ["static", "remote_static", "psks"])
def test_a_missing_key_is_refused_before_the_first_message(missing):
    keys = {**keys_for(WIRE[0], "initiator"), missing: () if missing == "psks" else None}
    assert NoiseHandshake(WIRE[0], "initiator", **keys).write_message() == status.E_ARGUMENT


@pytest.mark.parametrize(
    "extra",
    [
        {"static": bytes(32)},
        {"remote_static": bytes(32)},
        {"psks": (bytes(32),)},
        {"static": bytes(31)},
        {"random": b"x"},
    ],
)
def test_keys_that_the_pattern_does_not_take_are_refused(extra):
    with pytest.raises(ValueError):
        NoiseHandshake("Noise_NN_25519_ChaChaPoly_SHA256", "initiator", **extra).write_message()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Noise",
        "Noise_",
        "Noise_XK",
        "Noise_XK_25519_ChaChaPoly_SHA256_",
        "Noise_XK_25519_ChaChaPoly_SHA256x",
        "Noise_XK_25519_ChaChaPoly_SHA512",
        "Noise_XK_25519_ChaCha_SHA256",
        "Noise_XK_448_ChaChaPoly_SHA256",
        "Noise_XKfallback_25519_ChaChaPoly_SHA256",
        "Noise_ZZ_25519_ChaChaPoly_SHA256",
        "Noise_XK11_25519_ChaChaPoly_SHA256",
        "Noise__25519_ChaChaPoly_SHA256",
        "Noise_XKpsk4_25519_ChaChaPoly_SHA256",
        "Noise_NNpsk3_25519_ChaChaPoly_SHA256",
        "Noise_Npsk2_25519_ChaChaPoly_SHA256",
        "Noise_XKpsk_25519_ChaChaPoly_SHA256",
        "Noise_XKpsk+_25519_ChaChaPoly_SHA256",
        "Noise_XKpsk3+psk3_25519_ChaChaPoly_SHA256",
        "Noise_XKpsk3+psk0_25519_ChaChaPoly_SHA256",
        "Noise_XKpsk3+hfs_25519+MLKEM768_ChaChaPoly_SHA256",
        "Noise_XKhfs_25519_ChaChaPoly_SHA256",
        "Noise_XKhfs_25519+Kyber_ChaChaPoly_SHA256",
        "Noise_XKhfspsk3_25519+MLKEM768_ChaChaPoly_SHA256",
        "Noise_XK_25519+MLKEM768_ChaChaPoly_SHA256",
        "Noise_Nhfs_25519+MLKEM768_ChaChaPoly_SHA256",
        "noise_XK_25519_ChaChaPoly_SHA256",
        "Noise_XK_25519_ChaChaPoly_SHA256\0",
        "Noise_XKpsk3",
        "Noise_XKpsk",
        "Noise_é_25519_ChaChaPoly_SHA256",
    ],
)
def test_names_outside_the_tables_are_refused(name):
    assert protocol_needs(name, "initiator") is None
    with pytest.raises(ValueError, match="not a Noise protocol"):
        NoiseHandshake(name, "initiator")


# Ciphers


def test_a_forged_transport_message_does_not_advance_the_nonce():
    sender, receiver = NoiseCipher(1, bytes(32)), NoiseCipher(1, bytes(32))
    sealed = sender.seal(b"text", b"ad")
    assert receiver.open(sealed, b"other ad") == status.E_TAG
    assert receiver.open(sealed[:-1], b"ad") == status.E_TAG
    assert receiver.open(b"short", b"ad") == status.E_SHORT
    assert receiver.open(sealed, b"ad") == b"text"
    assert receiver.open(sealed, b"ad") == status.E_TAG


@pytest.mark.parametrize("name", WIRE)
def test_secrets_are_wiped_by_split(name):
    sides = {role: Ours(name, role) for role in STATIC}
    assert not sides["initiator"].handshake.is_wiped
    meet(name, sides["initiator"], sides["responder"])
    assert all(side.handshake.is_wiped for side in sides.values())


def test_handshakes_and_ciphers_are_not_serialised_and_show_no_secret():
    import copy
    import pickle

    for value in (NoiseHandshake(WIRE[0], "initiator", **keys_for(WIRE[0], "initiator")), NoiseCipher(1, bytes(32))):
        with pytest.raises(TypeError):
            pickle.dumps(value)
        with pytest.raises(TypeError):
            copy.copy(value)
        assert repr(value).startswith("<qg._core.noise.Noise")
