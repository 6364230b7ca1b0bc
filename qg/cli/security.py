# SPDX-License-Identifier: MIT
"""`qg security`: the level of security of a running node."""

from collections.abc import Iterator

import click

from qg.cli.common import control_option
from qg.cli.text import table_text
from qg.config import Config, CoverConfig
from qg.control import control_ask, control_path_default
from qg.security import LEVELS


@click.command
@click.argument("level", required=False, type=click.Choice(list(LEVELS)))
@control_option
def command(level: str | None, control: str | None) -> None:
    """Show the levels of security, or have the running node go to LEVEL.

    A level decides how much is padded, covered and delayed, and how often keys change. Sessions that are open go on:
    cover changes at once, the rest with the next handshake. It holds until the node reads its configuration again;
    `security = "three"` there makes it last. What each level hides and costs: docs/security-levels.md.

    \b
    Examples:
      qg security
      qg security four
    """
    answer = control_ask(control or control_path_default(), "security", **({} if level is None else {"level": level}))
    if level is None:
        print(
            table_text([("", "delay", "padding", "cover", "over relays", "new keys", "clock"), *_rows(answer["level"])])
        )
        if answer["level"] == "custom":
            print("\nThis node is at none of them: [link] and [cover] of its configuration hold.")
    elif answer["changes"]:
        print(f"changed: {', '.join(answer['changes'])}")
    else:
        print(f"level {level} is in force already")


def _rows(now: str) -> Iterator[tuple[str, ...]]:
    for name in LEVELS:
        config = Config().at_level(name)
        link, cover = config.link, config.cover
        yield (
            f"{'*' if name == now else ' '} {name}",
            f"{link.handshake_delay_ms / 1000:g} s",
            link.padding,
            _cover_text(cover),
            "yes" if cover.mode != "off" and cover.circuits else "no",
            f"{link.rekey_s} s",
            f"{link.clock_window_s} s",
        )


def _cover_text(cover: CoverConfig) -> str:
    rates = {
        "chaff": f"chaff, {cover.records_max} a minute",
        "poisson": f"{cover.rate_per_s} turns/s",
        "shaped": f"{cover.rate_per_s} to {cover.rate_max_per_s} turns/s",
    }
    return rates.get(cover.mode, "none")
