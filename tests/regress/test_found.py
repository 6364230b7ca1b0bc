# SPDX-License-Identifier: MIT
"""What fuzzing has found, each as a statement of what should be."""

import pytest
from core.crypto_help import status
from core.endpoint_help import NOW_S
from model.cert import network_secret_text

from qg._core import cert
from qg._core.keyfile import KeyRing, NetworkSecret
from qg.errors import KeyFileError
from qg.extenders.proxy.front import Front, FrontError

ADDRESS = b"\4" + bytes([192, 0, 2, 7, 0x1D, 0x17])


@pytest.mark.parametrize(("issued_s", "not_after_s"), [((1 << 64) - 5, 10), (NOW_S, NOW_S), (NOW_S, NOW_S - 1)])
def test_a_record_that_ends_before_it_was_issued_has_no_head(issued_s, not_after_s):
    made = KeyRing.generate(NOW_S).peer_record(0, 0, 0, 1, ADDRESS, NOW_S, 86_400)
    changed = made[:-80] + issued_s.to_bytes(8, "big") + not_after_s.to_bytes(8, "big") + made[-64:]
    assert cert.peer_record_head(changed) == status.E_LENGTH


def test_what_stands_far_behind_a_network_secret_is_not_passed_over(tmp_path):
    text = network_secret_text(bytes(range(32)))
    path = tmp_path / "network"
    path.touch(0o600)
    path.write_text(text.ljust(128))
    assert NetworkSecret.load(path).export() == text
    path.write_text(text.ljust(128) + "x")
    with pytest.raises(KeyFileError, match="copy it again, whole"):
        NetworkSecret.load(path)


@pytest.mark.parametrize(
    "request_",
    [
        b"\5\1\0\5\1\0\1\xc0\0\2\7\0\0",
        b"\4\1\0\0\xc0\0\2\7\0",
        b"CONNECT example.org:0 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET http://example.org:0/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    ],
)
def test_the_proxy_connects_to_no_port_0_in_any_dialect(request_):
    with pytest.raises(FrontError, match="port 0"):
        Front().feed(request_)
