# SPDX-License-Identifier: MIT
"""`ssh -L`, `ssh -D`, `scp` with aes128-gcm@openssh.com: client and server, with keys made now, on loopback."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
Subsystem sftp internal-sftp
"""


def version() -> str:
    return output_of(program_find("ssh", "openssh-client"), "-V").split(",")[0]


def tunnel(target: int) -> AbstractContextManager[Tunnel]:
    """Forward a port of loopback through both to `target`."""
    return _forward(lambda entry: ["-L", f"{HOST}:{entry}:{HOST}:{target}"])


def proxy() -> AbstractContextManager[Tunnel]:
    """Serve SOCKS on a port of loopback; what is asked for is connected to by the server."""
    return _forward(lambda entry: ["-D", f"{HOST}:{entry}"])


class Server(NamedTuple):
    """An ssh server that runs, and the folder with the key that it lets in."""

    program: Program
    port: int
    folder: Path

    def client(self, name: str) -> list[str]:
        """Give the beginning of a command, `ssh` or `scp`, that connects to this server and to no other."""
        options = [
            f"IdentityFile={self.folder}/client", "IdentitiesOnly=yes", "BatchMode=yes", "ExitOnForwardFailure=yes",
            f"Ciphers={CIPHER}", f"Port={self.port}", f"UserKnownHostsFile={self.folder}/known",
            "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes",
        ]  # fmt: skip
        return [program_find(name, "openssh-client"), "-F", "none", *(f"-o{option}" for option in options)]

    def scp(self, tree: Path, folder: Path) -> list[str]:
        """Give the command that copies a folder into another."""
        return [*self.client("scp"), "-q", "-r", str(tree), f"{server_account().pw_name}@{HOST}:{folder}"]


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Run a server with keys made now; everything of it goes into the folder."""
    sshd = program_find("sshd", "openssh-server")
    (port,) = ports_free(1)
    account = server_account()
    keys_make(folder, port)
    text = SERVER.format(host=HOST, port=port, folder=folder, cipher=CIPHER)
    (folder / "sshd_config").write_text(text)
    for path in (folder, *(path for path in folder.iterdir() if path.is_file())):
        shutil.chown(path, account.pw_uid, account.pw_gid)
    command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    with Program(command, folder / "sshd.log", **as_account(account)) as program:
        program.listening(port)
        os.chown(folder / "client", os.getuid(), -1)
        yield Server(program, port, folder)


@contextmanager
def _forward(forwarding: Callable[[int], list[str]]) -> Iterator[Tunnel]:
    (entry,) = ports_free(1)
    with tempfile.TemporaryDirectory(prefix="qg-ssh-") as name, server(Path(name)) as sshd:
        command = [*sshd.client("ssh"), "-N", *forwarding(entry), f"{server_account().pw_name}@{HOST}"]
        with Program(command, Path(name) / "ssh.log") as client:
            client.listening(entry)
            yield Tunnel({"port": entry}, {"entry": client, "exit": sshd.program})


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
