"""What a row of the table is made of: places, addresses, users, packets, configurations.

The world (see world.py) is always the same one:

    guest 10.3.0.2 ── virbr0 ── host ── eth0 10.1.0.2 ──┐
                                 └───── eth1 10.2.0.2 ──┴── outside 10.1.0.1, 10.2.0.1

with fd00:N::x beside each 10.N.0.x. Everything else that has an address here is on the outside's
loopback, and the host reaches it by eth0, except FAR, which is behind eth1.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple


class Place(enum.StrEnum):
    """Where a packet begins, and where an address is."""

    HOST = "host"
    OUTSIDE = "outside"
    GUEST = "guest"


class Pair(NamedTuple):
    """One party of the world by both its addresses."""

    v4: str
    v6: str


# Of the host: on eth0, on eth1, on the bridge to the guest, and on its loopback.
OWN = Pair("10.1.0.2", "fd00:1::2")
OWN_SECOND = Pair("10.2.0.2", "fd00:2::2")
OWN_BRIDGE = Pair("10.3.0.1", "fd00:3::1")
LOCALHOST = Pair("127.0.0.1", "::1")
# Only IPv4 has more than one address of loopback.
LOOPBACK_5, LOOPBACK_9, STUB = "127.0.0.5", "127.0.0.9", "127.0.0.53"
# From here the proxy hands over what it was sent (Istio's inbound passthrough).
PASSTHROUGH = Pair("127.0.0.6", "::6")
OUTSIDE, OUTSIDE_SECOND = Pair("10.1.0.1", "fd00:1::1"), Pair("10.2.0.1", "fd00:2::1")
GUEST = Pair("10.3.0.2", "fd00:3::2")
# Services of the mesh, and a part of it that configurations exclude; what is in no mesh.
MESH, EXCLUDED = Pair("10.96.0.5", "fd00:10::5"), Pair("10.96.1.5", "fd00:10::1:5")
OTHER = Pair("203.0.113.5", "fd00:20::5")
FAR = Pair("172.30.0.5", "fd00:97::5")
METADATA = Pair("169.254.169.254", "fd00:ec2::254")
LINK_LOCAL = Pair("169.254.10.10", "fe80::10")
THIS_NETWORK = "0.0.0.5"
RESOLVER, OTHER_RESOLVER = Pair("172.29.0.53", "fd00:99::53"), Pair("172.29.0.54", "fd00:99::54")
RESOLVER_FAR = Pair("172.30.0.53", "fd00:97::53")

MESH_CIDR = "10.96.0.0/12,fd00:10::/64"
EXCLUDED_CIDR = "10.96.1.0/24,fd00:10::1:0/112"

PLACES: Mapping[Place, tuple[Pair, ...]] = {
    Place.HOST: (OWN, OWN_SECOND, OWN_BRIDGE, LOCALHOST),
    Place.OUTSIDE: (
        OUTSIDE, OUTSIDE_SECOND, MESH, EXCLUDED, OTHER, FAR, METADATA, LINK_LOCAL, RESOLVER,
        OTHER_RESOLVER, RESOLVER_FAR,
    ),
    Place.GUEST: (GUEST,),
}  # fmt: skip


class User(NamedTuple):
    """Who makes a socket. The numbers are those of ACCOUNTS where the name is one there."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


APP = User("app", 61500, 61500)
ROOT = User("root", 0, 0)
PROXY = User("proxy", 61337, 61338)
# The same proxy, told by only one of its numbers.
PROXY_UID, PROXY_GID = User("proxy's uid", 61337, 61500), User("proxy's gid", 61500, 61338)
# A member of the proxy's group, which does not count: its sockets are of its first group.
MEMBER = User("member", 61500, 61500, (61338,))
# Who happens to have the proxy's uid for a group.
SAME_NUMBER = User("gid like uid", 61500, 61337)
DEFAULT_PROXY = User("1337", 1337, 1337)
OTHER_PROXY, SECOND_PROXY = User("envoy", 61340, 61341), User("second envoy", 61342, 61343)
ALPHA, BETA = User("alpha", 61600, 61600), User("beta", 61601, 61601)
ALPHA_MEMBER = User("member of alpha", 61500, 61500, (61600,))
ROOT_GROUP = User("gid 0", 61500, 0)
RESOLVED, DNSMASQ = User("systemd-resolve", 61353, 61353), User("dnsmasq", 61354, 61354)

# What the host has in /etc/passwd and /etc/group, beside the machine's own.
ACCOUNTS = (
    User("istio-proxy", PROXY.uid, PROXY.gid),
    OTHER_PROXY,
    ALPHA,
    BETA,
    RESOLVED,
    DNSMASQ,
)

# Who got a packet. OUTBOUND, INBOUND and DNS: the proxy, on its port for that, and for TCP with
# the destination that was asked for; APPLICATION: the server at that destination.
OUTBOUND, INBOUND, DNS, APPLICATION = "outbound", "inbound", "dns", "application"
# Of a packet that connection tracking calls invalid.
DELIVERED, DROPPED = "delivered", "dropped"

TCP, UDP = "tcp", "udp"
INVALID_TCP, INVALID_ICMP = "invalid tcp", "invalid icmp"


class Packet(NamedTuple):
    """One connect or send, from where and by whom, and who has to get it.

    `source`, `source_port`: what it binds before. `mark`: SO_MARK. `is_transparent`: `source` is
    no address of its own (IP_TRANSPARENT). `scope`: the interface of a link-local `host`. `unit`: the
    unit of the configuration in which its socket is made.
    """

    place: Place
    user: User
    protocol: str
    host: str
    port: int
    expected: str
    source: str = ""
    source_port: int = 0
    scope: str = ""
    mark: int = 0
    is_transparent: bool = False
    unit: str = ""

    def __str__(self) -> str:
        by = self.user.name if self.place is Place.HOST else f"from {self.place}"
        by += f" in {self.unit}" if self.unit else ""
        source = self.source or (f"port {self.source_port}" if self.source_port else "")
        bound = f" as {source}" if source else ""
        separator = " " if ":" in self.host else ":"
        return f"{by}{bound} {self.protocol} {self.host}{separator}{self.port}"


class Configuration(NamedTuple):
    """Keys of the two files, and packets in the order in which they are sent.

    `feature`: what has to work for it, one word. `resolvers`: of /etc/resolv.conf. `proxy`: whose
    listeners there are. `outbound_port`, `inbound_port`: where. `nft`: rules that somebody else has
    put in before. `published`: a port of the host's addresses that those take to port 80 of the
    guest. `has_account`: whether there is a user istio-proxy. `sysctls`: of the host. `units`: of
    systemd, which run in a slice; in keys `<unit>` is what their names, and `<slice>` the path of that,
    begin with. `has_legacy`: whether legacy tables can do it.
    """

    name: str
    feature: str
    keys: Mapping[str, str]
    packets: tuple[Packet, ...]
    resolvers: tuple[str, ...] = (RESOLVER.v4, RESOLVER.v6)
    proxy: User = PROXY
    outbound_port: int = 15001
    inbound_port: int = 15006
    is_tproxy: bool = False
    nft: str = ""
    has_account: bool = True
    sysctls: Mapping[str, str] = {}
    units: tuple[str, ...] = ()
    has_legacy: bool = True
