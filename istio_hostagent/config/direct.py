"""Connections that applications make to the proxy by themselves, where nothing is redirected.

The values of the non-transparent mode. Not here: how they are written (`directfields`), and from
which keys they are made (`nontransparent`).
"""

from typing import NamedTuple

# Where the proxy takes such connections, and where an application listens that is named by a port
# alone; `::1` besides for the first.
LOOPBACK = "127.0.0.1"


class Upstream(NamedTuple):
    """A port of this host's loopback that leads to one destination.

    `host` is a name or an address in its shortest form. Not `is_plain`: by mutual TLS.
    """

    port: int
    host: str
    destination_port: int
    is_plain: bool = False


class Inbound(NamedTuple):
    """A port that the proxy takes from outside, and where the application listens."""

    port: int
    address: str
    application_port: int

    @property
    def is_beside(self) -> bool:
        """Whether the application has the same port, on loopback.

        The proxy can then only listen on the other addresses of this host, one by one.
        """
        return self.port == self.application_port and self.address == LOOPBACK


class Direct(NamedTuple):
    """Everything that the proxy listens for where nothing is redirected."""

    upstreams: tuple[Upstream, ...] = ()
    inbound: tuple[Inbound, ...] = ()
    http_port: int = 0  # of HTTP CONNECT and forward requests; 0: there is none
    plain: tuple[str, ...] = ()  # hosts not in the mesh: names, `*.suffix`, addresses, or `*`

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.upstreams or self.inbound or self.http_port)
