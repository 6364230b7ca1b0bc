# SPDX-License-Identifier: MIT
"""`qg address`: the line that others paste."""

import click

import qg
from qg.cli.common import FILE, identity_open, identity_text, passphrase_option, via_option


@click.command
@click.argument("key_file", type=FILE)
@click.argument("host_port", metavar="[HOST:PORT]", required=False)
@via_option
@passphrase_option
def command(key_file: str, host_port: str | None, via: "tuple[qg.Address, ...]", passphrase_file: str | None) -> None:
    """Print the address of the node that runs with KEY_FILE and is reached at HOST:PORT.

    The line holds the node's link key, so whoever dials it is sure to reach this node. Nothing in it is secret.
    Without HOST:PORT the identity is printed.

    \b
    Examples:
      qg address node.key 203.0.113.7:7447
      qg address node.key '[2001:db8::7]:7447'
      qg address node.key home.example.org:7447 --via 'qg://...'
      qg address node.key
    """
    identity = identity_open(key_file, passphrase_file)
    if host_port is None:
        print(identity_text(identity))
        return
    place = qg.Address.parse(f"qg://{host_port}")
    print(place._replace(link_key=identity.link_key, via=via))
