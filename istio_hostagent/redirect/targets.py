"""Which addresses and ports stand for a configuration when it is tried out.

Not here: what is expected of them (`probes`). Every listed network and port range has its
sample; of very many, a number spread evenly from the first to the last.
"""

import ipaddress
from collections.abc import Sequence
from typing import TypeVar

from ..config import model as config
from . import exemptions, ranges

MAX_SAMPLES = 200
# Reserved for documentation: nobody's real destination, should a configuration capture everything.
ELSEWHERE_V4 = 0xC6336401  # 198.51.100.1
ELSEWHERE_V6 = 0x20010DB8000100000000000000000001  # 2001:db8:1::1

_Item = TypeVar("_Item")


def spread(items: Sequence[_Item]) -> list[_Item]:
    """Give all of a few, and of many the first, the last and evenly some between."""
    if len(items) <= MAX_SAMPLES:
        return list(items)
    step = (len(items) - 1) / (MAX_SAMPLES - 1)
    return [items[round(index * step)] for index in range(MAX_SAMPLES)]


def ends(port_ranges: ranges.Ranges) -> list[int]:
    """Give the first and last port of each range; port 0 cannot be connected to."""
    found = {port for each in spread(port_ranges) for port in each}
    return sorted(found - {0})


class Destinations:
    """Finds addresses of one IP version that a configuration treats alike."""

    def __init__(
        self,
        redirection: config.Redirection,
        facts: config.HostFacts,
        sets: exemptions.Sets,
        version: int,
    ) -> None:
        """Work out once what lies in nobody's way."""
        self.version = version
        self.bits = 32 if version == 4 else 128
        self.family = sets.v4 if version == 4 else sets.v6
        self.own = tuple(int(a) for a in facts.addresses if a.version == version)
        loopback = exemptions.LOOPBACK_V4 if version == 4 else exemptions.LOOPBACK_V6
        everything = ((0, (1 << self.bits) - 1),)
        self.included = everything if redirection.outbound.is_all else self.family.include
        # Not to be captured whatever is listed: what is excluded, never captured, or on `lo`.
        self._spared = ranges.merge(
            (
                *self.family.exclude,
                *self.family.never,
                *ranges.singles(self.own),
                *loopback,
            )
        )
        # Likely on the same link.
        self._reachable = sorted(a ^ (2 if self._may_be_routers(a ^ 1) else 1) for a in self.own)

    def text(self, value: int) -> str:
        """Write an address."""
        if self.version == 4:
            return str(ipaddress.IPv4Address(value))
        return str(ipaddress.IPv6Address(value))

    @property
    def elsewhere(self) -> int:
        """Give an address that is nobody's."""
        return ELSEWHERE_V4 if self.version == 4 else ELSEWHERE_V6

    def captured_in(self, first: int, last: int) -> int | None:
        """Find an address of the range that is to be captured, if there is any."""
        left = ranges.subtract(((first, last),), self._spared)
        for start, end in left:
            # The first may be that of a network.
            for address in (start + 1, start + 2, start):
                if address <= end and not self._may_be_routers(address):
                    return address
        return left[0][0] if left else None

    def _may_be_routers(self, address: int) -> bool:
        """Whether it may be the first of a subnet: a host that forwards has that itself.

        The Subnet-Router anycast address (RFC 4291 2.6.1); the longest prefix that has one is 126.
        """
        return self.version == 6 and address % 4 == 0

    def captured(self) -> list[int]:
        """Find addresses to be captured, one with a likely route first."""
        if found := self._known(is_included=True):
            return found
        for each in self.included:
            address = self.captured_in(*each)
            if address is not None:
                return [address]
        return []

    def unlisted(self) -> list[int]:
        """Find addresses that nothing lists: neither included, nor excluded, nor special."""
        return self._known(is_included=False)

    def _known(self, *, is_included: bool) -> list[int]:
        """Of the addresses with a likely route and of those elsewhere the first that fits each."""
        found = []
        for addresses in (self._reachable, (self.elsewhere,)):
            for address in addresses:
                is_spared = ranges.contains(self._spared, address)
                if not is_spared and ranges.contains(self.included, address) is is_included:
                    found.append(address)
                    break
        return found
