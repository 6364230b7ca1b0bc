# SPDX-License-Identifier: MIT
"""Proxies and exits: programs of one machine reach the internet from another one."""

from qg.extenders.proxy.exit import Exit as Exit
from qg.extenders.proxy.exit import ExitLimits as ExitLimits
from qg.extenders.proxy.exits import Exits as Exits
from qg.extenders.proxy.exits import NoExit as NoExit
from qg.extenders.proxy.socks import Proxy as Proxy
from qg.extenders.sockets.outcome import Outcome as Outcome
from qg.extenders.sockets.target import Target as Target
