"""Runs the programs of firewalls: what they write, or why they failed."""

from collections.abc import Sequence

from ..errors import HostAgentError
from . import programs

NFT = "/usr/sbin/nft"
IPTABLES = {"ip": "/usr/sbin/iptables-nft", "ip6": "/usr/sbin/ip6tables-nft"}
_TIMEOUT_S = 5.0


class ToolFailed(HostAgentError):
    """A program of a firewall did not do what it was asked; the text is what it said."""

    code = "firewall-tool-failed"


def run(argv: Sequence[str], text: str = "") -> str:
    """Run a program and give what it writes; raises ToolFailed with its last line."""
    return programs.run(argv, text, timeout_s=_TIMEOUT_S, failed=ToolFailed)
