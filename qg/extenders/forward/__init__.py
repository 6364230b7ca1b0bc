# SPDX-License-Identifier: MIT
"""Forwards: ports of one machine that lead to what another one reaches."""

from qg.extenders.forward.forwarder import Forwarder as Forwarder
from qg.extenders.forward.forwarder import Forwarding as Forwarding
from qg.extenders.forward.forwarder import NotForwarded as NotForwarded
from qg.extenders.forward.service import Forward as Forward
from qg.extenders.forward.service import ForwardLimits as ForwardLimits
