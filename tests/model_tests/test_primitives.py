# SPDX-License-Identifier: MIT
"""The model's primitives against Wycheproof (C2SP/wycheproof, testvectors_v1) and RFC examples."""

import pytest
from model import ed25519, mlkem
from model.errors import AuthError
from model.primitives import (
    SUITE_AEGIS_256,
    SUITE_AES_256_GCM,
    SUITE_CHACHA20_POLY1305,
    aead_open,
    aead_seal,
    base32_decode,
    base32_encode,
    chacha20_keystream,
    hchacha20,
    hkdf_expand,
    hkdf_extract,
    x25519,
    xchacha20_poly1305_open,
    xchacha20_poly1305_seal,
)


def cases(document, **group):
    """The tests of every group whose fields are as asked, with their byte fields decoded."""
    for test_group in document["testGroups"]:
        if all(test_group.get(name) == value for name, value in group.items()):
            for case in test_group["tests"]:
                yield test_group, case


def octets(case, *names):
    return [bytes.fromhex(case[name]) for name in names]


def opened(function, *args):
    try:
        return function(*args)
    except AuthError:
        return None


AEADS = [
    ("wycheproof-chacha20_poly1305.json", SUITE_CHACHA20_POLY1305, {"ivSize": 96}, 316),
    ("wycheproof-aes_gcm.json", SUITE_AES_256_GCM, {"ivSize": 96, "keySize": 256, "tagSize": 128}, 66),
]


@pytest.mark.parametrize(("name", "suite", "group", "n_expected"), AEADS)
def test_record_suites_agree_with_wycheproof(vectors, name, suite, group, n_expected):
    n_run = 0
    for _, case in cases(vectors(name), **group):
        key, nonce, ad, plain, ct, tag = octets(case, "key", "iv", "aad", "msg", "ct", "tag")
        is_valid = case["result"] == "valid"
        assert (opened(aead_open, suite, key, nonce, ad, ct + tag) == plain) == is_valid, case["tcId"]
        if is_valid:
            assert aead_seal(suite, key, nonce, ad, plain) == ct + tag
        n_run += 1
    assert n_run == n_expected


def test_xchacha20_poly1305_agrees_with_wycheproof(vectors):
    n_run = 0
    for _, case in cases(vectors("wycheproof-xchacha20_poly1305.json"), ivSize=192):
        key, nonce, ad, plain, ct, tag = octets(case, "key", "iv", "aad", "msg", "ct", "tag")
        is_valid = case["result"] == "valid"
        assert (opened(xchacha20_poly1305_open, key, nonce, ad, ct + tag) == plain) == is_valid, case["tcId"]
        if is_valid:
            assert xchacha20_poly1305_seal(key, nonce, ad, plain) == ct + tag
        n_run += 1
    assert n_run == 306


def test_aegis_256_agrees_with_wycheproof(vectors):
    """The vectors have tags of 128 bits, which are the exclusive or of the halves of the 256-bit tag used here."""
    n_run = 0
    for _, case in cases(vectors("wycheproof-aegis256.json")):
        key, nonce, ad, plain, ct, tag = octets(case, "key", "iv", "aad", "msg", "ct", "tag")
        if case["result"] != "valid":
            continue
        sealed = aead_seal(SUITE_AEGIS_256, key, nonce, ad, plain)
        assert sealed[:-32] == ct, case["tcId"]
        assert bytes(a ^ b for a, b in zip(sealed[-32:-16], sealed[-16:], strict=True)) == tag, case["tcId"]
        assert aead_open(SUITE_AEGIS_256, key, nonce, ad, sealed) == plain
        n_run += 1
    assert n_run == 360


def test_x25519_agrees_with_wycheproof_and_refuses_zero_results(vectors):
    n_zero = 0
    for _, case in cases(vectors("wycheproof-x25519.json")):
        private, public, shared = octets(case, "private", "public", "shared")
        result = opened(x25519, private, public)
        if any(shared):
            assert result == shared, case["tcId"]
        else:
            assert result is None, case["tcId"]
            n_zero += 1
    assert n_zero == 31


def test_ed25519_agrees_with_wycheproof(vectors):
    for group, case in cases(vectors("wycheproof-ed25519.json")):
        message, signature = octets(case, "msg", "sig")
        public = bytes.fromhex(group["publicKey"]["pk"])
        assert ed25519.verify(public, signature, message) == (case["result"] == "valid"), case["tcId"]


@pytest.mark.parametrize(
    "point",
    [
        (0).to_bytes(32, "little"),
        (1).to_bytes(32, "little"),
        (ed25519.P - 1).to_bytes(32, "little"),
        (ed25519.P + 1).to_bytes(32, "little"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    ],
)
def test_ed25519_refuses_points_of_small_order(point):
    assert not ed25519.verify(point, point + bytes(32), b"")


def test_hkdf_agrees_with_wycheproof(vectors):
    for _, case in cases(vectors("wycheproof-hkdf_sha256.json")):
        ikm, salt, info, okm = octets(case, "ikm", "salt", "info", "okm")
        if case["result"] == "valid":
            assert hkdf_expand(hkdf_extract(salt, ikm), info, case["size"]) == okm, case["tcId"]


def test_mlkem_768_agrees_with_wycheproof(vectors):
    n_run = 0
    for _, case in cases(vectors("wycheproof-mlkem_768.json")):
        seed, ciphertext, shared = octets(case, "seed", "c", "K")
        is_right = len(seed) == mlkem.SEED_LEN and opened(mlkem.decapsulate, seed, ciphertext) == shared
        if is_right and "ek" in case:
            is_right = mlkem.public_from_seed(seed).hex() == case["ek"]
        assert is_right == (case["result"] == "valid"), case["tcId"]
        n_run += 1
    assert n_run == 193


def test_mlkem_768_agrees_with_the_library_in_both_directions():
    library = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mlkem")
    for number in range(5):
        seed = bytes([number]) * 64
        key = library.MLKEM768PrivateKey.from_seed_bytes(seed)
        public = mlkem.public_from_seed(seed)
        assert key.public_key().public_bytes_raw() == public
        ciphertext, shared = mlkem.encapsulate(public, bytes([number + 100]) * 32)
        assert key.decapsulate(ciphertext) == shared == mlkem.decapsulate(seed, ciphertext)
        shared, ciphertext = key.public_key().encapsulate()
        assert mlkem.decapsulate(seed, ciphertext) == shared


def test_mlkem_768_refuses_a_public_key_that_is_not_reduced():
    public = bytearray(mlkem.public_from_seed(bytes(64)))
    public[0:2] = b"\xff\xff"
    with pytest.raises(AuthError):
        mlkem.encapsulate(bytes(public), bytes(32))


def test_hchacha20_gives_the_example_of_the_draft():
    key = bytes(range(32))
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    expected = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    assert hchacha20(key, nonce).hex() == expected


def test_chacha20_keystream_gives_the_example_of_rfc_8439():
    key, nonce = bytes(range(32)), bytes.fromhex("000000090000004a00000000")
    assert chacha20_keystream(key, nonce, 1, 16).hex() == "10f1e7e4d13b5915500fdd1fa32071c4"


def test_base32_has_one_form_only():
    text = base32_encode(bytes(range(36)))
    assert base32_decode(text, 36) == bytes(range(36))
    for wrong in (text.upper(), text + "=", text[:-1], text[:-1] + "b", "1" + text[1:]):
        with pytest.raises(ValueError, match="base32"):
            base32_decode(wrong, 36)
