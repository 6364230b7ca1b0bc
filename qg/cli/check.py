# SPDX-License-Identifier: MIT
"""`qg check`: whether `qg run` would take a configuration."""

import os

import click

import qg
from qg.check import files_check
from qg.cli.common import FILE, identity_open, is_sealed, passphrase_option
from qg.errors import ConfigError, KeyFileError, LocalError
from qg.extender import extender_name
from qg.loading import extenders_load


@click.command
@click.option("-c", "--config", "config_file", type=FILE, metavar="FILE", required=True, help="Configuration in TOML.")
@passphrase_option
def command(config_file: str, passphrase_file: str | None) -> None:
    """Read a configuration and the files that it names, and print all that is wrong; exit code 1 if anything is.

    Nothing is started and nothing is written; but services that it names are loaded, which runs their code. Of a key
    file with a passphrase only the outside is looked at, unless --passphrase-file is given.

    \b
    Examples:
      qg check -c /etc/qg/qg.toml
      qg check -c qg.toml --passphrase-file secret.txt
    """
    try:
        config = qg.Config.load(config_file)
    except ConfigError as error:
        raise LocalError(str(error)) from None

    def key_try(path: str) -> object:
        if passphrase_file is None and is_sealed(path) and os.access(path, os.R_OK):
            return None
        return identity_open(path, passphrase_file)

    problems = files_check(config, key_try)
    extenders: list[qg.Extender] = []
    try:
        extenders = extenders_load(config.extenders)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise KeyFileError("\n".join(f"{config_file}: {problem}" for problem in problems))
    for use, extender in zip(config.extenders, extenders, strict=True):
        print(f"{config_file}: {use.use} offers {extender_name(extender)}, {extender.id}")
    print(f"{config_file}: nothing is wrong")
