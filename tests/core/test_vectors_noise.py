# SPDX-License-Identifier: MIT
"""The Noise engine gives the bytes that others published, and the vector runner tells when it does not."""

import json
import subprocess
import sys

import pytest
from core.crypto_help import ROOT, vectors_load, vectors_path

from qg._core import crypto
from qg._core.noise import NoiseHandshake

# haskell-cryptography/cacophony vectors/cacophony.txt, the same file as mcginty/snow tests/vectors/cacophony.txt
CACOPHONY = ("noise-cacophony.json", "3bde7c09a6f349ee11c825c50fcc02649f8f02a47c857a459206b357f9386cae")
# js-libp2p-noise: deterministic vector 1 of paschal533/pq-noise-artifacts vectors/pqc-test-vectors.json
XXHFS = ("noise-xxhfs-mlkem768.json", "bc0906cc1772ffb7efbe1403a77a72e84ecd440f1f392c3261239e33f55b7659")

# Two vectors of mcginty/snow tests/vectors/snow-multipsk.txt. It lists static keys that the pattern does not use.
SNOW_PROLOGUE = b"There is no right and wrong. There's only fun and boring.".hex()
SNOW_MULTI_PSK = [
    {
        "protocol_name": "Noise_NNpsk0+psk2_25519_ChaChaPoly_SHA256",
        "psks": (
            "c878676d56331a5c54aab56d061ef0898afdd084e68b6a13b19c215533dab3e7",
            "600aea88ea5e44ad614c8296ed9a10b64f67a7619447193f5fb31947da58f80f",
        ),
        "init_static": "695d55a2bdae4ba2fc70fe911c9435def6e1e87e689db35dc80df2a807fe1200",
        "init_ephemeral": "9308d7a4a9514bf94902023730c81fa13e9e3992cd0e1bfd051a2f7c13dfa143",
        "resp_static": "e0409e7f4ae43d02f905c2f6cf9bfa64650d85f30aca37b599af9b666f427a6a",
        "resp_ephemeral": "b1584beaacc85cf9d09adf38523ef0df6cd915ae431f7163ea73c9ee750dad69",
        "messages": [
            (
                "3a829c0045fca6ebcd531c7dcedb3195bcc5e4aafb50d2e5b06a505127584a3a",
                "8b62f5957645c5731acbaa4087c0ca5126b36cf32460623dbe7f53f6782ff623e6afb1a9139cc52089ebc6975f7e2788"
                "b9047b9ef77eb2ba71d33f83b9ab963f1e9362569596b6f472aba0a64609dbb8",
            ),
            (
                "6705a05aa69278dcdb8b1728274d24c4b2ade9341f80bd41dfe9d695713837a4",
                "9a056f32ebeae2584eed6970d45e0e1ee2ea8fdd1dbb2e8d004f2b3191744b14196a6a29183a5af21cb38cc88f468356"
                "fe30e47844d1e9e2f073df500762d0644baff4d71dcc9521221bf42c930afa1d",
            ),
        ],
    },
    {
        "protocol_name": "Noise_NNpsk0+psk2_25519_AESGCM_SHA256",
        "psks": (
            "9d4e75d48df6ae3b7b1d1c325cfedc937c4266502a035a0bd022e3d2b8128efc",
            "3a69018eff26c6e4d8126e0886996fa95e6817088dea582d4a6cb4d128b0d876",
        ),
        "init_static": "1e97f1d1435be78a42ce4ee4085905cc7835ad4c4ac767bac052eeed0af7b7fc",
        "init_ephemeral": "8de40111c0df0fd9abc3eb43e6f5e97eedb068449203de5071b4f55f21c99a10",
        "resp_static": "2c853d6fc90bf017dd2ed716ab9cdcdae0c54250e77a1dfe56d82849381db594",
        "resp_ephemeral": "e96e34cfb3030bfa95a84c4a96589646d5175c5c723ca925a7254d1710704baa",
        "messages": [
            (
                "86e7dfc962b46fa0ae6bfc9d3cfa357dfe68225a8f4266eafe71dfbe8bf144ad",
                "de22a6b88592faf70b57c0e8779e2e42731fcb01d0ecf6f4751ceffef14c7104e2825a7417350a119c9a19a3b747ead8"
                "a0a6038ac6ab99ac497587ffa44abe9c83b688e7c9b5e11fa024032971a254b0",
            ),
            (
                "e5be5ad8cf0fc284280dda5f96ee41d3a82a84cd80cb7fc2257d0af2e2a7a8ed",
                "9e7418a3aec69eafdcb805a6eac0a4ed0886f39e6f8fa4ab454cc40bbf587e659874e8bac286a48a8988e96aff5745ae"
                "bfe470329617757f7e694c1c763120d0b3fdd4a984edfe7ccd901b37823ce863",
            ),
        ],
    },
]


def run_tool(path):
    """Run the vector runner; return (exit code, lines)."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "noise_vectors.py"), str(path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.splitlines()


def written(tmp_path, content):
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps(content))
    return path


def supported(vectors):
    return [each for each in vectors if each["protocol_name"].endswith("_25519_ChaChaPoly_SHA256")]


def snow_file():
    vectors = []
    for each in SNOW_MULTI_PSK:
        vector = {key: value for key, value in each.items() if key not in ("psks", "messages")}
        for side in ("init_", "resp_"):
            vector[side + "prologue"] = SNOW_PROLOGUE
            vector[side + "psks"] = list(each["psks"])
        vector["messages"] = [{"payload": payload, "ciphertext": text} for payload, text in each["messages"]]
        vectors.append(vector)
    return {"vectors": vectors}


def test_every_cacophony_vector_of_our_algorithms_passes():
    code, lines = run_tool(vectors_path(*CACOPHONY))
    assert code == 0
    if crypto.suites() & 2:
        assert lines[-1] == "118 passed, 0 failed"
        assert lines[:-1] == [
            "left out 472: DH 448",
            "left out 118: hash BLAKE2b",
            "left out 118: hash BLAKE2s",
            "left out 118: hash SHA512",
        ]
    else:
        assert lines[-1] == "59 passed, 0 failed"


def test_multi_psk_vectors_in_the_layout_of_snow_pass(tmp_path):
    code, lines = run_tool(written(tmp_path, snow_file()))
    assert code == 0
    assert lines[-1] == ("2 passed, 0 failed" if crypto.suites() & 2 else "1 passed, 0 failed")


def test_xxhfs_with_mlkem768_gives_the_hash_and_keys_of_libp2p():
    vector = {k: bytes.fromhex(v) if k[:5] in ("init_", "resp_") else v for k, v in vectors_load(*XXHFS).items()}
    name = vector["protocol_name"]
    initiator = NoiseHandshake(
        name,
        "initiator",
        static=vector["init_static"],
        random=vector["init_ephemeral"] + vector["init_kem_seed_d_z"],
    )
    responder = NoiseHandshake(
        name,
        "responder",
        static=vector["resp_static"],
        random=vector["resp_ephemeral"] + vector["resp_encaps_seed"],
    )
    lengths = []
    for writer, reader in ((initiator, responder), (responder, initiator), (initiator, responder)):
        message = writer.write_message()
        assert reader.read_message(message) == b""
        lengths.append(len(message))
    assert lengths == vector["message_sizes"]
    assert message.hex() == vector["message_3"]
    for side in (initiator, responder):
        first, second, digest = side.split()
        assert digest.hex() == vector["handshake_hash"]
        assert first.export_key().hex() == vector["cipherstate_1_key"]
        assert second.export_key().hex() == vector["cipherstate_2_key"]


def test_the_tool_runs_the_xxhfs_vector_too():
    assert run_tool(vectors_path(*XXHFS)) == (0, ["1 passed, 0 failed"])


@pytest.mark.parametrize("where", ["handshake message", "transport message", "hash", "payload", "key"])
def test_a_planted_wrong_byte_fails(tmp_path, where):
    vector = next(v for v in supported(vectors_load(*CACOPHONY)["vectors"]) if "_XXpsk3_" in v["protocol_name"])
    if where == "handshake message":
        target, key = vector["messages"][1], "ciphertext"
    elif where == "transport message":
        target, key = vector["messages"][-1], "ciphertext"
    elif where == "payload":
        target, key = vector["messages"][0], "payload"
    else:
        target, key = vector, {"hash": "handshake_hash", "key": "init_static"}[where]
    target[key] = format(int(target[key][:2], 16) ^ 8, "02x") + target[key][2:]
    code, lines = run_tool(written(tmp_path, {"vectors": [vector]}))
    assert code == 1
    assert lines[0].startswith("FAILED Noise_XXpsk3_25519_ChaChaPoly_SHA256: ")
    assert lines[-1] == "0 passed, 1 failed"


def test_one_failure_among_many_still_fails(tmp_path):
    vectors = supported(vectors_load(*CACOPHONY)["vectors"])
    text = vectors[7]["messages"][0]["ciphertext"]
    vectors[7]["messages"][0]["ciphertext"] = text[:-1] + ("0" if text[-1] != "0" else "1")
    code, lines = run_tool(written(tmp_path, {"vectors": vectors}))
    assert (code, lines[-1]) == (1, f"{len(vectors) - 1} passed, 1 failed")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Noise_XX_448_ChaChaPoly_SHA256", "DH 448"),
        ("Noise_XX_25519_ChaChaPoly_BLAKE2s", "hash BLAKE2s"),
        ("Noise_XXfallback_25519_ChaChaPoly_SHA256", "fallback patterns"),
        ("Noise_XXfallback+psk0_25519_ChaChaPoly_SHA256", "fallback patterns"),
        ("NoisePSK_XX_25519_ChaChaPoly_SHA256", "no protocol name of revision 32 or later"),
        ("Noise_XXhfs_25519+Kyber1024_ChaChaPoly_SHA256", "DH 25519+Kyber1024"),
    ],
)
def test_what_is_left_out_is_said_and_nothing_run_is_an_error(tmp_path, name, reason):
    code, lines = run_tool(written(tmp_path, {"vectors": [{"protocol_name": name}]}))
    assert (code, lines) == (1, [f"left out 1: {reason}", "0 passed, 0 failed"])


@pytest.mark.parametrize("content", [{"vectors": []}, {"vectors": 7}, [], {"vectors": [3]}, {}, "text"])
def test_a_file_without_vectors_is_an_error(tmp_path, content):
    assert run_tool(written(tmp_path, content))[0] == 1


def test_a_malformed_vector_counts_as_failed(tmp_path):
    broken = {"protocol_name": "Noise_NN_25519_ChaChaPoly_SHA256", "messages": [{"payload": "zz"}]}
    code, lines = run_tool(written(tmp_path, {"vectors": [broken]}))
    assert (code, lines[-1]) == (1, "0 passed, 1 failed")
