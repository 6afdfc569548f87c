"""Services as values: what is registered, and how Consul is reached to do it.

Not here: what words and keys make of them (`registering`, `consulaccess`).
"""

from typing import NamedTuple

DEFAULT_CONSUL = "http://127.0.0.1:8500"
# What stands in front of the first "-" of the name of a port says its protocol to Istio.
PROTOCOLS = frozenset({"udp", "grpc", "http", "http2", "https", "mongo", "redis"})


class Port(NamedTuple):
    """One port of a service; `name` says the protocol to Istio."""

    name: str
    number: int

    @property
    def protocol(self) -> str:
        """What Istio takes the port for: `tcp` where the name does not say otherwise.

        >>> Port("http-admin", 8001).protocol, Port("mysql", 3306).protocol
        ('http', 'tcp')
        """
        word = self.name.partition("-")[0].lower()
        return word if word in PROTOCOLS else "tcp"


class Registration(NamedTuple):
    """A service at one address; `account`: of its certificate, empty if that is not said."""

    name: str
    address: str
    ports: tuple[Port, ...]
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    account: str = ""
    check: str = ""

    def find_id(self, port: Port) -> str:
        """What Consul calls the instance with this port: the same for whoever registers it."""
        return f"istio-hostagent:{self.name}:{self.address}:{port.number}"


class Access(NamedTuple):
    """Where and as whom; paths are empty where there is no file.

    `address`: an http or https URL without a path, or `unix://` and a path. `token` counts if
    there is no `token_file`, as in Consul's own tools. `user`: NAME:PASSWORD of HTTP.
    """

    address: str = DEFAULT_CONSUL
    token_file: str = ""
    token: str = ""
    user: str = ""
    roots: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    is_verified: bool = True


class Registry(NamedTuple):
    """What the agent itself registers, under the address of this host."""

    services: tuple[Registration, ...] = ()  # their address is filled in
    access: Access = Access()
    captures_all: bool = False  # connections to every service in the catalogue
    captured: tuple[str, ...] = ()  # or to those with these names
