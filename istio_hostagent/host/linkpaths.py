"""By which interface neighbours reach an own address, and what address one of them could have.

Not here: which addresses matter (`redirect.probes`). A neighbour's address is one of the
same network: rules that go by source and the reverse-path filter treat it as they treat the
neighbours. Whether anybody has it does not matter, since nothing is ever answered to it.
"""

import ipaddress
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..config import model
from . import rtnetlink

# So far from our own address a free one is looked for.
_NEAR = 16


class Path(NamedTuple):
    """The way in to an own address."""

    interface: int
    name: str
    source: model.Address


def find_paths(destinations: Collection[str]) -> dict[str, Path]:
    """Give the way to each of these that is an address of an interface now.

    Raises KernelBusy, NotPermitted.
    """
    names = {link.interface: link.name for link in rtnetlink.probe_links() if link.is_up}
    there = rtnetlink.probe_addresses()
    own = {each.address for each in there}
    paths: dict[str, Path] = {}
    for each in there:
        text = str(each.address)
        if text not in destinations or text in paths:
            continue
        way = _find_way(each, there, own)
        if way is not None and way[0] in names:
            paths[text] = Path(way[0], names[way[0]], way[1])
    return paths


def _find_way(
    own: rtnetlink.InterfaceAddress,
    there: Sequence[rtnetlink.InterfaceAddress],
    taken: Collection[model.Address],
) -> tuple[int, model.Address] | None:
    """Give the interface by which neighbours come, and the address of one."""
    if own.interface != rtnetlink.LOOPBACK and (found := _find_neighbour(own, taken)):
        return own.interface, found
    # Alone in its network, as on many clouds, or on `lo`: everybody comes by the default route.
    version = own.address.version
    way = rtnetlink.default_way(version)
    if way is None:
        return None
    interface, router = way
    if router is not None:
        return interface, router
    for each in there:
        if (each.interface, each.address.version) == (interface, version):
            found = _find_neighbour(each, taken)
            if found is not None:
                return interface, found
    return None


def _find_neighbour(
    own: rtnetlink.InterfaceAddress, taken: Collection[model.Address]
) -> model.Address | None:
    """Give an address of the same network that nobody here has."""
    network = ipaddress.ip_network((own.address, own.length), strict=False)
    # The first and last are no host's, unless there are no others (RFC 3021, RFC 6164).
    edges = {network[0], network[-1]} if network.num_addresses > 2 else set()
    for distance in range(1, _NEAR):
        for value in (int(own.address) + distance, int(own.address) - distance):
            if not int(network[0]) <= value <= int(network[-1]):
                continue
            found = network[value - int(network[0])]
            if found not in taken and found not in edges:
                return found
    return None
