# SPDX-License-Identifier: MIT
"""`ssh -L` and `-D` with aes128-gcm@openssh.com: a client and a server of our own, with keys made now, on loopback."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.program import Program, Tunnel, output_of, ports_free, program_find

HOST = "127.0.0.1"
CIPHER = "aes128-gcm@openssh.com"
SERVER = """ListenAddress {host}:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
StrictModes no
UsePAM no
PidFile none
Ciphers {cipher}
PasswordAuthentication no
AllowTcpForwarding local
PermitOpen {host}:*
"""


def version() -> str:
    return output_of(program_find("ssh", "openssh-client"), "-V").split(",")[0]


def tunnel(target: int) -> AbstractContextManager[Tunnel]:
    """Forward a port of loopback through both to `target`."""
    return _forward(lambda entry: ["-L", f"{HOST}:{entry}:{HOST}:{target}"])


def proxy() -> AbstractContextManager[Tunnel]:
    """Serve SOCKS on a port of loopback; what is asked for is connected to by the server."""
    return _forward(lambda entry: ["-D", f"{HOST}:{entry}"])


@contextmanager
def _forward(forwarding: Callable[[int], list[str]]) -> Iterator[Tunnel]:
    sshd, ssh = program_find("sshd", "openssh-server"), program_find("ssh", "openssh-client")
    port, entry = ports_free(2)
    account = server_account()
    with tempfile.TemporaryDirectory(prefix="qg-ssh-") as name:
        folder = Path(name)
        keys_make(folder, port)
        text = SERVER.format(host=HOST, port=port, folder=folder, cipher=CIPHER)
        (folder / "sshd_config").write_text(text)
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, account.pw_uid, account.pw_gid)
        command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
        with Program(command, folder / "sshd.log", **as_account(account)) as server:
            server.listening(port)
            options = [
                "IdentitiesOnly=yes", "BatchMode=yes", "ExitOnForwardFailure=yes", f"Ciphers={CIPHER}",
                f"UserKnownHostsFile={folder}/known", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes",
            ]  # fmt: skip
            command = [ssh, "-F", "none", "-N", "-p", str(port), "-i", str(folder / "client")]
            command += [word for option in options for word in ("-o", option)]
            command += [*forwarding(entry), f"{account.pw_name}@{HOST}"]
            os.chown(folder / "client", os.getuid(), -1)
            with Program(command, folder / "ssh.log") as client:
                client.listening(entry)
                yield Tunnel({"port": entry}, {"entry": client, "exit": server})


def keys_make(folder: Path, port: int) -> None:
    keygen = program_find("ssh-keygen", "openssh-client")
    for name in ("host", "client"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "known").write_text(f"[{HOST}]:{port} {(folder / 'host.pub').read_text()}")


def server_account() -> pwd.struct_passwd:
    """Who the server runs as and lets in: this user, or somebody with no rights where this is root."""
    return pwd.getpwnam("daemon") if os.getuid() == 0 else pwd.getpwuid(os.getuid())


def as_account(account: pwd.struct_passwd) -> dict[str, Any]:
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
