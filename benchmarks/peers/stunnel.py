# SPDX-License-Identifier: MIT
"""A pair of stunnel processes: TCP to TLS 1.3 as the other TLS peers speak it, and back."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.asyncio_tls import CIPHER, HOST, NAME, certificate_make
from benchmarks.program import Program, Tunnel, output_of, ports_free, program_find

SHARED = f"""foreground = yes
pid =
[tunnel]
sslVersion = TLSv1.3
ciphersuites = {CIPHER}
curves = X25519
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
"""
SERVER = """accept = {host}:{tls}
connect = {host}:{target}
cert = {folder}/server.pem
"""
CLIENT = """client = yes
accept = {host}:{entry}
connect = {host}:{tls}
CAfile = {folder}/trusted.pem
verifyChain = yes
checkHost = {name}
sni = {name}
"""


def version() -> str:
    found = re.search(r"stunnel [\d.]+", output_of(program_find("stunnel", "stunnel4"), "-version"))
    return found[0] if found else "stunnel"


@contextmanager
def tunnel(target: int) -> Iterator[Tunnel]:
    """Forward a port of loopback through both to `target`."""
    stunnel = program_find("stunnel", "stunnel4")
    tls, entry = ports_free(2)
    certificate, key = certificate_make()
    with tempfile.TemporaryDirectory(prefix="qg-stunnel-") as name:
        folder = Path(name)
        (folder / "server.pem").write_bytes(certificate + key)
        (folder / "trusted.pem").write_bytes(certificate)
        for role, text in (("server", SERVER), ("client", CLIENT)):
            settings = text.format(host=HOST, tls=tls, target=target, entry=entry, folder=folder, name=NAME)
            (folder / f"{role}.conf").write_text(SHARED + settings)
        with (
            Program([stunnel, str(folder / "server.conf")], folder / "server.log") as server,
            Program([stunnel, str(folder / "client.conf")], folder / "client.log") as client,
        ):
            server.listening(tls)
            client.listening(entry)
            yield Tunnel({"port": entry}, {"entry": client, "exit": server})
