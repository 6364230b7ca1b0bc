# SPDX-License-Identifier: MIT
"""`qg bench`: what this machine can do."""

import json
import time
from collections.abc import Callable
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any

import click

from qg.cli.common import descriptors_raise
from qg.cli.measure import Interval, Role, Roles, roles_run, suite_check, suite_option

_WARM_UP_S = 0.5
_N_IN_FLIGHT = 16  # connections at a time
_N_FEW, _N_MANY = 1_000, 3_000  # idle sessions; what one takes is the slope between
_N_SPARE = 100  # descriptors beside those of sessions
_TIMEOUT_S = 120.0

Figures = dict[str, Any]


def _link(roles: Roles, seconds: float) -> Figures:
    interval = _push(roles, "bytes", seconds)
    return interval.per_gb(interval.used["receiver"]["n_bytes"])


def _circuit(roles: Roles, seconds: float) -> Figures:
    return _ping(roles, seconds) | _link(roles, seconds)


def _ping(roles: Roles, seconds: float) -> Figures:
    roles.sender.ask("ping", seconds=_WARM_UP_S)
    figures: Figures = roles.sender.ask("ping", seconds=seconds, timeout_s=seconds + _TIMEOUT_S)
    return figures


def _messages(roles: Roles, seconds: float) -> Figures:
    roles.receiver.ask("messages_take")
    interval = _push(roles, "messages", seconds)
    return {"messages_per_s": interval.used["receiver"]["n_messages"] / interval.wall_s}


def _handshake(roles: Roles, seconds: float) -> Figures:
    sender, _, receiver = roles
    target = receiver.hello["address"]
    run = {"address": target, "n_in_flight": _N_IN_FLIGHT, "timeout_s": seconds + _TIMEOUT_S}
    sender.ask("handshakes", seconds=_WARM_UP_S, **run)
    interval = Interval(sender, receiver)
    n_done = sender.ask("handshakes", seconds=seconds, **run)
    interval.stop()
    return {
        "handshakes_per_s": n_done / interval.wall_s,
        "cpu_ms_per_handshake": interval.cpu_s / n_done * 1e3,
        "bytes_per_idle_session": _idle_session_measure(sender, receiver),
    }


def _idle_session_measure(sender: Role, receiver: Role) -> float:
    """Resident bytes of one more idle session at the receiver."""
    n_descriptors = getrlimit(RLIMIT_NOFILE)[0]
    if n_descriptors < _N_MANY + _N_SPARE:
        raise click.ClickException(
            f"{_N_MANY} idle sessions take more descriptors than the {n_descriptors} allowed; raise `ulimit -Hn`"
        )
    resident_len = []
    for n in (_N_FEW, _N_MANY):
        sender.ask("hold", address=receiver.hello["address"], n=n, n_in_flight=_N_IN_FLIGHT)
        resident_len.append(receiver.ask("memory")["resident_len"])
    few_len, many_len = resident_len
    return float((many_len - few_len) / (_N_MANY - _N_FEW))


def _push(roles: Roles, what: str, seconds: float) -> Interval:
    """Let the sender send without end, and measure in the middle of it."""
    roles.sender.ask("push", what=what)
    time.sleep(_WARM_UP_S)
    interval = Interval(*roles.path)
    time.sleep(seconds)
    interval.stop()
    roles.sender.ask("push_end")
    return interval


_MEASURES: dict[str, Callable[[Roles, float], Figures]] = {
    "link": _link,
    "relay": _link,
    "circuit": _circuit,
    "ping": _ping,
    "handshake": _handshake,
    "messages": _messages,
}
_UNITS = {
    "mb_per_s": "MB/s",
    "cpu_s_per_gb": "CPU s/GB",
    "p50_us": "us, half of the round trips are below",
    "p99_us": "us, 99 % of the round trips are below",
    "build_ms": "ms to build a circuit, median",
    "handshakes_per_s": "handshakes/s",
    "cpu_ms_per_handshake": "CPU ms per handshake, both sides",
    "messages_per_s": "messages/s",
    "bytes_per_idle_session": "bytes per idle session",
}


@click.command
@click.argument("what", type=click.Choice(list(_MEASURES)))
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="How long it takes.")
@click.option("--hops", type=click.IntRange(1, 7), default=3, show_default=True, help="Relays of a circuit.")
@click.option("--circuits", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Circuits at a time.")
@suite_option
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead.")
def command(what: str, seconds: float, hops: int, circuits: int, suite: str | None, is_json: bool) -> None:
    """Measure qg on this machine, with a process for each node, over loopback and the public API.

    \b
      link        bytes over one link: MB/s, CPU seconds per GB
      relay       bytes over one relay: the same, for the relay too
      circuit     bytes over circuits of --hops relays, --circuits at a time:
                  the same for each relay, round trips of 64 bytes over the
                  first of them, and how long it took to build one
      ping        64 bytes there and back: microseconds
      handshake   connections under new identities, 16 at a time; then 3,000 that
                  stay idle, for what memory each of them takes
      messages    messages of 64 bytes one way

    \b
    Examples:
      qg bench link
      qg bench relay --suite chacha20-poly1305 --seconds 10
      qg bench circuit --hops 3 --circuits 8
      qg bench ping --json
    """
    descriptors_raise()
    n_relays = {"relay": 1, "circuit": hops}.get(what, 0)
    shape = {"hops": hops, "circuits": circuits} if what == "circuit" else {}
    with roles_run(suite, n_relays=n_relays) as roles:
        connected = roles.sender.ask("connect", n_times=shape.get("circuits", 1), **roles.route)
        suite_check(suite, connected["suite"])
        figures = _MEASURES[what](roles, seconds)
    if shape:
        figures |= {"build_ms": connected["ms"], **shape}
    figures |= {"suite": connected["suite"], "seconds": seconds}
    print(json.dumps(figures) if is_json else _figures_text(what, figures))


def _figures_text(what: str, figures: Figures) -> str:
    rows = []
    for key, unit in _UNITS.items():
        value = figures.get(key)
        if isinstance(value, dict):
            rows += [(f"{value[role]:,.2f}", f"{unit}, {role}") for role in value]
        elif value is not None:
            rows.append((f"{value:,.{0 if value >= 1000 else 2}f}", unit))
    width = max(len(number) for number, _ in rows)
    shape = f", {figures['hops']} relays, {figures['circuits']} circuits" if "hops" in figures else ""
    head = f"{what}{shape}, {figures['suite']}, {figures['seconds']:g} s"
    return "\n".join([head, *(f"{number.rjust(width)}  {unit}" for number, unit in rows)])
