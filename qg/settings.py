# SPDX-License-Identifier: MIT
"""What a running node goes by: its configuration, keys, secrets and rules of access, and how the core takes them."""

import asyncio
from collections.abc import Callable
from typing import Any, final

from qg._core.runtime import Runtime
from qg.access import Access
from qg.config import Config
from qg.dial import start_error
from qg.errors import ConfigError, UsageError
from qg.flow import wake
from qg.identity import Identity, NetworkSecret
from qg.policy import runtime_options
from qg.reload import changes_check

__all__ = ["Settings"]

_Secrets = tuple[NetworkSecret | None, NetworkSecret | None]


@final
class Settings:
    """Hold what is in force; `on_taken` is called each time that the core has taken something else."""

    def __init__(
        self, identity: Identity, config: Config, network_secret: NetworkSecret | None, on_taken: Callable[[], None]
    ) -> None:
        self.identity = identity
        self.config = config
        self.access = Access(config, self._rules_take)
        self._given = network_secret  # in the place of the one in a file
        self._secrets: _Secrets = (None, None)  # of the network: that, and the one before
        self._on_taken = on_taken
        self._runtime: Runtime | None = None
        self._turn = asyncio.Lock()
        self._taken: asyncio.Future[None] | None = None  # while the core takes something
        self._is_changing = False

    async def start(self, services: list[bytes]) -> Runtime:
        """Start the core; raises `LocalError`, `ConfigError`, `KeyFileError`."""
        self._secrets = self._secrets_read(self.config)
        await self.access.open()
        try:
            options = self._options(self.config, self._secrets) | {"services": services}
            runtime = Runtime(self.identity._ring, *self._secrets, options)
            runtime.start()
        except BaseException as error:
            await self.access.close()
            raise start_error(error) if isinstance(error, (OSError, MemoryError)) else error from None
        self._runtime = runtime
        return runtime

    async def change(self, config: Config, identity: Identity) -> list[str]:
        """Have the core take a changed configuration, and give the names of what changed; as `Node.configure`."""
        if self._is_changing:
            raise UsageError("the node takes no configuration now: it takes one already")
        changes = changes_check(self.config, config)
        self._is_changing = True
        try:
            await self._take(config, identity, self._secrets_read(config))
        finally:
            self._is_changing = False
        return changes

    def taken(self) -> None:
        """Take note that the core has taken what it was given, or never will."""
        wake(self._taken)
        self._taken = None

    async def close(self) -> None:
        """Let go of the store of access rules; nothing is taken from now on."""
        self._runtime = None
        await self.access.close()

    async def _rules_take(self) -> None:
        await self._take(self.config, self.identity, self._secrets)

    async def _take(self, config: Config, identity: Identity, secrets: _Secrets) -> None:
        async with self._turn:
            if self._taken is not None:  # somebody waits no longer for it
                await asyncio.shield(self._taken)
            if self._runtime is None:
                return
            try:
                self._runtime.configure(identity._ring, *secrets, self._options(config, secrets))
            except ValueError as error:
                raise ConfigError(str(error)) from None
            self.config, self.identity, self._secrets = config, identity, secrets
            self.access.config = config
            self._taken = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._taken)
            self._on_taken()

    def _secrets_read(self, config: Config) -> _Secrets:
        secret = self._given
        if secret is None and config.network_secret is not None:
            secret = NetworkSecret.load(config.network_secret)
        previous = config.network_secret_previous
        return secret, None if previous is None else NetworkSecret.load(previous)

    def _options(self, config: Config, secrets: _Secrets) -> dict[str, Any]:
        """Give what the core takes of a configuration and the rules of access."""
        try:
            return runtime_options(config, secrets[0], self.access.rules)
        except OSError as error:
            raise start_error(error) from None
