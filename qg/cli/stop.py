# SPDX-License-Identifier: MIT
"""`qg stop`: the end of a running node."""

import click

from qg.cli.common import control_option
from qg.control import control_path_default, control_stop


@click.command
@click.option("--now", "is_now", is_flag=True, help="Do not wait for circuits through the node: cut them.")
@control_option
def command(is_now: bool, control: str | None) -> None:
    """Stop the node that runs behind the control socket, and return when it has closed its links.

    A relay takes no new circuits from then on, and gives those that pass through it relay.drain_s seconds (30) to end.

    \b
    Examples:
      qg stop
      qg stop --now
      qg stop --control /run/qg/relay.sock
    """
    control_stop(control or control_path_default(), "stop_now" if is_now else "stop")
