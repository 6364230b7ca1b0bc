# SPDX-License-Identifier: MIT
"""Primitives: agreement with independent packages, tampering, lengths, misuse; see also test_vectors_wycheproof.py."""

import copy
import pathlib
import pickle
import subprocess
import sys

import pytest
from core.crypto_help import fixed_bytes, status
from hypothesis import given, settings
from hypothesis import strategies as st

from qg._core import _build_info, crypto

CHACHA20_POLY1305, AES_256_GCM, AEGIS_256 = 1, 2, 4
SUITES = [suite for suite in (CHACHA20_POLY1305, AES_256_GCM, AEGIS_256) if crypto.suites() & suite]
LENGTHS = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1000, 16384]


def key_of(suite):
    return crypto.AeadKey(suite, fixed_bytes("key", 32))


def nonce_of(key):
    return fixed_bytes("nonce", key.nonce_len)


def test_chacha20_poly1305_is_always_usable_and_aes_suites_come_together():
    assert crypto.suites() in (1, 7)


def test_libsodium_is_new_enough():
    assert tuple(map(int, crypto.sodium_version().split("."))) >= (1, 0, 22)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("length", LENGTHS)
def test_opening_gives_back_what_was_sealed(suite, length):
    key, text = key_of(suite), fixed_bytes("text", length)
    sealed = key.seal(nonce_of(key), text, b"ad")
    assert len(sealed) == length + key.tag_len
    assert key.open(nonce_of(key), sealed, b"ad") == text


@pytest.mark.parametrize("suite", SUITES)
def test_every_flipped_bit_is_rejected(suite):
    key = key_of(suite)
    nonce, ad = nonce_of(key), b"associated"
    sealed = key.seal(nonce, fixed_bytes("text", 50), ad)
    for off in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[off // 8] ^= 1 << off % 8
        assert key.open(nonce, bytes(changed), ad) == status.E_TAG
    for off in range(8 * len(ad)):
        changed = bytearray(ad)
        changed[off // 8] ^= 1 << off % 8
        assert key.open(nonce, sealed, bytes(changed)) == status.E_TAG
    for off in range(8 * len(nonce)):
        changed = bytearray(nonce)
        changed[off // 8] ^= 1 << off % 8
        assert key.open(bytes(changed), sealed, ad) == status.E_TAG


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_shorter_than_a_tag_is_refused(suite):
    key = key_of(suite)
    for length in range(key.tag_len):
        assert key.open(nonce_of(key), bytes(length)) == status.E_SHORT
    assert key.open(nonce_of(key), bytes(key.tag_len)) == status.E_TAG


@pytest.mark.parametrize("suite", [0, 3, 5, 6, 7, 8, 0x8000, 0xFFFF])
def test_a_suite_is_exactly_one_known_bit(suite):
    with pytest.raises(ValueError):
        crypto.AeadKey(suite, bytes(32))


@pytest.mark.parametrize(
    ("offered", "usable", "chosen"),
    [
        (7, 7, AEGIS_256),
        (3, 7, AES_256_GCM),
        (7, 3, AES_256_GCM),
        (1, 7, CHACHA20_POLY1305),
        (7, 1, CHACHA20_POLY1305),
        (0xFFF9, 0xFFFF, CHACHA20_POLY1305),
        (6, 1, None),
        (0xFFF8, 0xFFFF, None),
        (0, 7, None),
    ],
)
def test_the_best_suite_of_both_is_chosen(offered, usable, chosen):
    assert crypto.suite_chosen(offered, usable) == (status.E_SUITE if chosen is None else chosen)


NULL = 0x8000


@pytest.mark.skipif(_build_info.IS_TEST, reason="a build for measurements")
def test_a_build_for_use_has_no_null_cipher():
    assert not crypto.null_cipher_allow()
    assert crypto.suites() & NULL == 0
    assert crypto.suite_chosen(NULL | 1, NULL | 1) == 1
    assert crypto.suite_chosen(NULL, NULL) == status.E_SUITE
    with pytest.raises(ValueError, match="unknown"):
        crypto.AeadKey(NULL, bytes(32))
    assert b"qg_null" not in pathlib.Path(crypto.__file__).read_bytes()


@pytest.mark.skipif(not _build_info.IS_TEST, reason="only with QG_TEST=1")
def test_a_build_for_measurements_has_a_null_cipher_for_those_who_ask_for_it():
    """In a process of its own: asking is for good."""
    code = """if True:
        from qg._core import _build_info, crypto
        assert crypto.suites() < 8 and crypto.suite_chosen(0x8001, 0x8001) == 1
        assert crypto.null_cipher_allow() and crypto.suites() & 0x8000
        assert crypto.suite_chosen(0x8007, 0x8007) == 0x8000 and crypto.suite_chosen(0x8007, 7) == 4
        key = crypto.AeadKey(0x8000, bytes(32))
        assert key.seal(bytes(32), b"plain") == b"plain" + bytes(32)
        assert key.open(bytes(32), b"plain" + bytes(32)) == b"plain"
        assert key.open(bytes(32), bytes(31)) < 0
    """
    subprocess.run([sys.executable, "-c", code], check=True)
    assert b"qg_null" in pathlib.Path(crypto.__file__).read_bytes()


def test_aead_suites_agree_with_independent_packages():
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    secret, text, ad = fixed_bytes("key", 32), fixed_bytes("text", 1000), b"associated"
    others = {CHACHA20_POLY1305: aead.ChaCha20Poly1305, AES_256_GCM: aead.AESGCM}
    for suite in set(SUITES) & set(others):
        key = key_of(suite)
        assert key.seal(nonce_of(key), text, ad) == others[suite](secret).encrypt(nonce_of(key), text, ad)


def test_aegis_256_agrees_with_pyaegis():
    aegis = pytest.importorskip("pyaegis")
    if AEGIS_256 not in SUITES:
        pytest.skip("this CPU has no AES instructions")
    key = key_of(AEGIS_256)
    other = aegis.Aegis256(tag_size=32)
    for length in LENGTHS:
        text = fixed_bytes("text", length)
        theirs = other.encrypt(fixed_bytes("key", 32), nonce_of(key), text, b"ad")
        assert bytes(theirs) == key.seal(nonce_of(key), text, b"ad")


def test_xchacha20_poly1305_agrees_with_pysodium():
    pysodium = pytest.importorskip("pysodium", exc_type=Exception)
    key, nonce, text = fixed_bytes("key", 32), fixed_bytes("nonce", 24), fixed_bytes("text", 500)
    theirs = pysodium.crypto_aead_xchacha20poly1305_ietf_encrypt(text, b"ad", nonce, key)
    assert crypto.xchacha_sealed(key, nonce, text, b"ad") == theirs


def test_keystream_is_chacha20_with_a_zero_nonce():
    """RFC 8439, 2.3. `cryptography` takes counter and nonce together, as 16 bytes."""
    ciphers = pytest.importorskip("cryptography.hazmat.primitives.ciphers")
    key = fixed_bytes("key", 32)
    for counter in (0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFE):
        nonce = counter.to_bytes(4, "little") + bytes(12)
        other = ciphers.Cipher(ciphers.algorithms.ChaCha20(key, nonce), mode=None).encryptor()
        assert crypto.keystream_block(key, counter) == other.update(bytes(64))


def test_small_draws_come_from_one_supply_which_keeps_nothing_that_was_used():
    pool = crypto.RandomPool()
    draws = [pool.draw(24) for _ in range(1000)]
    assert len(set(draws)) == 1000
    assert 0 < pool.left < len(pool.memory) - 24
    assert not any(pool.memory[pool.left :])
    assert not any(draw in pool.memory for draw in draws)


def test_a_draw_of_a_key_does_not_lie_in_memory_before():
    pool = crypto.RandomPool()
    pool.draw(1)
    before = pool.memory
    assert pool.draw(32) not in before
    assert pool.memory == before


def test_siphash_is_the_reference_function():
    """Appendix A of the SipHash paper (Aumasson, Bernstein 2012)."""
    assert crypto.siphash(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


def test_hmac_agrees_with_the_standard_library():
    import hmac

    for length in (0, 1, 63, 64, 65, 200):
        key, text = fixed_bytes("key", length), fixed_bytes("text", length)
        assert crypto.hmac_digest(key, text) == hmac.digest(key, text, "sha256")


def test_x25519_and_ed25519_agree_with_cryptography():
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    x25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.x25519")
    seed, peer = fixed_bytes("seed", 32), fixed_bytes("peer", 32)
    theirs = x25519.X25519PrivateKey.from_private_bytes(seed)
    assert crypto.x25519_public_key(seed) == theirs.public_key().public_bytes_raw()
    public = crypto.x25519_public_key(peer)
    assert crypto.x25519_shared(seed, public) == theirs.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    signer = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert crypto.ed25519_public_key(seed) == signer.public_key().public_bytes_raw()
    assert crypto.ed25519_signature(seed, b"text") == signer.sign(b"text")


def test_ed25519_rejects_every_changed_bit():
    seed = fixed_bytes("seed", 32)
    public, signature = crypto.ed25519_public_key(seed), crypto.ed25519_signature(seed, b"text")
    assert crypto.ed25519_check(public, b"text", signature) == status.OK
    for off in range(8 * 64):
        changed = bytearray(signature)
        changed[off // 8] ^= 1 << off % 8
        assert crypto.ed25519_check(public, b"text", bytes(changed)) == status.E_SIGNATURE
    assert crypto.ed25519_check(public, b"texts", signature) == status.E_SIGNATURE


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_ed25519_refuses_keys_of_small_order(point):
    """With a key of small order and S = 0 the plain verification equation would hold for a chosen R."""
    assert crypto.ed25519_check(point, b"text", point + bytes(32)) == status.E_SIGNATURE
    assert crypto.ed25519_check(point, b"text", b"\1" + bytes(63)) == status.E_SIGNATURE


def test_mlkem768_agrees_with_cryptography():
    mlkem = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mlkem")
    seed = fixed_bytes("seed", 64)
    theirs = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    public = theirs.public_key().public_bytes_raw()
    assert crypto.mlkem768_public_key(seed) == public
    ciphertext, shared = crypto.mlkem768_encapsulation(public, fixed_bytes("m", 32))
    assert theirs.decapsulate(ciphertext) == shared
    their_shared, their_ciphertext = theirs.public_key().encapsulate()
    assert crypto.mlkem768_decapsulation(seed, their_ciphertext) == their_shared


def test_a_forged_mlkem_ciphertext_gives_an_unrelated_secret():
    seed = fixed_bytes("seed", 64)
    ciphertext, shared = crypto.mlkem768_encapsulation(crypto.mlkem768_public_key(seed), fixed_bytes("m", 32))
    forged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    rejected = crypto.mlkem768_decapsulation(seed, forged)
    assert rejected != shared
    assert rejected == crypto.mlkem768_decapsulation(seed, forged)


@pytest.mark.parametrize("value", [3329, 3330, 4095])
@pytest.mark.parametrize("position", [0, 1, 255, 256, 511, 767])
def test_an_mlkem_key_with_a_coefficient_above_q_is_refused(value, position):
    """FIPS 203 7.2, the modulus check: 768 coefficients of 12 bits, two in three bytes."""
    public = bytearray(crypto.mlkem768_public_key(fixed_bytes("seed", 64)))
    off = position // 2 * 3
    pair = int.from_bytes(public[off : off + 3], "little")
    shift = 12 * (position % 2)
    pair = (pair & ~(0xFFF << shift)) | value << shift
    public[off : off + 3] = pair.to_bytes(3, "little")
    assert crypto.mlkem768_encapsulation(bytes(public), bytes(32)) == status.E_KEM


def test_the_largest_reduced_coefficient_is_accepted():
    public = bytearray(crypto.mlkem768_public_key(fixed_bytes("seed", 64)))
    public[0:3] = (3328 | 3328 << 12).to_bytes(3, "little")
    assert len(crypto.mlkem768_encapsulation(bytes(public), bytes(32))[0]) == 1088


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (crypto.x25519_shared, (bytes(31), bytes(32))),
        (crypto.x25519_shared, (bytes(32), bytes(33))),
        (crypto.x25519_public_key, (None,)),
        (crypto.ed25519_check, (bytes(32), b"", bytes(63))),
        (crypto.ed25519_signature, (bytes(31), b"")),
        (crypto.mlkem768_public_key, (bytes(63),)),
        (crypto.mlkem768_encapsulation, (bytes(1183), bytes(32))),
        (crypto.mlkem768_encapsulation, (bytes(1184), bytes(31))),
        (crypto.mlkem768_decapsulation, (bytes(64), bytes(1087))),
        (crypto.xchacha_sealed, (bytes(31), bytes(24), b"")),
        (crypto.xchacha_opened, (bytes(32), bytes(23), b"")),
        (crypto.keystream_block, (bytes(31), 0)),
        (crypto.siphash, (bytes(15), b"")),
        (crypto.AeadKey, (1, bytes(31))),
        (crypto.AeadKey(1, bytes(32)).seal, (bytes(11), b"")),
        (crypto.AeadKey(1, bytes(32)).open, (bytes(13), b"")),
    ],
)
def test_wrong_sizes_are_refused(function, arguments):
    with pytest.raises(ValueError):
        function(*arguments)


def test_hkdf_gives_at_most_255_blocks():
    assert len(crypto.hkdf_sha256(b"", b"ikm", b"", 255 * 32)) == 8160
    assert crypto.hkdf_sha256(b"", b"ikm", b"", 255 * 32 + 1) == status.E_ARGUMENT


def test_keys_are_neither_copied_nor_shown():
    key = crypto.AeadKey(1, b"secret key of thirty-two bytes!!")
    assert "secret" not in repr(key)
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            action(key)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(SUITES), st.binary(max_size=300), st.binary(max_size=40), st.binary(min_size=32, max_size=32))
def test_sealing_is_a_bijection_for_any_input(suite, text, ad, secret):
    key = crypto.AeadKey(suite, secret)
    sealed = key.seal(nonce_of(key), text, ad)
    assert key.open(nonce_of(key), sealed, ad) == text
    assert key.open(nonce_of(key), sealed, ad + b"x") == status.E_TAG
