# SPDX-License-Identifier: MIT
"""`qg reload`: a changed configuration for a running node."""

import click

from qg.cli.common import control_option
from qg.control import control_ask, control_path_default


@click.command
@control_option
def command(control: str | None) -> None:
    """Let the node that runs behind the control socket read its configuration, keys and secrets anew.

    It takes all of it, or rejects all of it: then every line that is wrong, or that needs a restart, is printed, the
    exit code is 1, and the node runs on as before. SIGHUP does the same, and says it in the log.

    \b
    Examples:
      qg reload
      qg reload --control /run/qg/qg.sock
    """
    changes = control_ask(control or control_path_default(), "reload")["changes"]
    print(f"changed: {', '.join(changes)}" if changes else "nothing has changed")
