"""The addresses on `lo` that the proxy needs.

Not here: which addresses those are (`redirect.policy`), and how they get there (`rtnetlink`). Only
addresses that are asked about are ever named, added or removed.
"""

import ipaddress
from collections.abc import Sequence

from . import rtnetlink


def observe(addresses: Sequence[str]) -> tuple[str, ...]:
    """Give those of `addresses` (`address/prefix length`) that are on `lo` now.

    Raises KernelBusy, NotPermitted.
    """
    there = rtnetlink.probe_addresses(rtnetlink.LOOPBACK)
    found = {(each.address, each.length) for each in there}
    wanted = ((each, ipaddress.ip_interface(each)) for each in addresses)
    return tuple(text for text, each in wanted if (each.ip, each.network.prefixlen) in found)


def add(address: str) -> None:
    """Put `address` on `lo`; already there is fine. Raises ApplyRejected, NotPermitted."""
    rtnetlink.add_address(ipaddress.ip_interface(address), rtnetlink.LOOPBACK)


def delete(address: str) -> None:
    """Take `address` off `lo`; not there is fine. Raises ApplyRejected, NotPermitted."""
    rtnetlink.delete_address(ipaddress.ip_interface(address), rtnetlink.LOOPBACK)
