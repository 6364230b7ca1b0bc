# SPDX-License-Identifier: MIT
"""What commands share: values and options of the command line, keys, signals, descriptors."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import click

import qg
from qg.address import Address, Endpoint
from qg.errors import InvalidValue, KeyFileError
from qg.types import PeerId

_T = TypeVar("_T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_DESCRIPTORS_MAX = 1_048_576  # where the hard limit is "unlimited", the kernel still has one
# Any address of this machine -> an address of the world (for documentation only, so nobody's), this machine alone.
_WORLD = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}
_KDF_AT = 8  # place of the byte in a key file that says whether a passphrase protects it (docs/protocol.md, 2.3)


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """A value that qg reads from text; what is wrong with it is misuse."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


ADDRESS = Parsed("ADDRESS", Address.parse)
ENDPOINT = Parsed("ENDPOINT", Endpoint.parse)
PEER_ID = Parsed("PEERID", PeerId)
FILE = click.Path(path_type=str)


def relay_parse(text: str) -> Address:
    """Read the address of a relay: one with a link key and without relays of its own."""
    address = Address.parse(text)
    if address.link_key is None or address.via:
        raise InvalidValue(f"{text!r} is not the address of one relay: it is written qg://<link key>@<host>:<port>")
    return address


identity_option = click.option(
    "-i",
    "--identity",
    type=FILE,
    metavar="FILE",
    help="Key file, made by `qg keygen`. Without it: a throw-away identity.",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    metavar="FILE",
    help="File whose first line is the passphrase of the key file. Without it you are asked.",
)
network_option = click.option(
    "--network",
    type=FILE,
    metavar="FILE",
    help="Secret of a closed network, made by `qg keygen --network`. Without it: the open network.",
)
via_option = click.option(
    "--via",
    type=Parsed("RELAY", relay_parse),
    multiple=True,
    metavar="RELAY",
    help="Address of a relay to go through; once for each relay, the nearest first.",
)
hops_option = click.option(
    "--hops",
    type=click.IntRange(1, 7),
    metavar="N",
    help="Go through so many relays, drawn from those that the configuration file names.",
)
config_option = click.option(
    "-c",
    "--config",
    "config_file",
    type=FILE,
    metavar="FILE",
    help="Configuration in TOML, as for `qg run`; a node that only dials takes nothing to listen from it.",
)
network_previous_option = click.option(
    "--network-previous",
    type=FILE,
    metavar="FILE",
    help="Secret before that of --network: who still has it is answered too, while the new one spreads.",
)
control_option = click.option(
    "--control",
    type=FILE,
    metavar="PATH",
    help="Control socket of the node. Without it: qg.sock in $XDG_RUNTIME_DIR, else in ~/.local/state/qg.",
)


def node_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who a node is: what `node_make` takes."""
    for option in (passphrase_option, network_option, identity_option):
        command = option(command)
    return command


def route_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which way to go: `via`, `hops`, and `config_file` for `node_make`."""
    for option in (config_option, hops_option, via_option):
        command = option(command)
    return command


def node_make(
    identity: str | None,
    network: str | None,
    passphrase_file: str | None,
    *,
    config_file: str | None = None,
    listen: "Sequence[Endpoint]" = (),
    extenders: "Sequence[qg.Extender]" = (),
    replay_mark: str | None = None,
) -> "qg.Node":
    """Make a node of what the options say; nothing runs before it is entered."""
    import msgspec  # not needed to print a help text

    config = qg.Config.load(config_file) if config_file else qg.Config()
    key_file = identity or config.identity
    config = msgspec.structs.replace(
        config,
        network_secret=network or config.network_secret,
        replay_mark=replay_mark,
        guards=config.guards or guards_default(key_file),
        listen=(),
        relay=qg.RelayConfig(),
    )
    return qg.Node(identity_open(key_file, passphrase_file), listen=listen, extenders=extenders, config=config)


def identity_open(path: str | None, passphrase_file: str | None) -> "qg.Identity":
    """Read a key file, asking for its passphrase if it has one and a person is there; None: a throw-away identity."""
    if path is None:
        return qg.Identity.generate()
    passphrase = None
    if passphrase_file is not None:
        passphrase = passphrase_read(passphrase_file)
    elif is_sealed(path) and sys.stdin.isatty():
        passphrase = click.prompt(f"passphrase of {path}", hide_input=True, err=True)
    return qg.Identity.load(path, passphrase=passphrase)


def replay_mark_default(key_file: str | None) -> str | None:
    """Give the file beside the key file that `Config.replay_mark` names; a throw-away identity needs none."""
    return None if key_file is None else f"{key_file}.mark"


def relay_account_default(key_file: str | None) -> str | None:
    """Give the file beside the key file that `Config.relay_account` names; a throw-away identity has no past."""
    return None if key_file is None else f"{key_file}.relayed"


def guards_default(key_file: str | None) -> str | None:
    """Give the file beside the key file that `Config.guards` names; a throw-away identity chooses anew each time."""
    return None if key_file is None else f"{key_file}.guards"


def identity_text(identity: "qg.Identity") -> str:
    """Say in three lines who an identity is."""
    return f"PeerID    {identity.peer_id}\nUUID      {identity.peer_id.uuid}\nlink key  {identity.link_key}"


def passphrase_read(path: str) -> str:
    """Read the first line of a file; raises `KeyFileError` if it is empty or cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            passphrase = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}; a passphrase file is text") from None
    if not passphrase:
        raise KeyFileError(f"{path} holds no passphrase: write it into the first line")
    return passphrase


def is_sealed(path: str) -> bool:
    """Tell whether a key file has a passphrase."""
    with suppress(OSError), open(path, "rb", opener=_open_at_once) as file:
        return file.read(_KDF_AT + 1)[_KDF_AT:] == b"\x01"
    return False


def _open_at_once(path: str, flags: int) -> int:
    """Open a file as `open` does, but never wait for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def address_shown(address: Address) -> Address:
    """Put an address of this machine in the place of 0.0.0.0 or ::, so that others can paste it.

    It is the one that the way to the world begins with; behind NAT, or with several, only the user knows better.
    """
    if address.host not in _WORLD:
        return address
    family, far, near = _WORLD[address.host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, address.port))  # chooses a route and sends nothing
            return address._replace(host=probe.getsockname()[0])
    except OSError:
        return address._replace(host=near)


def descriptors_raise() -> None:
    """Let this process open as many files as the administrator allows: a connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else hard
    if soft not in (wanted, resource.RLIM_INFINITY):
        with suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def signals_caught(react: Callable[[], object]) -> Iterator[None]:
    """Call `react` at the first SIGINT or SIGTERM inside; a second one ends the process as it would have anyway."""
    loop = asyncio.get_running_loop()

    def restore() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def caught() -> None:
        restore()
        react()

    for number in _SIGNALS:
        loop.add_signal_handler(number, caught)
    try:
        yield
    finally:
        restore()


def async_run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine; SIGINT and SIGTERM cancel it, which closes what it has open."""

    async def cancellable() -> _T:
        task = asyncio.current_task()
        assert task
        with signals_caught(task.cancel):
            return await main

    descriptors_raise()
    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise click.Abort from None
