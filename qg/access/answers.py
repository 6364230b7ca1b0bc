# SPDX-License-Identifier: MIT
"""What the control socket answers about access: the other end of `qg access`."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

from qg.access.manager import Access
from qg.access.rules import NetworkRule, PeerRule, network_plain
from qg.address import Prefix
from qg.errors import InvalidValue
from qg.types import PeerId

__all__ = ["access_answers"]

_RIGHTS = frozenset(PeerRule._fields) - {"peer_id", "is_allowed"}


def access_answers(access: Access) -> dict[str, Callable[..., object]]:
    """Give the functions behind `access_list`, `access_check`, `access_set`, `access_forget` and `access_pardon`."""
    return {
        "access_list": partial(_list, access),
        "access_check": partial(_check, access),
        "access_set": partial(_set, access),
        "access_forget": partial(_forget, access),
        "access_pardon": partial(_pardon, access),
    }


def _list(access: Access) -> object:
    rules = access.rules
    peers = sorted(rules.peers.values(), key=lambda rule: (rule.name, rule.peer_id))
    return {
        "store": access.store_state,
        "is_closed": rules.is_closed,
        "allow": access.config.allow if isinstance(access.config.allow, str) else list(map(str, access.config.allow)),
        "networks": [{**rule._asdict(), "network": str(rule.network)} for rule in rules.ordered],
        "peers": [{**rule._asdict(), "peer_id": str(rule.peer_id)} for rule in peers],
    }


def _check(access: Access, subject: str) -> object:
    found = _subject_read(access, subject)
    if isinstance(found, PeerId):
        verdict = access.check_peer(found)
    elif "/" in subject:
        raise InvalidValue(f"{subject}: ask for one address of it, for its parts may have rules of their own")
    else:
        verdict = access.check_address(subject)
    return verdict._asdict()


async def _set(
    access: Access,
    subjects: list[str],
    is_allowed: bool,
    note: str = "",
    rights: Mapping[str, Any] | None = None,
    is_sure: bool = False,
) -> object:
    """Allow or block; without `is_sure` nothing is done that shuts everybody out, and the answer says what it were."""
    rights = rights or {}
    if unknown := set(rights) - _RIGHTS:
        raise InvalidValue(f"a peer has no {', '.join(sorted(unknown))}")
    rules: list[NetworkRule | PeerRule] = []
    for subject in subjects:
        found = _subject_read(access, subject)
        if isinstance(found, Prefix):
            rules.append(NetworkRule(found, is_allowed, note))
        else:
            before = access.rules.peers.get(found, PeerRule(found))
            rules.append(before._replace(**rights, is_allowed=is_allowed))
    if rights and not any(isinstance(rule, PeerRule) for rule in rules):
        raise InvalidValue("networks have no name, rights and rate: these are of peers")
    return await _change(access, rules, (), is_sure=is_sure)


async def _forget(access: Access, subjects: list[str], is_sure: bool = False) -> object:
    gone = [_subject_read(access, subject) for subject in subjects]
    for subject, key in zip(subjects, gone, strict=True):
        if key not in access.rules.networks and key not in access.rules.peers:
            raise InvalidValue(f"{subject} has no rule")
    return await _change(access, (), gone, is_sure=is_sure)


async def _change(
    access: Access, rules: Iterable[NetworkRule | PeerRule], gone: Iterable[Prefix | PeerId], *, is_sure: bool
) -> object:
    warnings = access.warnings(rules, gone)
    if warnings and not is_sure:
        return {"warnings": warnings, "is_done": False}
    await access.change(rules, gone)
    return {"warnings": warnings, "is_done": True}


async def _pardon(access: Access, address: str) -> object:
    await access.pardon(address)
    return access.check_address(address)._asdict()


def _subject_read(access: Access, text: str) -> Prefix | PeerId:
    """Read an address, a network, or a peer by PeerID, name or UUID; raises `InvalidValue`."""
    try:
        packed = ip_address(text).packed
    except ValueError:
        return network_plain(Prefix.parse(text)) if "/" in text else access.rules.peer_find(text)
    return network_plain(Prefix(packed, len(packed) * 8))
