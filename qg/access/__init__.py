# SPDX-License-Identifier: MIT
"""Who may connect to a node, and what they may: rules that are kept, applied while it runs, and explained."""

from qg.access.manager import Access, Verdict
from qg.access.rules import NetworkRule, PeerRule, Rules

__all__ = ["Access", "NetworkRule", "PeerRule", "Rules", "Verdict"]
