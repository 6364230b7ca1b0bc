# SPDX-License-Identifier: MIT
"""The command line: `qg COMMAND`. A command is one file here, `command` in it, and is imported only when it is used.

Exit codes: 0 done, 1 failed, 2 misuse. What goes wrong is said in one line on stderr that tells what to do.
"""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from qg.errors import InvalidValue, QGError

__all__ = ["main"]

# What `qg --help` shows, in its order; `qg COMMAND --help` has the rest.
SECTIONS = {
    "Keys and addresses": {
        "keygen": "Make a key file, or the secret of a closed network.",
        "address": "Print the line that others paste to reach a node.",
    },
    "A node of your own": {
        "run": "Run a node until it is stopped.",
        "check": "Check a configuration and the files that it names.",
        "status": "Show what a running node is doing.",
        "access": "Say who may connect to a running node, and what they may.",
        "security": "Show or change how much a running node hides.",
        "reload": "Let a running node read its configuration anew.",
        "stop": "Stop a running node.",
    },
    "Reaching others": {
        "ping": "Measure the way to a node.",
        "send": "Send a file or a folder to whoever runs `qg receive`.",
        "receive": "Wait for a file.",
        "chat": "Talk to others in the terminal.",
        "socks": "Let programs of this machine reach the internet through an exit.",
        "forward": "Have ports lead to what another machine reaches.",
    },
    "This machine": {
        "demo": "Send a file through three nodes here and check every byte.",
        "bench": "Measure links, relays, circuits, round trips, handshakes or messages.",
        "version": "Show the version, and how qg was built.",
    },
}
COMMANDS = {name for section in SECTIONS.values() for name in section}


class Commands(click.Group):
    """The group of all commands: imports the one that is called, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"qg.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))

    def main(self, args: Sequence[str] | None = None, *_: Any, **options: Any) -> NoReturn:
        try:
            code = super().main(args, "qg", standalone_mode=False)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "qg"
            what = " ".join(error.format_message().split()).rstrip(".")  # click writes lists of choices over lines
            _fail(2, f"{what}; {path} --help shows how")
        except click.ClickException as error:
            _fail(1, error.format_message())
        except click.Abort:
            _fail(1, "interrupted")
        except InvalidValue as error:
            _fail(2, str(error))
        except QGError as error:
            _fail(1, str(error))
        except OSError as error:
            _fail(1, f"{error.filename or 'this machine'}: {error.strerror or error}")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(code: int, text: str) -> NoReturn:
    for line in text.splitlines():
        print(f"qg: {line}", file=sys.stderr)
    sys.exit(code)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(ctx: click.Context) -> None:
    """qg is a peer-to-peer node: encrypted links that look like noise, and circuits through relays.

    \b
    Try it on this machine:
      qg demo

    \b
    Move a file between two machines:
      there$ qg receive --listen tcp://0.0.0.0:7447
      here$  qg send holiday.mp4 'qg://...'    # what `qg receive` printed

    \b
    Run a node that relays for the members of a closed network:
      $ qg keygen node.key
      $ qg keygen --network friends.net
      $ qg run --identity node.key --network friends.net --relay members \\
          --listen tcp://0.0.0.0:7447

    \b
    Exit codes: 0 done, 1 failed, 2 misuse.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a command as Ctrl-C does, which cleans up
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
