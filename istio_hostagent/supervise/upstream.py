"""Which name servers pilot-agent asks for the world's names, and when it has to learn of others.

It reads /etc/resolv.conf when it starts and never again (pkg/dns/client/dns.go of Istio): it goes
on asking a server that is not listed any more, and listens only on loopback addresses of the IP
versions that were listed then. So it is started anew once what it knows is not good any more. A
server that is added changes nothing, since each such start cuts every connection.
Not here: which servers there are (`host.resolvconf`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..config import model

# Whoever rewrites the file (DHCP, a VPN that comes up) may do it in several steps. Where none was
# known no name of the world is resolved meanwhile: a host that boots before its network.
STANDING_TIME_S, FIRST_TIME_S = 5.0, 1.0


class Upstream(NamedTuple):
    """The servers that a proxy has read, and those that are about to take their place.

    `version`: how often it was to be started anew for others.
    """

    servers: tuple[model.Address, ...] = ()
    version: int = 0
    successor: tuple[model.Address, ...] = ()
    successor_since: float = 0.0


def choose(
    upstream: Upstream, listed: Sequence[model.Address], now: float
) -> tuple[Upstream, float | None]:
    """Give the servers at this moment, and when to look again if nothing is heard until then.

    With another version than before the proxy is to be started anew. `listed`: what resolv.conf
    says now. `now`: seconds of a clock that never jumps.
    """
    listed = tuple(listed)
    if not _is_outdated(upstream.servers, listed):
        return Upstream(upstream.servers, upstream.version), None
    if listed != upstream.successor:
        upstream = upstream._replace(successor=listed, successor_since=now)
    due = upstream.successor_since + (STANDING_TIME_S if upstream.servers else FIRST_TIME_S)
    if now < due:
        return upstream, due
    return Upstream(listed, upstream.version + 1), None


def started(upstream: Upstream, listed: Sequence[model.Address]) -> Upstream:
    """The proxy has been started, for whatever reason: it has read what was listed then."""
    return upstream._replace(servers=tuple(listed))


def _is_outdated(known: Sequence[model.Address], listed: Sequence[model.Address]) -> bool:
    """Whether queries get lost: a known server is gone, or a version is new. None: stay."""
    versions = {each.version for each in listed} - {each.version for each in known}
    return bool(listed) and (bool(versions) or not set(known) <= set(listed))
