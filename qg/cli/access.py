# SPDX-License-Identifier: MIT
"""`qg access`: who may connect to a running node, and what they may."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import qg
from qg.cli.common import control_option
from qg.cli.text import table_text
from qg.control import control_ask, control_path_default
from qg.errors import InvalidValue

_ANSWERS = {None: "", True: "yes", False: "no"}


@click.group
def command() -> None:
    """Say who may connect to the node that runs, and what they may; changes are in force at once.

    Rules are of networks, of which the smallest that holds an address decides, and of peers. They last as long as the
    node runs, or in the store that `[access]` of its configuration names.

    \b
    Examples:
      qg access block 203.0.113.0/24 --note 'scans every night'
      qg access allow 203.0.113.7
      qg access allow <PeerID> --name anna --relay --rate 2048
      qg access block anna
      qg access check 203.0.113.7
      qg access list
    """


_sure_option = click.option("--yes", "is_sure", is_flag=True, help="Do it even if it shuts everybody out.")
_from_option = click.option(
    "--from",
    "list_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Take more of them from a file, one a line; what follows a # is left out.",
)


def _set_options(function: Any) -> Any:
    for option in (
        control_option,
        _sure_option,
        _from_option,
        click.option("--note", default="", metavar="TEXT", help="Why; shown with the rule of a network."),
        click.option("--rate", type=click.IntRange(0, 1_048_576), metavar="KIB", help="KiB/s it gets at most; 0: any."),
        click.option("--exit/--no-exit", "may_exit", default=None, help="May it use this node's exit?"),
        click.option("--relay/--no-relay", "may_relay", default=None, help="May it relay over this node?"),
        click.option("--name", metavar="NAME", help="A name for the peer, which then stands for its PeerID here."),
        click.argument("subjects", nargs=-1, metavar="[NETWORK|PEER]..."),
    ):
        function = option(function)
    return function


@command.command
@_set_options
def allow(**options: Any) -> None:
    """Let networks and peers connect."""
    _set(is_allowed=True, **options)


@command.command
@_set_options
def block(**options: Any) -> None:
    """Keep networks and peers out; sessions that they have end."""
    _set(is_allowed=False, **options)


@command.command
@click.argument("subjects", nargs=-1, metavar="[NETWORK|PEER]...")
@_from_option
@_sure_option
@control_option
def forget(subjects: Sequence[str], list_file: str | None, is_sure: bool, control: str | None) -> None:
    """Take rules away."""
    _change(control, "access_forget", is_sure, subjects=_subjects(subjects, list_file))


@command.command
@click.argument("subject", metavar="ADDRESS|PEER")
@control_option
def check(subject: str, control: str | None) -> None:
    """Ask the node whether an address or a peer may connect, and which rule says so; exit code 1 if it may not."""
    verdict = control_ask(control or control_path_default(), "access_check", subject=subject)
    _verdict_print(subject, verdict)
    if not verdict["is_allowed"]:
        sys.exit(1)


@command.command
@click.argument("address", metavar="ADDRESS")
@control_option
def pardon(address: str, control: str | None) -> None:
    """Forget what an address, and the network around it, have done wrong."""
    _verdict_print(address, control_ask(control or control_path_default(), "access_pardon", address=address))


@command.command("list")
@control_option
def list_(control: str | None) -> None:
    """Show the rules, the store and what holds for everybody else."""
    found = control_ask(control or control_path_default(), "access_list")
    listed = found["allow"]
    allowed = listed if isinstance(listed, str) else f"{len(listed)} PeerIDs of the configuration"
    print(f"store  {found['store']}")
    print(f"allow  {'nobody until the store answers' if found['is_closed'] else allowed}")
    if found["networks"]:
        rows = [(rule["network"], _word(rule["is_allowed"]), rule["note"]) for rule in found["networks"]]
        print(f"\n{table_text([('network', '', 'note'), *rows])}")
    if found["peers"]:
        peers = [
            (
                rule["name"] or "-",
                _word(rule["is_allowed"]),
                _ANSWERS[rule["may_relay"]],
                _ANSWERS[rule["may_exit"]],
                "" if rule["rate_kib_s"] is None else str(rule["rate_kib_s"] or "any"),
                rule["peer_id"],
            )
            for rule in found["peers"]
        ]
        print(f"\n{table_text([('peer', '', 'relay', 'exit', 'KiB/s', 'PeerID'), *peers])}")


def _set(
    *,
    is_allowed: bool,
    subjects: Sequence[str],
    list_file: str | None,
    note: str,
    is_sure: bool,
    control: str | None,
    rate: int | None,
    **said: Any,
) -> None:
    wanted = _subjects(subjects, list_file)
    if said["name"] is not None and len(wanted) != 1:
        raise InvalidValue("--name: give one peer with it")
    rights = {key: value for key, value in {**said, "rate_kib_s": rate}.items() if value is not None}
    _change(control, "access_set", is_sure, subjects=wanted, is_allowed=is_allowed, note=note, rights=rights)


def _change(control: str | None, do: str, is_sure: bool, **arguments: Any) -> None:
    path = control or control_path_default()
    answer = control_ask(path, do, is_sure=is_sure, **arguments)
    if not answer["is_done"]:
        for warning in answer["warnings"]:
            print(f"qg: warning: {warning}", file=sys.stderr)
        if not sys.stdin.isatty() or not click.confirm("Do it all the same?", err=True):
            raise qg.LocalError("nothing was changed; --yes does it all the same")
        control_ask(path, do, is_sure=True, **arguments)
    n = len(arguments["subjects"])
    print(f"{n} rule{'s' * (n != 1)} changed")


def _subjects(subjects: Sequence[str], list_file: str | None) -> list[str]:
    wanted = list(subjects)
    if list_file is not None:
        lines = (line.partition("#")[0].strip() for line in Path(list_file).read_text().splitlines())
        wanted += filter(None, lines)
    if not wanted:
        raise InvalidValue("name a network or a peer, or a file of them with --from")
    return wanted


def _verdict_print(subject: str, verdict: dict[str, Any]) -> None:
    print(f"{subject}: {'may connect' if verdict['is_allowed'] else 'may not connect'}: {verdict['rule']}")
    for note in verdict["notes"]:
        print(f"  {note}")


def _word(is_allowed: bool | None) -> str:
    return {None: "", True: "allowed", False: "blocked"}[is_allowed]
