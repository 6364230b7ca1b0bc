# SPDX-License-Identifier: MIT
"""`qg demo`: a file and a tree of files through three nodes on this machine, every byte checked."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from qg.cli.measure import Interval, Role, Roles, roles_run, suite_check, suite_option
from qg.cli.text import SizeType, size_text, table_text

_FILE, _TREE = "random.bin", "library"
_TRANSFER_TIMEOUT_S = 3600.0
_SPARE_LEN = 256 << 20  # room for the tree, three times


@click.command
@click.option("--size", type=SizeType(), default="512M", show_default=True, help="Length of the file.")
@suite_option
def command(size: int, suite: str | None) -> None:
    """Send a file of random bytes, then a tree of real files, from A over the relay B to C, and check them at C.

    A, B and C are three processes on this machine that talk over loopback. A holds a link to B, an anonymous layer
    inside it, and in that a session with C: B passes on what it cannot read. The table shows what each process used
    for the file, which for A and C includes reading, hashing and writing it.

    \b
    Examples:
      qg demo
      qg demo --size 4G --suite chacha20-poly1305
    """
    with tempfile.TemporaryDirectory(prefix="qg-demo-") as name:
        folder = Path(name)
        needed_len, free_len = 2 * size + _SPARE_LEN, shutil.disk_usage(folder).free
        if free_len < needed_len:
            raise click.ClickException(
                f"{folder.parent} has {size_text(free_len)} left and {size_text(needed_len)} are needed; give a smaller"
                " --size, or set TMPDIR to a folder with more room"
            )
        (folder / "received").mkdir()
        with roles_run(suite, str(folder / "received"), n_relays=1) as roles:
            _circuit_make(roles, suite)
            interval = _file_move(roles, folder, size)
            _tree_move(roles.sender, roles.receiver, folder)
            print(f"\n{_used_table(interval, roles, size)}")


def _circuit_make(roles: Roles, suite: str | None) -> None:
    link = roles.sender.ask("connect", address=roles.route["via"][0])
    circuit = roles.sender.ask("connect", **roles.route)
    suite_check(suite, link["suite"])
    suite_check(suite, circuit["suite"])
    print(f"A -> B -> C: three processes, {circuit['suite']}")
    print(f"handshakes: A-B {link['ms']:.1f} ms, A-C through B {circuit['ms']:.1f} ms")


def _file_move(roles: Roles, folder: Path, size: int) -> Interval:
    sender, (relay,), receiver = roles
    digest = sender.ask("file_make", path=str(folder / _FILE), size=size, timeout_s=_TRANSFER_TIMEOUT_S)
    interval = Interval(sender, relay, receiver)
    _ = sender.ask("file_send", path=str(folder / _FILE), timeout_s=_TRANSFER_TIMEOUT_S)
    interval.stop()
    _equal_check("the file", digest, receiver.ask("file_digest", name=_FILE, timeout_s=_TRANSFER_TIMEOUT_S))
    if interval.used["relay"]["n_relayed"] < size:
        raise click.ClickException("the file did not go through B; please report this")
    _moved_print(f"{size_text(size)} of random bytes", size, interval, "SHA-256 equal at C")
    return interval


def _tree_move(sender: Role, receiver: Role, folder: Path) -> None:
    tree = sender.ask("tree_make", path=str(folder / _TREE))
    interval = Interval(sender, receiver)
    size = sender.ask("file_send", path=str(folder / _TREE), timeout_s=_TRANSFER_TIMEOUT_S)
    interval.stop()
    _equal_check("the tree", tree, receiver.ask("tar_digest", name=f"{_TREE}.tar"))
    what = f"{tree['n_files']:,} files, {size_text(size)} of tar"
    _moved_print(what, size, interval, "SHA-256 of every file equal at C")


def _equal_check(what: str, sent: Any, received: Any) -> None:
    if sent != received:
        raise click.ClickException(f"{what} differs at C: {sent} was sent, {received} came; please report this")


def _moved_print(what: str, size: int, interval: Interval, checked: str) -> None:
    print(f"{what}: {interval.per_gb(size)['mb_per_s']:.0f} MB/s, {checked}", flush=True)


def _used_table(interval: Interval, roles: Roles, size: int) -> str:
    cpu_s_per_gb = interval.per_gb(size)["cpu_s_per_gb"]
    peaks_len = {role.name: role.ask("memory")["peak_len"] for role in roles.path}
    peaks_len["total"] = sum(peaks_len.values())
    titles = {"sender": "A sender", "relay": "B relay", "receiver": "C receiver", "total": "all"}
    rows = [(title, f"{cpu_s_per_gb[name]:.2f}", f"{peaks_len[name] / 1e6:.1f}") for name, title in titles.items()]
    return table_text([("for the file", "CPU s/GB", "resident MB, most"), *rows])
