# SPDX-License-Identifier: MIT
"""Peer-to-peer node: encrypted post-quantum links, source-routed circuits, and the services that run over them.

    async with qg.Node(qg.Identity.generate(), extenders=[Echo()]) as node:
        peer = await node.connect("qg://<link key>@203.0.113.7:7447")
        stream = await peer.open_stream(Echo.id)

Importing `qg` loads nothing else; each name below is loaded when it is first used.
"""

TYPE_CHECKING = False  # that of `typing`, which costs several milliseconds to import
if TYPE_CHECKING:
    from qg.access import Access as Access
    from qg.access import NetworkRule as NetworkRule
    from qg.access import PeerRule as PeerRule
    from qg.access import Rules as Rules
    from qg.access import Verdict as Verdict
    from qg.address import Address as Address
    from qg.address import Endpoint as Endpoint
    from qg.address import Prefix as Prefix
    from qg.config import AccessConfig as AccessConfig
    from qg.config import Config as Config
    from qg.config import CoverConfig as CoverConfig
    from qg.config import ExitConfig as ExitConfig
    from qg.config import ForwardConfig as ForwardConfig
    from qg.config import ForwardOffer as ForwardOffer
    from qg.config import ForwardTo as ForwardTo
    from qg.config import LimitsConfig as LimitsConfig
    from qg.config import LinkConfig as LinkConfig
    from qg.config import RatesConfig as RatesConfig
    from qg.config import RelayConfig as RelayConfig
    from qg.errors import AddressError as AddressError
    from qg.errors import Busy as Busy
    from qg.errors import ClosedError as ClosedError
    from qg.errors import ConfigError as ConfigError
    from qg.errors import HandshakeFailed as HandshakeFailed
    from qg.errors import InvalidValue as InvalidValue
    from qg.errors import KeyFileError as KeyFileError
    from qg.errors import KeyFileExists as KeyFileExists
    from qg.errors import KeyFileMissing as KeyFileMissing
    from qg.errors import ListenError as ListenError
    from qg.errors import LocalError as LocalError
    from qg.errors import NoRoute as NoRoute
    from qg.errors import PeerClosed as PeerClosed
    from qg.errors import PeerTimeout as PeerTimeout
    from qg.errors import QGError as QGError
    from qg.errors import Reason as Reason
    from qg.errors import Refused as Refused
    from qg.errors import RemoteError as RemoteError
    from qg.errors import StreamReset as StreamReset
    from qg.errors import Unreachable as Unreachable
    from qg.errors import Unsupported as Unsupported
    from qg.errors import UsageError as UsageError
    from qg.exit_policy import ExitPolicy as ExitPolicy
    from qg.exit_policy import ExitRule as ExitRule
    from qg.extender import Extender as Extender
    from qg.forwarding import ForwardRule as ForwardRule
    from qg.forwarding import ForwardSpec as ForwardSpec
    from qg.identity import Identity as Identity
    from qg.identity import NetworkSecret as NetworkSecret
    from qg.native import NativeExtender as NativeExtender
    from qg.native import get_include as get_include
    from qg.node import Node as Node
    from qg.peer import Peer as Peer
    from qg.stream import IncompleteRead as IncompleteRead
    from qg.stream import Priority as Priority
    from qg.stream import Stream as Stream
    from qg.types import Carried as Carried
    from qg.types import ExtenderId as ExtenderId
    from qg.types import ExtenderInfo as ExtenderInfo
    from qg.types import KeptInfo as KeptInfo
    from qg.types import LinkInfo as LinkInfo
    from qg.types import LinkKey as LinkKey
    from qg.types import PeerId as PeerId
    from qg.types import PeerInfo as PeerInfo
    from qg.types import RelayTerms as RelayTerms
    from qg.types import Status as Status
    from qg.types import WorkerInfo as WorkerInfo

# Module -> the public names it defines.
_NAMES = {
    "access": "Access NetworkRule PeerRule Rules Verdict",
    "address": "Address Endpoint HostPort Prefix",
    "config": (
        "AccessConfig Config CoverConfig ExitConfig ForwardConfig ForwardOffer ForwardTo LimitsConfig LinkConfig"
        " RatesConfig RelayConfig"
    ),
    "errors": (
        "AddressError Busy ClosedError ConfigError HandshakeFailed InvalidValue KeyFileError KeyFileExists"
        " KeyFileMissing ListenError LocalError NoRoute PeerClosed PeerTimeout QGError Reason Refused RemoteError"
        " StreamReset Unreachable Unsupported UsageError"
    ),
    "exit_policy": "ExitPolicy ExitRule",
    "extender": "Extender",
    "forwarding": "ForwardRule ForwardSpec",
    "identity": "Identity NetworkSecret",
    "native": "NativeExtender get_include",
    "node": "Node",
    "peer": "Peer",
    "stream": "IncompleteRead Priority Stream",
    "types": "Carried ExtenderId ExtenderInfo LinkInfo LinkKey PeerId PeerInfo RelayTerms Status WorkerInfo",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        value = getattr(import_module(f"qg.{_HOMES[name]}"), name)
    elif name == "__version__":
        value = import_module("qg._core._build_info").VERSION
    else:
        raise AttributeError(f"module 'qg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
