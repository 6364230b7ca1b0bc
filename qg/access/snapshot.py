# SPDX-License-Identifier: MIT
"""The rules as they last were, in a file of this machine: what a node goes by while its store cannot be reached."""

import errno
import logging
import os
import stat

import msgspec

from qg.access.rules import NetworkRule, PeerRule, Rules, network_check, peer_check
from qg.address import Prefix
from qg.errors import InvalidValue
from qg.storage import file_replace
from qg.types import PeerId

__all__ = ["snapshot_load", "snapshot_save"]

_log = logging.getLogger("qg.access")

_Flag = bool | None


class _Snapshot(msgspec.Struct):
    networks: list[tuple[str, bool, str]]
    peers: list[tuple[str, str, _Flag, _Flag, _Flag, int | None]]


def snapshot_save(path: str, rules: Rules) -> None:
    """Write the rules; raises OSError."""
    networks = [(str(rule.network), rule.is_allowed, rule.note) for rule in rules.networks.values()]
    peers = [(str(rule.peer_id), *rule[1:]) for rule in rules.peers.values()]
    file_replace(path, msgspec.json.encode(_Snapshot(networks, peers)))


def _open(path: str, flags: int) -> int:
    """Open a file that nobody but this user and root can have written; raises OSError."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO would be waited for
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        os.close(descriptor)
        raise OSError(errno.EPERM, "it is no file, or others may write it")
    return descriptor


def snapshot_load(path: str) -> Rules | None:
    """Read the rules; None, with a line in the log, where there are none or they are damaged."""
    try:
        with open(path, "rb", opener=_open) as file:
            snapshot = msgspec.json.decode(file.read(), type=_Snapshot)
        return Rules(
            (network_check(NetworkRule(Prefix.parse(row[0]), row[1], row[2])) for row in snapshot.networks),
            (peer_check(PeerRule(PeerId(row[0]), *row[1:])) for row in snapshot.peers),
        )
    except OSError as error:
        _log.warning("no_snapshot path=%s: %s", path, error.strerror)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidValue) as error:
        _log.warning("no_snapshot path=%s: it is damaged: %s", path, error)
    return None
