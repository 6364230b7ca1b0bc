# SPDX-License-Identifier: MIT
"""Whether the files that a configuration names can be used: found all at once, before a node is started with it."""

import os
from collections.abc import Callable
from typing import Any

from qg.config import Config
from qg.errors import KeyFileError, KeyFileMissing
from qg.identity import NetworkSecret

__all__ = ["files_check"]


def files_check(config: Config, identity_open: Callable[[str], Any]) -> list[str]:
    """Give a line for each file of the configuration that a node would stumble over; `identity_open` opens key files.

    Whether an endpoint can be listened on is not tried: the node that runs may have it.
    """
    problems = []
    readers: dict[str, Callable[[str], Any]] = {
        "identity": identity_open,
        "network_secret": NetworkSecret.load,
        "network_secret_previous": NetworkSecret.load,
    }
    for key, read in readers.items():
        path = getattr(config, key)
        if path is not None:
            try:
                read(path)
            except KeyFileError as error:
                if key == "identity" and config.wait_for_key and isinstance(error, KeyFileMissing):
                    continue  # it comes later
                problems.append(f"{key}: {error}")
    for key in ("replay_mark", "guards", "relay_account", "control_socket"):
        path = getattr(config, key)
        if path is not None and (reason := _place_fault(path)):
            problems.append(f"{key} = {path!r}: {reason}")
    return problems


def _place_fault(path: str) -> str | None:
    """Say why a file could not be made or written there."""
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else "it cannot be written to"
    folder = os.path.dirname(path) or "."
    while not os.path.exists(folder):  # a control socket's folder is made
        folder = os.path.dirname(folder) or "."
    return None if os.access(folder, os.W_OK | os.X_OK) else f"the folder {folder} cannot be written to"
