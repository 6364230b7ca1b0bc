# SPDX-License-Identifier: MIT
"""`qg keygen`: a new key file, or the secret of a new closed network."""

import sys

import click

import qg
from qg.cli.common import FILE, identity_text, passphrase_option, passphrase_read


@click.command
@click.argument("file", type=FILE)
@click.option("--no-passphrase", is_flag=True, help="Leave the key file as safe as the disk it lies on.")
@passphrase_option
@click.option("--network", is_flag=True, help="Make the secret of a closed network instead of a key file.")
def command(file: str, no_passphrase: bool, passphrase_file: str | None, network: bool) -> None:
    """Make a new key file FILE of mode 0600 and print who it makes you.

    An existing file is never overwritten. You are asked for a passphrase; a node that starts without a person needs
    --passphrase-file, or a file made with --no-passphrase.

    With --network, FILE becomes the secret of a closed network. Give a copy, over a safe channel, to every member:
    without it nobody even gets an answer from your nodes.

    \b
    Examples:
      qg keygen node.key
      qg keygen --no-passphrase /var/lib/qg/node.key
      qg keygen --network friends.net
    """
    if network:
        qg.NetworkSecret.generate().create(file)
        print(f"{file}: secret of a new closed network; whoever has a copy is a member")
        return
    passphrase = _passphrase_choose(no_passphrase, passphrase_file)
    identity = qg.Identity.generate()
    identity.create(file, passphrase=passphrase)
    print(identity_text(identity))


def _passphrase_choose(no_passphrase: bool, passphrase_file: str | None) -> str | None:
    if no_passphrase:
        return None
    if passphrase_file is not None:
        return passphrase_read(passphrase_file)
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is here to type a passphrase; give --passphrase-file FILE or --no-passphrase")
    passphrase: str = click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return passphrase
