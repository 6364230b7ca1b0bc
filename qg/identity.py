# SPDX-License-Identifier: MIT
"""Who a node is, and which network it belongs to: keys, and the files they are kept in (docs/protocol.md, section 2).

The secrets live in guarded memory of the compiled core and never become Python objects; what is seen here is public.
"""

import time
from os import PathLike
from typing import NoReturn, final

from qg._core.keyfile import KeyRing, NetworkSecret
from qg.errors import InvalidValue, KeyFileExists, KeyFileMissing, UsageError
from qg.types import LinkKey, PeerId

__all__ = ["Identity", "NetworkSecret"]

_DAY_S = 86400
_OVERLAP_DAYS_MAX = 3650

_Path = str | PathLike[str]


@final
class Identity:
    """Hold the identity of a node: its long-lived key, and the link keys that its addresses carry.

    Made by `generate`, `load` or `load_or_create`. An identity that is never saved is a throw-away one. Any thread
    may use it. It cannot be pickled, and neither `repr` nor a traceback shows a secret.
    """

    __slots__ = ("_ring",)

    _ring: KeyRing

    def __init__(self) -> None:
        raise UsageError("an Identity comes from Identity.generate, Identity.load or Identity.load_or_create")

    @classmethod
    def _of(cls, ring: KeyRing) -> "Identity":
        self = object.__new__(cls)
        self._ring = ring
        return self

    @classmethod
    def generate(cls) -> "Identity":
        """Make a new identity with one link key; nothing is written."""
        return cls._of(KeyRing.generate(int(time.time())))

    @classmethod
    def load(cls, path: _Path, *, passphrase: str | None = None) -> "Identity":
        """Read a key file.

        With a passphrase this takes about a second and 256 MiB (Argon2id); other threads run on meanwhile. Raises
        `KeyFileError` for a file that is missing, a symbolic link, not ours, open to other users, damaged, or
        protected by another passphrase; also when the file has no passphrase but one is given, so that nobody can
        slip in a file of theirs.
        """
        return cls._of(KeyRing.load(path, _passphrase_bytes(passphrase)))

    @classmethod
    def load_or_create(cls, path: _Path, *, passphrase: str | None = None) -> "Identity":
        """Read a key file, or make a new identity and write it there if there is none; errors as for `load`."""
        try:
            return cls.load(path, passphrase=passphrase)
        except KeyFileMissing:
            identity = cls.generate()
        try:
            identity.create(path, passphrase=passphrase)
        except KeyFileExists:  # another process was first: its identity is the one
            return cls.load(path, passphrase=passphrase)
        return identity

    def create(self, path: _Path, *, passphrase: str | None = None) -> None:
        """Write a new key file of mode 0600; without a passphrase it is as safe as the disk.

        The file is there whole or not at all, whatever happens meanwhile. Raises `KeyFileExists` if the name is taken,
        `KeyFileError` if it cannot be written.
        """
        self._ring.create(path, _passphrase_bytes(passphrase))

    def save(self, path: _Path, *, passphrase: str | None = None) -> None:
        """Write the key file as `create` does, but in the place of an older one if there is one.

        A crash leaves the old file or the new one. Use it after `rotate_link_key` or to change the passphrase: the
        identity that an overwritten file held is gone for good.
        """
        self._ring.replace(path, _passphrase_bytes(passphrase))

    @property
    def peer_id(self) -> PeerId:
        """Give the PeerID, which stays as long as the identity."""
        return PeerId(self._ring.peer_id)

    @property
    def link_key(self) -> LinkKey:
        """Give the public link key that new addresses carry."""
        return LinkKey(self._ring.link_keys[-1][0])

    @property
    def link_keys(self) -> tuple[LinkKey, ...]:
        """Give all public link keys that are in use now, the newest last: more than one during an overlap."""
        now_s = time.time()
        keys = self._ring.link_keys
        return (*(LinkKey(key) for key, _, not_after in keys[:-1] if now_s < not_after), LinkKey(keys[-1][0]))

    def rotate_link_key(self, overlap_days: int = 90) -> None:
        """Make a new link key; addresses with the one before keep working for `overlap_days`, with older ones no more.

        Nothing is written: `save` the identity. A node takes the new key when it is started. Raises `InvalidValue`
        for a number of days that is not 0 to 3650.
        """
        if not 0 <= overlap_days <= _OVERLAP_DAYS_MAX:
            raise InvalidValue(f"overlap_days is {overlap_days}: it must be from 0 to {_OVERLAP_DAYS_MAX}")
        self._ring = self._ring.rotate(int(time.time()), overlap_days * _DAY_S)

    def __repr__(self) -> str:
        return f"<Identity {self.peer_id}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError("an Identity is not serialised: save it to a key file")


def _passphrase_bytes(passphrase: str | None) -> bytes | None:
    if passphrase == "":
        raise InvalidValue("the passphrase is empty: give one, or none at all for a file without protection")
    return None if passphrase is None else passphrase.encode()
