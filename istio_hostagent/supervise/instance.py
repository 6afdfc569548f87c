"""By which address the mesh knows this host (INSTANCE_IP), and when that changes.

Not here: which addresses and routes there are (`host.rtnetlink`), an address that the operator
names (ISTIO_SVC_IP, which beats all this), and where the choice is kept over a restart.
An address that is registered stays for as long as this host has it: a VPN that comes up or a
route with another metric changes nothing. Once it has left, another one must have stood for a
while, since each change costs a restart of the proxy and with it every connection.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..config import model

# DHCP and a cable that is plugged in again give back the address of before in less.
STANDING_TIME_S = 10.0


def prefer(
    addresses: Sequence[model.Address], sources: Iterable[model.Address | None]
) -> model.Address | None:
    """Give the first of `sources` that is among the host's own addresses, else the first of these.

    `sources`: of the route to the control plane, then of the default route; None: there is none.
    """
    fitting = (each for each in sources if each in addresses)
    return next(fitting, next(iter(addresses), None))


class Choice(NamedTuple):
    """The address to start a proxy with, and how firm that is.

    `registered`: what the control plane knows, from this process or an earlier one; the caller
    keeps it in a file and begins with `Choice(registered=...)`. `is_firm`: only if it leaves this
    host another takes its place. `successor`: which one, and since when it would.
    """

    address: model.Address | None = None
    registered: model.Address | None = None
    is_firm: bool = False
    successor: model.Address | None = None
    successor_since: float = 0.0

    def register(self) -> "Choice":
        """Say that the control plane knows the address now: a proxy is ready that has it."""
        if self.address is None or (self.is_firm and self.address == self.registered):
            return self
        return Choice(self.address, registered=self.address, is_firm=True)


def choose(
    choice: Choice,
    addresses: Sequence[model.Address],
    preferred: model.Address | None,
    now: float,
) -> tuple[Choice, float | None]:
    """Give the choice at this moment, and when to look again if nothing is heard until then.

    `now`: seconds of a clock that never jumps. `preferred`: what `prefer` gives.
    """
    if choice.registered in addresses:
        return Choice(choice.registered, choice.registered, is_firm=True), None
    if not choice.is_firm:
        # What an earlier process registered may come yet; until then nothing holds us.
        return Choice(preferred, choice.registered), None
    if preferred is None:
        return choice._replace(successor=None), None
    if preferred != choice.successor:
        choice = choice._replace(successor=preferred, successor_since=now)
    due = choice.successor_since + STANDING_TIME_S
    if now < due:
        return choice, due
    return Choice(preferred, preferred, is_firm=True), None
