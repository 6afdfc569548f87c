"""The configuration as one frozen value, and the facts about the host that it is built against.

Not here: the names of keys (`settings`), how a value is written (`fields`), and which file says
what (`build`).
A `Config` is complete: nothing in it means "default later", no text stands for a number, no comma
list is left. Paths are absolute.
"""

import enum
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from . import services
from .direct import Direct
from .packed import PackedRanges, pack_range, sort

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The store of the operating system, where Debian keeps it.
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
# The defaults of statusPort and proxyAdminPort in Istio's ProxyConfig: of pilot-agent, and of the
# Envoy below it.
AGENT_STATUS_PORT, AGENT_ADMIN_PORT = 15020, 15000

_WIDTHS = {4: 4, 6: 16}  # of the addresses of each IP version, in bytes
_NO_V4, _NO_V6 = PackedRanges(_WIDTHS[4]), PackedRanges(_WIDTHS[6])


class PortSet(NamedTuple):
    """All TCP ports, or the inclusive ranges that were written, ascending and not merged.

    An entry whose two ends are equal was written as a single port: it *names* that port (design
    invariant 2).
    """

    is_all: bool = False
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def named(self) -> frozenset[int]:
        """The ports written one by one; `*` and ranges name none."""
        return frozenset(first for first, last in self.ranges if first == last)

    def __bool__(self) -> bool:
        """False when not one port is meant."""
        return self.is_all or bool(self.ranges)


class CidrSet(NamedTuple):
    """All destinations, or the networks that were written, host bits cleared, each once.

    A network is its first and its last address; they ascend by these.
    """

    is_all: bool = False
    v4: PackedRanges = _NO_V4
    v6: PackedRanges = _NO_V6

    @classmethod
    def of(cls, networks: Iterable[Network]) -> "CidrSet":
        """Make a set of networks."""
        ends = ((n.version, int(n.network_address), int(n.broadcast_address)) for n in networks)
        return cls.of_ends(ends)

    @classmethod
    def of_ends(cls, networks: Iterable[tuple[int, int, int]]) -> "CidrSet":
        """Make a set of networks, each given as IP version, first and last address."""
        found = {4: bytearray(), 6: bytearray()}
        for version, first, last in networks:
            found[version] += pack_range(_WIDTHS[version], first, last)
        v4, v6 = (PackedRanges(_WIDTHS[each], bytes(found[each])) for each in (4, 6))
        return cls(v4=sort(v4), v6=sort(v6))

    def of_version(self, version: int) -> PackedRanges:
        """The networks of one IP version (4 or 6)."""
        return self.v4 if version == 4 else self.v6

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks as objects, IPv4 first."""
        return tuple(
            to_network(version, *each) for version in (4, 6) for each in self.of_version(version)
        )

    def named(self, version: int) -> Iterator[int]:
        """The addresses written as /32 or /128; wider networks and `*` name none."""
        return (first for first, last in self.of_version(version) if first == last)

    def __bool__(self) -> bool:
        """False when no destination is meant."""
        return self.is_all or bool(self.v4) or bool(self.v6)


def to_network(version: int, first: int, last: int) -> Network:
    """The network with this first and this last address."""
    host_bits = (last - first).bit_length()
    if version == 4:
        return IPv4Network((first, 32 - host_bits))
    return IPv6Network((first, 128 - host_bits))


class Generation(enum.Enum):
    """The release of Istio whose rules are made, as far as its own files leave anything open."""

    CURRENT = "current"
    V1_0 = "1.0"
    V0_8 = "0.8"
    V0_7 = "0.7"


class Dns(NamedTuple):
    """Which queries for names go to the resolver of the proxy; none by default."""

    is_captured: bool = False
    is_every_server: bool = False  # also to servers that this host itself does not ask
    port: int = 15053
    # who asks name servers for this host, beside the proxy: its queries would come back to it
    resolver_uids: tuple[int, ...] = ()


class Transparent(NamedTuple):
    """Inbound connections reach the proxy as they are (TPROXY), client address and all.

    What the proxy sends with a client's address carries the mark, and so does what is answered to
    it; the table leads that back to this host.
    """

    mark: int = 1337
    table: int = 133


class Units(NamedTuple):
    """Of which units outbound connections are captured: names, and paths of control groups.

    Paths begin with `/`. With `include` none but these are, without it all but `exclude`.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether any is named."""
        return bool(self.exclude or self.include)


class Owners(NamedTuple):
    """Whose connections are captured, beside what the proxy's own user and group say."""

    # users and groups of the proxy that are named, beside those as whom the agent runs it
    proxy_uids: tuple[int, ...] = ()
    proxy_gids: tuple[int, ...] = ()
    exempts_root: bool = False
    groups: tuple[int, ...] | None = None  # whose outbound connections are captured; None: all
    groups_exclude: tuple[int, ...] = ()  # of all
    users_exclude: tuple[int, ...] = ()
    units: Units = Units()

    def captures(self, gid: int) -> bool:
        """Whether outbound connections of a group that is not the proxy's are captured."""
        if self.groups is not None:
            return gid in self.groups
        return gid not in self.groups_exclude


class BackEnd(enum.Enum):
    """Which part of the kernel keeps the rules."""

    AUTO = "auto"  # nf_tables, where the kernel has it
    NFTABLES = "nftables"
    LEGACY = "legacy"  # x_tables
    NONE = "none"  # there are none, nor are any wanted


# Those that a key may name.
BACK_ENDS = (BackEnd.AUTO, BackEnd.NFTABLES, BackEnd.LEGACY)


class Redirection(NamedTuple):
    """Which TCP connections of this host go through the proxy. Empty sets capture nothing."""

    # False: the operator has rules of their own (ISTIO_CUSTOM_IP_TABLES=true), or nobody has any
    # (`is_none`); ours are taken out
    is_managed: bool = True
    outbound: CidrSet = CidrSet()
    outbound_exclude: CidrSet = CidrSet()
    outbound_ports: PortSet = PortSet()  # captured whatever the address
    outbound_ports_exclude: PortSet = PortSet()  # never captured, beats everything else
    inbound: PortSet = PortSet()
    inbound_exclude: PortSet = PortSet()
    # of the inbound ports, what the host's firewall closes and capture would open is left alone
    keeps_closed: bool = True
    # where that firewall drops what is captured, its rules are told of the proxy's port
    opens_firewall: bool = False
    # those that are left alone for it now: found by packets, in no file
    inbound_closed: tuple[int, ...] = ()
    outbound_capture_port: int = 15001
    inbound_capture_port: int = 15006
    tunnel_port: int = 15008  # reaches the proxy directly, never redirected
    # The proxy's own listeners: they reach it as they are, unless one is named.
    proxy_ports: tuple[int, ...] = (15000, 15020, 15021, 15090)
    # Ports of pilot-agent and its Envoy by which they can be ended, steered and read: on this
    # host only root and the proxy's user reach them.
    private_ports: tuple[int, ...] = (15000, 15004, 15020)
    owners: Owners = Owners()
    dns: Dns = Dns()
    # names of interfaces, or with `*` behind them beginnings of names
    excluded_interfaces: tuple[str, ...] = ()  # what goes and comes by them is left alone
    guest_interfaces: tuple[str, ...] = ()  # what comes in by them is outbound
    # 127.0.0.0/8 or a part of it: where the proxy reaches applications directly
    loopback_v4: IPv4Network = IPv4Network("127.0.0.1/32")
    drops_invalid: bool = False  # packets that belong to no connection
    transparent: Transparent | None = None  # None: inbound connections are redirected
    generation: Generation = Generation.CURRENT
    back_end: BackEnd = BackEnd.AUTO
    # applications speak to the proxy by themselves (ISTIO_HOSTAGENT_REDIRECT=none)
    is_none: bool = False

    @property
    def capture_ports(self) -> tuple[int, ...]:
        """Where captured connections arrive; none if the rules are the operator's own."""
        both = (self.outbound_capture_port, self.inbound_capture_port)
        return both if self.is_managed else ()

    @property
    def is_transparent(self) -> bool:
        """Whether inbound connections reach the proxy without translation."""
        return self.transparent is not None and bool(self.inbound) and self.is_managed

    @property
    def captures(self) -> bool:
        """Whether any connection or query of an application, or to one, is captured."""
        is_any = self.captures_outbound or bool(self.inbound) or self.dns.is_captured
        return self.is_managed and is_any

    @property
    def captures_outbound(self) -> bool:
        """Whether any outbound connection of an application on this host is captured."""
        return bool(self.outbound or self.outbound_ports) and self.owners.groups != ()

    @property
    def answer_ports(self) -> tuple[int, ...]:
        """Where captured connections and queries arrive; none if the rules are not ours."""
        return (*self.capture_ports, *((self.dns.port,) if self.dns.is_captured else ()))


class CaProtocol(enum.Enum):
    """How a CA is asked for a certificate: as in Istio 1.1 and later, and as in 0.2 to 1.0."""

    ISTIOD = "istiod"
    CITADEL = "citadel"


class Metadata(enum.Enum):
    """A cloud whose metadata server says who a machine is."""

    GOOGLE = "google"
    AMAZON = "amazon"


class KeyKind(enum.Enum):
    """The kinds of keys that every reader of Istio's understands."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


# Where istiod serves without TLS (istio/istio security/pkg/nodeagent/caclient: the suffix ":15010"
# of the address decides); no other address is dialled in clear.
PLAIN_PORT = 15010


# Where the secret server of this package listens (istio-hostagent-secrets.socket).
OWN_SECRET_SOCKET = "/run/istio-hostagent/secrets.sock"  # noqa: S105  # a path
# In the state directory: the certificate that somebody else renews, as readers see it, where no
# key names another place.
MOUNTED = "mounted"
# ... and that of an agent whose state is not the host's own.
CERTIFICATE = "certificate"
# The host's own agent has its state here.
STATE_DIRECTORY = "/var/lib/istio-hostagent"


class IdentitySettings(NamedTuple):
    """Who this host is, and where and how it gets a certificate that says so.

    `protocols`: those by which the CA is asked, in this order. `server_names`: for each of them,
    the name that the CA's certificate must carry; other than `ca_host` where that is an address.
    `named_parts`: which of trust domain, namespace and service account somebody has set; the
    others are defaults. `mounted_dir`: where somebody else renews the certificate, and no CA is
    asked; else empty. `secret_source`: the same for the socket of another agent's secret server,
    which speaks SPIFFE's Workload API if `is_workload_api`.
    """

    ca_host: str
    ca_port: int
    server_names: tuple[str, ...]
    trust_domain: str
    namespace: str
    service_account: str
    cluster_id: str
    token_file: str
    root_file: str  # trusted for the CA connection until the CA hands out roots of its own
    output_dir: str
    ttl_s: float
    grace_ratio: float = 0.5  # renew when this part of the life is left
    grace_spread: float = 0.05  # ... or up to this much more or less of it, by chance
    headers: tuple[tuple[str, str], ...] = ()  # further gRPC metadata, names in lower case
    protocols: tuple[CaProtocol, ...] = (CaProtocol.ISTIOD, CaProtocol.CITADEL)
    named_parts: tuple[str, ...] = ()
    token_command: tuple[str, ...] = ()
    metadata: Metadata | None = None
    metadata_host: str = "169.254.169.254"
    provisioned_dir: str = "/etc/certs"
    mounted_dir: str = ""
    secret_source: str = ""
    is_workload_api: bool = False
    key_kind: KeyKind | None = None  # None: as the protocol needs it
    is_pkcs8: bool | None = None  # None: as the readers of the protocol's time need it

    @property
    def renewed_in(self) -> str:
        """The directory or socket of whoever else renews the certificate; else empty."""
        return self.mounted_dir or self.secret_source

    @property
    def renewed_by(self) -> str:
        """Who that is, for people; empty where this agent renews it."""
        if self.secret_source:
            server = "SPIFFE Workload API" if self.is_workload_api else "secret server"
            return f"the {server} at {self.secret_source}"
        return f"whoever writes to {self.mounted_dir}" if self.mounted_dir else ""

    @property
    def server_name(self) -> str:
        """The name that the CA's certificate must carry by the first protocol."""
        return self.server_names[0]

    @property
    def is_plain(self) -> bool:
        """Whether the CA is asked without TLS: tokens go in clear, and no name is verified."""
        return self.ca_port == PLAIN_PORT

    @property
    def has_public_roots(self) -> bool:
        """Whether the CA is recognised by public roots, from which no workload's come."""
        return self.root_file == SYSTEM_ROOTS

    @property
    def spiffe_id(self) -> str:
        """The one URI SAN that our certificate must carry."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


class OutputKind(enum.Enum):
    """What is written for others: three files, one file with key and chain, or PKCS#12."""

    FILES = "files"
    PEM = "pem"
    PKCS12 = "pkcs12"


class Output(NamedTuple):
    """A further place for the certificate: a directory for FILES, else a file.

    `owner` and `group` are numbers in a `Config`; None: the owner's own group. `mode` is that of
    the file that has the key.
    """

    kind: OutputKind
    path: str
    owner: int | str = 0
    group: int | str | None = None
    mode: int = 0o600
    password_file: str = ""


class RenewHook(NamedTuple):
    """What is done after each renewal: a command is run, or units are reloaded."""

    command: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


class Delivery(NamedTuple):
    """Who gets the certificate beside the proxy, and who is told of it."""

    outputs: tuple[Output, ...] = ()
    hook: RenewHook = RenewHook()


class ProxyKind(enum.Enum):
    """Which program carries the captured traffic.

    AUTO means pilot-agent where it is installed, else Envoy.
    """

    AUTO = "auto"
    PILOT_AGENT = "pilot-agent"
    ENVOY = "envoy"


class ControlPlane(enum.Enum):
    """Who tells an Envoy without pilot-agent what to do: istiod, or this host's own keys.

    AUTO means istiod where the files name it.
    """

    AUTO = "auto"
    ISTIOD = "istiod"
    NONE = "none"


class Istiod(NamedTuple):
    """Where an Envoy without pilot-agent finds istiod.

    `server_name`: what the certificate of istiod must carry; other than `host` where that is an
    address.
    """

    host: str
    port: int
    server_name: str


class Mtls(enum.Enum):
    """What the inbound side accepts: mutual TLS only, or plain text as well."""

    PERMISSIVE = "permissive"
    STRICT = "strict"


class ProxySettings(NamedTuple):
    """How the proxy is found, started and looked at."""

    kind: ProxyKind = ProxyKind.AUTO
    envoy: str | None = None  # ISTIO_HOSTAGENT_ENVOY: this binary and no other
    bin_base: str = "/usr/local/bin"
    has_unit: bool = True  # where the service manager has units for it, it runs in one
    secret_socket: str | None = None  # of the server that gives it its secrets; None: files do
    istiod: Istiod | None = None  # who tells an Envoy alone what to do; None: the next two
    mesh: CidrSet = CidrSet()  # destinations reached with mutual TLS (envoy mode)
    mtls: Mtls = Mtls.PERMISSIVE
    direct: Direct = Direct()  # what it listens for where nothing is redirected (envoy mode)
    status_port: int = 15021
    prometheus_port: int = 15090  # where an Envoy that has a control plane serves its metrics
    concurrency: int = 2
    log_level: str = "warning"
    has_access_log: bool = False  # one line for each connection on standard output
    agent_flags: tuple[str, ...] = ()  # further arguments of pilot-agent
    instance_ip: Address | None = None  # ISTIO_SVC_IP; None: what the route to the mesh says
    workload_name: str = ""  # POD_NAME; empty: the host's short name
    discovery_address: str = "istiod.istio-system.svc:15012"  # host:port of the control plane
    discovery_root: str = ""  # XDS_ROOT_CA, a path or SYSTEM; empty: the roots of the certificate
    drain_s: float = 5.0  # on leaving it says for so long that it is not ready
    restart_drain_s: float = 45.0  # one that has handed over to the next; 0: it never does
    service_cluster: str = "rawvm"  # ISTIO_SERVICE: what this host serves, for telemetry
    environment: tuple[
        tuple[str, str], ...
    ] = ()  # every key of the files, for pilot-agent (its start script exports all)


class Config(NamedTuple):
    """Everything the agent needs to know from the files."""

    redirection: Redirection
    identity: IdentitySettings
    proxy: ProxySettings
    delivery: Delivery = Delivery()
    registry: services.Registry = services.Registry()


class ControlGroup(NamedTuple):
    """A control group that is there now: of a unit that is named, or one that is left alone.

    `unit` is as the configuration names it, or empty. `path` begins with `/`, which is the root of
    the tree. `number` is the kernel's: another group, also a later one at the same place, has
    another. `is_captured`: it is of an included unit, and not left alone.
    """

    unit: str
    path: str
    number: int
    is_captured: bool = False

    @property
    def level(self) -> int:
        """How far below the root it is."""
        return self.path.count("/")

    def has(self, path: str) -> bool:
        """Whether a group is this one or lies below it."""
        return f"{path}/".startswith(f"{self.path}/")


class HostFacts(NamedTuple):
    """What was found on the machine; an argument, so that a test gets the same result anywhere."""

    proxy_uid: int
    proxy_gid: int
    ssh_ports: tuple[int, ...] = (22,)  # where sshd listens; 22 where that is unknown
    session_ports: tuple[int, ...] = ()  # at which the session that asks has come in
    addresses: tuple[
        Address, ...
    ] = ()  # own addresses that are neither loopback nor link-local; IPv4 first, by interface
    # the one of them by which the mesh knows this host; None: the first
    primary_address: Address | None = None
    has_ipv6: bool = True  # IPv6 is usable now: ::1 is on `lo`
    knows_ipv6: bool = True  # the kernel has an IPv6 stack, which somebody may switch on or off
    hostname: str = "localhost"  # short name
    users: tuple[tuple[str, int, int], ...] = ()  # name, uid and gid, as in passwd(5)
    groups: tuple[tuple[str, int], ...] = ()  # name and gid, as in group(5)
    name_servers: tuple[Address, ...] = ()  # whom this host asks for names (resolv.conf(5))
    resolver_version: int = 0  # another one: pilot-agent has to read resolv.conf(5) anew
    asks_resolved: bool = False  # programs ask systemd-resolved past the rules (nss-resolve(8))
    control_groups: tuple[ControlGroup, ...] = ()  # as `Units` make a difference, those now there
    own_group: str = ""  # in which this process is; empty where there are no control groups
    # of the secret server that the service manager starts; empty: there is none
    secret_socket: str = ""
    state_dir: str = STATE_DIRECTORY
    runtime_dir: str = "/run/istio-hostagent"
    instance: str = ""  # the name of an agent beside others (ISTIO_HOSTAGENT_INSTANCE)
    has_shared_memory: bool = True  # processes may make some by name (shm_overview(7))
    filtered_bridges: tuple[str, ...] = ()  # which call the packet filter (br_netfilter)


def find_own_unit(facts: HostFacts) -> str:
    """Name the unit that is left alone in which this process itself is, or nothing."""
    groups = (each for each in facts.control_groups if not each.is_captured)
    found = (each.unit or each.path for each in groups if each.has(facts.own_group))
    return next(found, "")


def of_named_proxy(facts: HostFacts, owners: Owners) -> HostFacts:
    """The same facts where the agent runs no proxy, and the files name whose that is.

    Root may be named beside another: not everything of root's is a proxy.
    """
    uid = next(filter(None, owners.proxy_uids), facts.proxy_uid)
    gid = next(filter(None, owners.proxy_gids), facts.proxy_gid)
    return facts._replace(proxy_uid=uid, proxy_gid=gid)


class Trust(NamedTuple):
    """Whether only root can change what a path leads to; if not, `detail` names the weak part.

    `is_proxys`: nobody but root and istio-proxy can.
    """

    is_root_only: bool
    detail: str = ""
    is_proxys: bool = False

    @property
    def level(self) -> int:
        """The higher, the fewer can change it."""
        return 2 if self.is_root_only else int(self.is_proxys)


class Layer(NamedTuple):
    """One environment file as it was read. `data` is None where the file does not exist."""

    file: str
    data: bytes | None
    trust: Trust
