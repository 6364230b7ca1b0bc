# SPDX-License-Identifier: MIT
"""`qg demo`: a file and a tree of files through nodes on this machine, every byte checked."""

import shutil
import tempfile
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import click

from qg.cli.measure import Interval, Roles, roles_run, suite_check, suite_option
from qg.cli.text import SizeType, size_text, table_text

_FILE, _TREE = "random.bin", "library"
_COUNTS = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_TRANSFER_TIMEOUT_S = 3600.0
_SPARE_LEN = 256 << 20  # room for the tree, three times


@click.command
@click.option("--size", type=SizeType(), default="512M", show_default=True, help="Length of the file.")
@click.option("--hops", type=click.IntRange(1, 7), default=1, show_default=True, help="Relays between the two ends.")
@suite_option
def command(size: int, hops: int, suite: str | None) -> None:
    """Send a file of random bytes, then a tree of real files, from A over the relay B to C, and check them at C.

    A, B and C are three processes on this machine that talk over loopback. A holds a link to B, an anonymous layer
    inside it, and in that a session with C: B passes on what it cannot read. With --hops there are more relays, each on
    an address of a network of its own, and A has a layer to each of them inside the one before. The table shows what
    each process used for the file, which for both ends includes reading, hashing and writing it.

    \b
    Examples:
      qg demo
      qg demo --hops 3
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
        with roles_run(suite, str(folder / "received"), n_relays=hops) as roles:
            _circuit_make(roles, suite)
            interval = _file_move(roles, folder, size)
            _tree_move(roles, folder)
            print(f"\n{_used_table(interval, roles, size)}")


def _letters(roles: Roles) -> list[str]:
    """One for each process, A for the sender."""
    return list(ascii_uppercase[: len(roles.path)])


def _circuit_make(roles: Roles, suite: str | None) -> None:
    link = roles.sender.ask("connect", address=roles.route["via"][0])
    circuit = roles.sender.ask("connect", **roles.route)
    suite_check(suite, link["suite"])
    suite_check(suite, circuit["suite"])
    first, *relays, last = _letters(roles)
    print(f"{' -> '.join(_letters(roles))}: {_COUNTS[len(roles.path)]} processes, {circuit['suite']}")
    print(
        f"handshakes: {first}-{relays[0]} {link['ms']:.1f} ms, {first}-{last} through {', '.join(relays)}"
        f" {circuit['ms']:.1f} ms"
    )


def _file_move(roles: Roles, folder: Path, size: int) -> Interval:
    sender, relays, receiver = roles
    digest = sender.ask("file_make", path=str(folder / _FILE), size=size, timeout_s=_TRANSFER_TIMEOUT_S)
    interval = Interval(*roles.path)
    _ = sender.ask("file_send", path=str(folder / _FILE), timeout_s=_TRANSFER_TIMEOUT_S)
    interval.stop()
    last = _letters(roles)[-1]
    _equal_check("the file", last, digest, receiver.ask("file_digest", name=_FILE, timeout_s=_TRANSFER_TIMEOUT_S))
    for relay, letter in zip(relays, _letters(roles)[1:], strict=False):
        if interval.used[relay.name]["n_relayed"] < size:
            raise click.ClickException(f"the file did not go through {letter}; please report this")
    _moved_print(f"{size_text(size)} of random bytes", size, interval, f"SHA-256 equal at {last}")
    return interval


def _tree_move(roles: Roles, folder: Path) -> None:
    sender, _, receiver = roles
    tree = sender.ask("tree_make", path=str(folder / _TREE))
    interval = Interval(sender, receiver)
    size = sender.ask("file_send", path=str(folder / _TREE), timeout_s=_TRANSFER_TIMEOUT_S)
    interval.stop()
    last = _letters(roles)[-1]
    _equal_check("the tree", last, tree, receiver.ask("tree_digest", name=_TREE))
    what = f"{tree['n_files']:,} files, {size_text(size)}"
    _moved_print(what, size, interval, f"SHA-256 of every file equal at {last}")


def _equal_check(what: str, where: str, sent: Any, received: Any) -> None:
    if sent != received:
        raise click.ClickException(f"{what} differs at {where}: {sent} was sent, {received} came; please report this")


def _moved_print(what: str, size: int, interval: Interval, checked: str) -> None:
    print(f"{what}: {interval.per_gb(size)['mb_per_s']:.0f} MB/s, {checked}", flush=True)


def _used_table(interval: Interval, roles: Roles, size: int) -> str:
    cpu_s_per_gb = interval.per_gb(size)["cpu_s_per_gb"]
    peaks_len = {role.name: role.ask("memory")["peak_len"] for role in roles.path}
    peaks_len["total"] = sum(peaks_len.values())
    kinds = ["sender", *("relay" for _ in roles.relays), "receiver"]
    titles = {
        role.name: f"{letter} {kind}" for role, letter, kind in zip(roles.path, _letters(roles), kinds, strict=True)
    } | {"total": "all"}
    rows = [(title, f"{cpu_s_per_gb[name]:.2f}", f"{peaks_len[name] / 1e6:.1f}") for name, title in titles.items()]
    return table_text([("for the file", "CPU s/GB", "resident MB, most"), *rows])
