# SPDX-License-Identifier: MIT
"""A tor network of our own on loopback: an authority, three relays, a client. Nothing leaves this machine.

Every address it is given is one of 127.0.0.0/8, its only authority is ours, and names are never resolved. The relays'
exit policy is open, since clients use no exit that serves this machine alone; nobody but our sender asks them. All
circuits go over the same three relays, so each of them carries all bytes; conflux, which would want a second way in,
is off. Everything else is tor's default, congestion control included. It takes half a minute to start.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.program import Program, environment, output_of, ports_free, program_find

HOST = "127.0.0.1"
N_RELAYS = 3
SHARED = """TestingTorNetwork 1
DataDirectory {folder}
Log notice stdout
DirAuthority authority orport={or_port} v3ident={v3_identity} {host}:{dir_port} {authority}
AssumeReachable 1
ExitPolicyRejectPrivate 0
ServerDNSDetectHijacking 0
ServerDNSAllowBrokenConfig 1
ServerDNSResolvConfFile {folder}/nowhere
ConfluxEnabled 0
"""
AUTHORITY = """Nickname authority
Address {host}
ORPort {host}:{or_port}
DirPort {host}:{dir_port}
SocksPort 0
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo nobody@invalid
ExitPolicy reject *:*
TestingAuthDirTimeToLearnReachability 0
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingV3AuthInitialVotingInterval 10
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingDirAuthVoteGuard *
TestingDirAuthVoteExit *
TestingMinFastFlagThreshold 0
TestingMinExitFlagThreshold 0
"""
RELAY = """Nickname relay{idx}
Address {own}
ORPort {own}:{port}
SocksPort 0
ContactInfo nobody@invalid
ExitRelay 1
ExitPolicy accept *:*
"""
CLIENT = """SocksPort {host}:{port} IsolateSOCKSAuth
EntryNodes {0}
MiddleNodes {1}
ExitNodes {2}
StrictNodes 1
"""


class Network(NamedTuple):
    socks_port: int
    client: Program
    relays: list[Program]


def version() -> str:
    return output_of(program_find("tor", "tor"), "--version").split("\n")[0].rstrip(".")


@contextmanager
def network() -> Iterator[Network]:
    """Run all of it; to each SOCKS user name its own circuit."""
    tor = program_find("tor", "tor")
    or_port, dir_port, socks_port, *relay_ports = ports_free(3 + N_RELAYS)
    with tempfile.TemporaryDirectory(prefix="qg-tor-") as name, ExitStack() as stack:
        base = Path(name)
        facts = {"host": HOST, "or_port": or_port, "dir_port": dir_port, "v3_identity": "0" * 40, "authority": "0" * 40}

        def settings_write(role: str, text: str, **more: object) -> Path:
            folder = base / role
            folder.mkdir(exist_ok=True, mode=0o700)
            path = folder / "torrc"
            path.write_text((SHARED + text).format(folder=folder, **facts, **more))
            return path

        def run(role: str) -> Program:
            command = [tor, "--defaults-torrc", "/dev/null", "-f", str(base / role / "torrc")]
            return stack.enter_context(Program(command, base / f"{role}.log"))

        settings_write("authority", AUTHORITY)
        facts["v3_identity"] = authority_keys_make(base / "authority", f"{HOST}:{dir_port}")
        facts["authority"] = fingerprint(tor, settings_write("authority", AUTHORITY))
        settings_write("authority", AUTHORITY)
        relays = [
            fingerprint(tor, settings_write(f"relay{idx}", RELAY, idx=idx, own=f"127.{idx + 1}.0.1", port=port))
            for idx, port in enumerate(relay_ports)
        ]
        settings_write("client", CLIENT.replace("{0}", relays[0]).replace("{1}", relays[1]).replace("{2}", relays[2]),
                       port=socks_port)  # fmt: skip
        run("authority").listening(or_port)
        programs = [run(f"relay{idx}") for idx in range(N_RELAYS)]
        for program, port in zip(programs, relay_ports, strict=True):
            program.listening(port)
        client, log = run("client"), base / "client.log"
        client.ready(lambda: "Bootstrapped 100%" in log.read_text())
        yield Network(socks_port, client, programs)


def authority_keys_make(folder: Path, address: str) -> str:
    """Make the authority's long-lived keys and return what the others know it by."""
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    command = [program_find("tor-gencert", "tor"), "--create-identity-key", "--passphrase-fd", "0", "-m", "12"]
    command += ["-a", address, "-i", "authority_identity_key", "-s", "authority_signing_key"]
    subprocess.run(
        [*command, "-c", "authority_certificate"], cwd=keys, input=b"for one run\n", env=environment(),
        capture_output=True, check=True,
    )  # fmt: skip
    found = re.search(r"^fingerprint (\w+)", (keys / "authority_certificate").read_text(), re.MULTILINE)
    assert found
    return found[1]


def fingerprint(tor: str, settings: Path) -> str:
    """Make a relay's keys and return what others know it by."""
    output = output_of(tor, "--defaults-torrc", "/dev/null", "-f", str(settings), "--list-fingerprint", "--quiet")
    return "".join(output.split()[-10:])
