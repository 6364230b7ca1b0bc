# SPDX-License-Identifier: MIT
"""`qg status`: what a running node is doing."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from qg.cli.common import control_option
from qg.cli.text import duration_text, size_text, table_text
from qg.control import control_ask, control_path_default
from qg.status import COUNTERS

_WIDTH = 80
_SKEW_MAX_S = 60  # half of the window that is usual (docs/protocol.md, section 3.5)
_SKEWED = " (others refuse this clock from 120 s on: set it)"
_CARRIERS = {"tcp": "", "pipe": " over relays"}


@click.command
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead.")
@control_option
def command(is_json: bool, control: str | None) -> None:
    """Show peers, links, relayed bytes, counters, memory and clock of the node behind the control socket.

    Counters tell by reason what was dropped or refused: an attacker's flood shows there and nowhere else. The clock's
    skew is the median of what peers say; beyond 120 s others no longer take our handshakes.

    \b
    Examples:
      qg status
      qg status --json | jq .counters
      qg status --control /run/qg/relay.sock
    """
    status = control_ask(control or control_path_default(), "status")
    print(json.dumps(status, indent=2) if is_json else "\n".join(_lines(status)))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    skew = status["clock_skew_s"]
    facts = {
        "version": status["version"],
        "PeerID": status["peer_id"],
        "link key": status["link_key"],
        "up": duration_text(status["uptime_s"]) + (", draining: it is about to stop" if status["is_draining"] else ""),
        "listening": ", ".join(status["listen"]) or "nowhere: this node only dials",
        "relayed": f"{size_text(status['relayed_bytes'])}, {status['n_splices']} circuits now,"
        f" {status['n_circuit_links']} links made for them",
        "this month": _month_text(status["relayed_month_bytes"], status["relayed_month_limit"]),
        "memory": f"{size_text(status['memory_bytes'])} in pools, {size_text(status['locked_bytes'])} for secrets"
        + ("" if status["is_locked"] else " (NOT locked: secrets may reach the swap file; raise `ulimit -l`)"),
        "clock skew": "not known yet" if skew is None else f"{skew:+.0f} s{_SKEWED if abs(skew) > _SKEW_MAX_S else ''}",
        "security": f"level {status['security']}, {size_text(status['cover_bytes'])} of cover sent",
        "access": f"store {status['access']}",
        "overload": ", ".join(status["overload"]) or "none",
        "peers": str(len(status["peers"])),
    }
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        yield textwrap.fill(name.ljust(width) + value, _WIDTH, subsequent_indent=" " * width, break_on_hyphens=False)
    if len(status["workers"]) > 1:
        yield f"\n{_workers_table(status['workers'])}"
    if status["links"]:
        yield f"\n{_links_table(status['links'])}"
    if status["kept"]:
        yield f"\n{table_text([('kept', 'tries', 'next try'), *map(_kept_row, status['kept'])])}"
    if status["extenders"]:
        yield "\nservices"
        for extender in status["extenders"]:
            yield textwrap.fill(_extender_text(extender), _WIDTH, initial_indent="  ", subsequent_indent="    ")
    if status["counters"]:
        yield ""
        width = max(map(len, status["counters"]))
        for name, n in sorted(status["counters"].items()):
            text = f"{name.ljust(width)} {n:9}  {COUNTERS.get(name, '')}"
            yield textwrap.fill(text, _WIDTH, subsequent_indent=" " * (width + 12))


def _month_text(used: int, limit: int) -> str:
    if not limit:
        return f"{size_text(used)} relayed, in and out"
    spent = ": no new circuits until it ends" if used >= limit else ""
    return f"{size_text(used)} of {size_text(limit)} relayed, in and out{spent}"


def _kept_row(kept: dict[str, Any]) -> tuple[str, str, str]:
    """A peer that is dialled again when it is gone; its address without the key, which would fill the line."""
    state = "now"
    if kept["is_connected"]:
        state = "connected"
    elif kept["next_try_s"] is not None:
        state = f"in {duration_text(kept['next_try_s'])}"
    place = kept["address"].partition("?")[0].rpartition("@")[2].removeprefix("qg://")
    return f"{place} {(kept['peer_id'] or '')[:8]}", str(kept["n_tries"]), state


def _extender_text(extender: dict[str, Any]) -> str:
    """A service that is offered, with what it has counted."""
    figures = [f"{word} {n}" for word, n in sorted(extender["counts"].items())]
    if extender["is_stopped"]:
        figures.insert(0, f"STOPPED, it failed {extender['n_failures']} times, see the log")
    elif extender["n_failures"]:
        figures.insert(0, f"FAILED {extender['n_failures']} times, see the log")
    name = f"{extender['name']} {extender['version']}".rstrip()
    return f"{name}: {', '.join(figures)}" if figures else name


def _workers_table(workers: list[dict[str, Any]]) -> str:
    header = ("worker", "sessions", "in", "out", "circuits", "relayed", "CPU")
    rows = [
        (
            str(number),
            str(worker["n_sessions"]),
            size_text(worker["bytes_in"]),
            size_text(worker["bytes_out"]),
            str(worker["n_splices"]),
            size_text(worker["relayed_bytes"]),
            duration_text(worker["cpu_s"]),
        )
        for number, worker in enumerate(workers)
    ]
    return table_text([header, *rows])


def _links_table(links: list[dict[str, Any]]) -> str:
    """Two lines for each link: figures in columns, then where it leads and which cipher it uses."""
    header = ("link", "age", "in", "out", "streams", "rekeys", "rtt")
    rows = [
        (
            f"{'to' if link['is_outgoing'] else 'from'} {link['peer_id'][:8]}",
            duration_text(link["age_s"]),
            size_text(link["bytes_in"]),
            size_text(link["bytes_out"]),
            str(link["n_streams"]),
            str(link["generation"]),
            "-" if link["rtt_us"] is None else f"{link['rtt_us'] / 1000:.1f} ms",
        )
        for link in links
    ]
    head, *lines = table_text([header, *rows]).splitlines()
    where = [f"  {link['remote']}{_CARRIERS[link['carrier']]}, {link['suite']}" for link in links]
    return "\n".join([head, *(text for pair in zip(lines, where, strict=True) for text in pair)])
