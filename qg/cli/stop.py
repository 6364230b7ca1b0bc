# SPDX-License-Identifier: MIT
"""`qg stop`: the end of a running node."""

import click

from qg.cli.common import control_option
from qg.control import control_path_default, control_stop


@click.command
@control_option
def command(control: str | None) -> None:
    """Stop the node that runs behind the control socket, and return when it has closed its links.

    \b
    Examples:
      qg stop
      qg stop --control /run/qg/relay.sock
    """
    control_stop(control or control_path_default())
