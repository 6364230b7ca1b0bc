# SPDX-License-Identifier: MIT
"""Every primitive answers as the vectors of Wycheproof say (C2SP/wycheproof, testvectors_v1/*_test.json).

Left out are sizes that the core does not take: other key, nonce and tag lengths are refused by the caller's types.
"""

import pytest
from core.crypto_help import status, vectors_load

from qg._core import crypto

CHACHA20_POLY1305, AES_256_GCM, AEGIS_256 = 1, 2, 4

FILES = {  # name in the shared folder: (name at the source, sha256)
    "wycheproof-chacha20_poly1305.json": (
        "chacha20_poly1305_test.json",
        "fe61d25f90e1bde4461d00eafe61049e5f29bd999f36b766df9cda90906ad53d",
    ),
    "wycheproof-xchacha20_poly1305.json": (
        "xchacha20_poly1305_test.json",
        "a79de072571b90eb40c3a63ce0c7f75dcb4b62323c8870228e1f61dcc61d63a9",
    ),
    "wycheproof-aes_gcm.json": (
        "aes_gcm_test.json",
        "985e5ecc172e181eaf49e89508b9470dcf478002eb7e8559c707eb42dc97dfe7",
    ),
    "wycheproof-aegis256.json": (
        "aegis256_test.json",
        "b5f9b1c171563e76b9fca3906297ee2b6afe7526754f401227d1ac669ad569c9",
    ),
    "wycheproof-x25519.json": (
        "x25519_test.json",
        "35c3f5231cf25cc640b524d403461deee9e49441d5d915a3a25b2c8ff5adbe7d",
    ),
    "wycheproof-ed25519.json": (
        "ed25519_test.json",
        "752d2ea7d7c6cf4736381b6cbacb61f8182b126ab7cd9b058f00c50084975536",
    ),
    "wycheproof-hkdf_sha256.json": (
        "hkdf_sha256_test.json",
        "bb2b462a38b251cb52a2aede706d6d4b62b26864f4e80c95497507ddb07c5f1e",
    ),
    "wycheproof-mlkem_768.json": (
        "mlkem_768_test.json",
        "c2bc0264a150c3a4399da72701d154672e9f708420cff8f01340ef0b1f17f4f7",
    ),
}


def cases(name):
    """Yield (group, test) with every hex string of the test turned into bytes."""
    for group in vectors_load(name, FILES[name][1])["testGroups"]:
        for test in group["tests"]:
            raw = {
                key: bytes.fromhex(value)
                for key, value in test.items()
                if isinstance(value, str) and key not in ("comment", "result")
            }
            yield group, {**test, **raw}


def key_or_skip(suite, key):
    if not crypto.suites() & suite:
        pytest.skip("this CPU has no AES instructions")
    return crypto.AeadKey(suite, key)


def aead_check(test, seal, open_):
    """Compare sealing and opening with one vector whose tag is the suite's own."""
    sealed = test["ct"] + test["tag"]
    if test["result"] == "valid":
        assert seal(test["iv"], test["msg"], test["aad"]) == sealed, test["tcId"]
        assert open_(test["iv"], sealed, test["aad"]) == test["msg"], test["tcId"]
    else:
        assert open_(test["iv"], sealed, test["aad"]) == status.E_TAG, test["tcId"]


def test_chacha20_poly1305_agrees():
    n = 0
    for group, test in cases("wycheproof-chacha20_poly1305.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128):
            key = crypto.AeadKey(CHACHA20_POLY1305, test["key"])
            aead_check(test, key.seal, key.open)
            n += 1
    assert n == 316


def test_xchacha20_poly1305_agrees():
    n = 0
    for group, test in cases("wycheproof-xchacha20_poly1305.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 192, 128):

            def seal(nonce, src, ad, key=test["key"]):
                return crypto.xchacha_sealed(key, nonce, src, ad)

            def open_(nonce, src, ad, key=test["key"]):
                return crypto.xchacha_opened(key, nonce, src, ad)

            aead_check(test, seal, open_)
            n += 1
    assert n == 306


def test_aes_256_gcm_agrees():
    n = 0
    for group, test in cases("wycheproof-aes_gcm.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128):
            key = key_or_skip(AES_256_GCM, test["key"])
            aead_check(test, key.seal, key.open)
            n += 1
    assert n == 66


def test_aegis_256_agrees():
    """The vectors have tags of 128 bits; ours is of 256, and the shorter one is the xor of its halves."""
    n_valid = n_invalid = 0
    for group, test in cases("wycheproof-aegis256.json"):
        assert (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 256, 128)
        key = key_or_skip(AEGIS_256, test["key"])
        sealed = key.seal(test["iv"], test["msg"], test["aad"])
        tag = sealed[-32:]
        folded = bytes(a ^ b for a, b in zip(tag[:16], tag[16:], strict=True))
        agrees = (sealed[:-32], folded) == (test["ct"], test["tag"])
        assert agrees == (test["result"] == "valid"), test["tcId"]
        assert key.open(test["iv"], sealed, test["aad"]) == test["msg"]
        n_valid += agrees
        n_invalid += not agrees
    assert (n_valid, n_invalid) == (360, 112)


def test_x25519_agrees_and_refuses_zero():
    n_zero = n = 0
    for _, test in cases("wycheproof-x25519.json"):
        shared = crypto.x25519_shared(test["private"], test["public"])
        if test["shared"] == bytes(32):
            assert shared == status.E_DH, test["tcId"]
            n_zero += 1
        else:
            assert shared == test["shared"], test["tcId"]
            n += 1
    assert (n, n_zero) == (487, 31)


def test_ed25519_accepts_and_refuses():
    n = 0
    for group, test in cases("wycheproof-ed25519.json"):
        public = bytes.fromhex(group["publicKey"]["pk"])
        if len(test["sig"]) != 64:
            assert test["result"] == "invalid"  # the caller's type has 64 bytes
            with pytest.raises(ValueError, match="64 bytes"):
                crypto.ed25519_check(public, test["msg"], test["sig"])
        else:
            expected = status.OK if test["result"] == "valid" else status.E_SIGNATURE
            assert crypto.ed25519_check(public, test["msg"], test["sig"]) == expected, test["tcId"]
        n += 1
    assert n == 151


def test_hkdf_sha256_agrees():
    n = 0
    for _, test in cases("wycheproof-hkdf_sha256.json"):
        made = crypto.hkdf_sha256(test["salt"], test["ikm"], test["info"], test["size"])
        assert made == (test["okm"] if test["result"] == "valid" else status.E_ARGUMENT), test["tcId"]
        n += 1
    assert n == 86


def test_mlkem_768_agrees():
    n = n_refused = 0
    for _, test in cases("wycheproof-mlkem_768.json"):
        if test["result"] == "valid":
            assert crypto.mlkem768_public_key(test["seed"]) == test["ek"], test["tcId"]
            assert crypto.mlkem768_decapsulation(test["seed"], test["c"]) == test["K"], test["tcId"]
            n += 1
        else:  # wrong lengths, which no caller inside the core can produce
            with pytest.raises(ValueError, match="bytes"):
                crypto.mlkem768_decapsulation(test["seed"], test["c"])
            n_refused += 1
    assert (n, n_refused) == (153, 40)
