# SPDX-License-Identifier: MIT
"""Run the processes of `qg demo`, `qg bench` and `benchmarks/`, and read what they use. 1 GB is 10^9 bytes, 1 MB 10^6.

A process takes one JSON object per line, {"do": command, ...}, and answers each with one line; its first line says
that it is ready. It ends when its standard input does, so none outlives this process. The kernel's account of its CPU
time, all threads, user and system, is read before and after what is measured; starting and connecting do not count.
"""

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import click

from qg._core import _build_info as build
from qg.address import Address
from qg.identity import NetworkSecret

SUITES = ("aegis-256", "aes-256-gcm", "chacha20-poly1305", *(("null",) if build.IS_TEST else ()))

_ANSWER_TIMEOUT_S = 120.0
_EXIT_TIMEOUT_S = 10.0

suite_option = click.option(
    "--suite", type=click.Choice(SUITES), help="Cipher to use. Without it: the best that this machine has."
)


def suite_check(asked: str | None, used: str) -> None:
    """Raise `click.ClickException` unless the session uses the suite that was asked for, if one was."""
    if asked not in (None, used):
        raise click.ClickException(f"{asked} is not to be had on this machine, {used} is used; leave out --suite")


class Process:
    """A process that takes commands; `hello` is what it said when it was ready."""

    def __init__(self, name: str, command: Sequence[str], folder: Path | None = None) -> None:
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, text=True)
        try:
            self.hello = self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, timeout_s: float = _ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
        """Let it do something and return its answer; raises `click.ClickException` with its words if it could not."""
        self.post(do, **arguments)
        return self.answer(timeout_s)

    def post(self, do: str, **arguments: Any) -> None:
        """Let it do something; `answer` waits for it."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it died: its missing answer says so
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()

    def answer(self, timeout_s: float = _ANSWER_TIMEOUT_S) -> Any:
        """Wait for the answer to the oldest command that has none; errors as for `ask`."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            raise click.ClickException(f"the {self.name} process said nothing for {timeout_s:.0f} s; try again")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise click.ClickException(f"the {self.name} process ended with {code}; what it printed above tells why")
        answer = json.loads(line)
        if "error" in answer:
            raise click.ClickException(f"the {self.name} process failed: {answer['error']}")
        return answer["ok"]

    def close(self) -> None:
        """End it and wait until it is gone."""
        with self.process:
            assert self.process.stdin
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                self.process.wait(_EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for what it is doing
            self.process.kill()
        self.close()


class Role(Process):
    """A process of `qg.cli.roles`: the `kind` of them, under a name of its own if there are several."""

    def __init__(self, kind: str, name: str | None = None, **settings: Any) -> None:
        super().__init__(name or kind, [sys.executable, "-m", "qg.cli.roles", kind, json.dumps(settings)])


class Interval:
    """What roles use and count from its making to `stop`; each reads its clocks and counts at one moment."""

    def __init__(self, *roles: Role) -> None:
        self._roles = roles
        self._began = [role.ask("usage") for role in roles]

    def stop(self) -> None:
        """Fill in `used`: role to seconds, CPU seconds and what it counts."""
        ended = [role.ask("usage") for role in self._roles]
        self.used: dict[str, dict[str, float]] = {
            role.name: {key: after[key] - before[key] for key in before}
            for role, before, after in zip(self._roles, self._began, ended, strict=True)
        }
        self.wall_s = self.used[self._roles[-1].name]["at_s"]
        self.cpu_s = sum(used["cpu_s"] for used in self.used.values())

    def per_gb(self, n_bytes: float) -> dict[str, Any]:
        """Speed, and CPU seconds per GB of each role and in all."""
        cpu_s = {name: used["cpu_s"] for name, used in self.used.items()} | {"total": self.cpu_s}
        return {
            "mb_per_s": n_bytes / self.wall_s / 1e6,
            "cpu_s_per_gb": {name: seconds / n_bytes * 1e9 for name, seconds in cpu_s.items()},
        }


class Roles(NamedTuple):
    """A sender, a receiver, and the relays that stand between, the first of them next to the sender."""

    sender: Role
    relays: list[Role]
    receiver: Role

    @property
    def path(self) -> tuple[Role, ...]:
        """All of them in the order in which bytes go."""
        return self.sender, *self.relays, self.receiver

    @property
    def route(self) -> dict[str, Any]:
        """What tells the sender to `connect` over all relays."""
        return {"address": self.receiver.hello["address"], "via": [relay.hello["address"] for relay in self.relays]}


@contextmanager
def roles_run(suite: str | None, folder: str = "", n_relays: int = 0) -> Iterator[Roles]:
    """Run them; the receiver puts files into `folder`, and all use `suite`, None for the best there is."""
    shared = {"suite": suite, "secret": NetworkSecret.generate().export()}  # of a network that ends with this block
    names = [f"relay {idx + 1}" for idx in range(n_relays)] if n_relays > 1 else ["relay"] * n_relays
    # Relays of one circuit are of different networks; where there is no choice, the address that every system has.
    hosts = [f"127.{idx + 1}.0.1" for idx in range(n_relays)] if n_relays > 1 else ["127.0.0.1"] * n_relays
    with ExitStack() as stack:
        last = receiver = stack.enter_context(Role("receiver", host="127.0.0.1", folder=folder, **shared))
        relays: list[Role] = []
        for name, host in zip(reversed(names), reversed(hosts), strict=True):
            port = Address.parse(last.hello["address"]).port
            last = stack.enter_context(Role("relay", name, host=host, port=port, **shared))
            relays.insert(0, last)
        yield Roles(stack.enter_context(Role("sender", **shared)), relays, receiver)
