# SPDX-License-Identifier: MIT
"""`qg run`: a node that runs until it is stopped."""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import click
import msgspec

import qg
from qg.cli.common import (
    ENDPOINT,
    FILE,
    Parsed,
    address_shown,
    control_option,
    descriptors_raise,
    guards_default,
    identity_open,
    identity_option,
    is_sealed,
    network_option,
    network_previous_option,
    passphrase_option,
    relay_account_default,
    replay_mark_default,
    signals_caught,
)
from qg.control import control_path_default
from qg.daemon import Daemon
from qg.dumps import core_dumps_forbid
from qg.errors import KeyFileError, LocalError
from qg.logs import logs_start
from qg.notify import Notifier

_log = logging.getLogger("qg.cli")

_KEY_LOOK_S = 1.0  # between two looks for a key file that is not there yet
_KEY_PATIENCE_S = 30.0  # asked of the service manager at each


def _relay_user_parse(text: str) -> Any:
    return text if text in ("none", "members") else qg.PeerId(text)


@click.command
@click.option("-c", "--config", "config_file", type=FILE, metavar="FILE", help="Configuration in TOML.")
@identity_option
@passphrase_option
@click.option(
    "--listen",
    type=ENDPOINT,
    multiple=True,
    metavar="ENDPOINT",
    help="Where to wait for peers, such as tcp://0.0.0.0:7447. May be given several times.",
)
@network_option
@network_previous_option
@click.option(
    "--relay",
    type=Parsed("none|members|PEERID", _relay_user_parse),
    multiple=True,
    metavar="none|members|PEERID",
    help="For whom to relay: nobody, the closed network, or these PeerIDs. May be given several times.",
)
@click.option("--workers", type=click.IntRange(1, 64), help="Threads that carry the data; one per core if not given.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged on stderr.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Lines for people, or one JSON object each.")
@click.option("--wait-for-key", is_flag=True, help="Without the key file, wait until its medium is plugged in.")
@click.option("--no-core-dumps", is_flag=True, help="Let the system write no core dump of this process.")
@click.option("--notify", "is_notifying", is_flag=True, help="Tell the service manager how it goes (Type=notify).")
@control_option
def command(
    config_file: str | None,
    identity: str | None,
    passphrase_file: str | None,
    control: str | None,
    is_notifying: bool,
    **options: Any,
) -> None:
    """Run a node until SIGINT, SIGTERM or `qg stop`, and print the address that others paste.

    SIGTERM and `qg stop` let circuits through the node end first, for relay.drain_s seconds at most; SIGINT does not.

    Options win over the configuration file. Without --listen (or `listen` in the file) the node only dials. Relaying
    is off unless --relay, or [relay] in the file, allows it.

    \b
    Examples:
      qg run --listen tcp://0.0.0.0:7447
      qg run -i node.key --listen tcp://0.0.0.0:7447 --network friends.net \\
          --relay members
      qg run -c qg.toml --log-level debug

    \b
    A configuration file, every key optional:
      identity = "node.key"
      listen = ["tcp://0.0.0.0:7447", "tcp://[::]:7447"]
      network_secret = "friends.net"
      [relay]
      allow = "members"
      ports = [7447]
    """
    source = _Source(config_file, identity, passphrase_file, options)
    config = source.config()
    logs_start(config.log_level, config.log_format)
    notifier = Notifier.from_environment() if is_notifying else Notifier()
    if config.no_core_dumps:
        core_dumps_forbid()
    descriptors_raise()
    if config.identity is None:
        if config.wait_for_key:
            raise click.UsageError("there is no key file to wait for: name it by --identity, or `identity` in the file")
        _log.warning("no_key_file: a throw-away identity, new at every start; make one with `qg keygen`")
    control_path = Path(control or config.control_socket or control_path_default())
    asyncio.run(_serve(source, config, notifier, control_path))


@final
class _Source:
    """What the command line and the files say: read at the start, and again at each reload."""

    def __init__(
        self, config_file: str | None, key_file: str | None, passphrase_file: str | None, options: dict[str, Any]
    ) -> None:
        self._config_file = config_file
        self._key_file = key_file
        self._passphrase_file = passphrase_file
        self._options = options
        self._key_stamp: tuple[int, int] | None = None  # of the key file at the start

    def config(self) -> "qg.Config":
        config = qg.Config.load(self._config_file) if self._config_file else qg.Config()
        config = _options_apply(config, **self._options)
        key_file = self._key_file or config.identity
        return msgspec.structs.replace(
            config,
            identity=key_file,
            replay_mark=config.replay_mark or replay_mark_default(key_file),
            guards=config.guards or guards_default(key_file),
            relay_account=config.relay_account or relay_account_default(key_file),
        )

    def identity(self, config: "qg.Config") -> "qg.Identity":
        self._key_stamp = self._key_stamp or _stamp(config.identity)
        return identity_open(config.identity, self._passphrase_file)

    def again(self) -> "tuple[qg.Config, qg.Identity | None]":
        """Read all of it once more; the identity is None unless its key file has changed."""
        try:
            config = self.config()
        except click.ClickException as error:
            raise LocalError(error.format_message()) from None
        stamp = _stamp(config.identity)
        if stamp is None or stamp == self._key_stamp:  # its medium may have been taken away: the node has its keys
            return config, None
        assert config.identity is not None
        if self._passphrase_file is None and is_sealed(config.identity):
            raise KeyFileError(
                f"{config.identity} has changed and has a passphrase: restart the node, or start it with"
                " --passphrase-file"
            )
        return config, self.identity(config)


def _stamp(path: str | None) -> tuple[int, int] | None:
    """Tell a file from the one that was there before: files of keys are replaced, not changed."""
    try:
        found = os.stat(path) if path is not None else None
    except OSError:  # whoever opens it says what is wrong
        found = None
    return None if found is None else (found.st_ino, found.st_mtime_ns)


async def _serve(source: _Source, config: "qg.Config", notifier: Notifier, control_path: Path) -> None:
    if config.wait_for_key and config.identity is not None and not await _key_wait(config.identity, notifier):
        notifier.close()
        return
    await Daemon(source.identity(config), config, notifier, _announce, source.again).run(control_path)


async def _key_wait(path: str, notifier: Notifier) -> bool:
    """Wait until a key file is there; False: a signal came before it."""
    if os.path.lexists(path):
        return True
    stopped = asyncio.Event()
    with signals_caught(stopped.set):
        _log.warning("key_awaited file=%s: the node starts once this file is there", path)
        notifier.waiting(f"waiting for the key file {path}")
        while not stopped.is_set() and not os.path.lexists(path):
            notifier.extend(_KEY_PATIENCE_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _KEY_LOOK_S)
    return not stopped.is_set()


def _options_apply(
    config: "qg.Config",
    listen: "tuple[qg.Endpoint, ...]",
    network: str | None,
    network_previous: str | None,
    relay: "tuple[str | qg.PeerId, ...]",
    workers: int | None,
    log_level: str | None,
    log_format: str | None,
    wait_for_key: bool,
    no_core_dumps: bool,
) -> "qg.Config":
    """Put what was given on the command line over the configuration."""
    given: dict[str, Any] = {
        "listen": listen,
        "workers": workers,
        "log_level": log_level,
        "log_format": log_format,
        "wait_for_key": wait_for_key,
        "no_core_dumps": no_core_dumps,
    }
    if network or network_previous:  # both secrets of the file go, or neither
        if network is None and config.network_secret is None:
            raise click.UsageError("--network-previous stands beside --network, the secret that is used now")
        given |= {"network_secret": network or config.network_secret, "network_secret_previous": network_previous}
    if relay:
        words = [user for user in relay if isinstance(user, str)]
        if words and len(relay) > 1:
            raise click.UsageError(f"--relay {words[0]} stands alone; give it once, or only PeerIDs")
        given["relay"] = msgspec.structs.replace(config.relay, allow=words[0] if words else relay)
    return msgspec.structs.replace(config, **{name: value for name, value in given.items() if value})


def _announce(node: "qg.Node") -> None:
    for address in node.addresses:
        print(address_shown(address), flush=True)
